# SPDX-License-Identifier: GPL-3.0-or-later
"""A page for each block, from its description for the companion (grc/*.block.yml) and its class.

The pages are written to docs/blocks/ when a build begins. Classes are read, not imported: the site is built without GNU Radio.
"""

import ast
import inspect
import re
from pathlib import Path

import yaml
from sphinx.errors import ExtensionError
from sphinx.util import logging

from plain_docstrings import inline, to_rst

logger = logging.getLogger(__name__)

#: What GRC calls the types of parameters, in words.
TYPES = {
    "raw": "Python expression",
    "string": "text",
    "real": "number",
    "int": "whole number",
    "bool": "yes or no",
    "enum": "choice",
    "file_open": "file",
    "file_save": "file",
    "dir_select": "folder",
    "gui_hint": "GUI hint",
}


def write_pages(grc, python, include, out):
    """Writes a page a block and their index into the folder ``out``; removes pages of blocks that are gone."""
    blocks = sorted(map(_read, grc.glob("*.block.yml")), key=lambda block: block["label"])
    if not blocks:
        raise ExtensionError(f"{grc} has no block descriptions")
    out.mkdir(exist_ok=True)
    pages = {out / "index.md": _index(blocks)}
    pages |= {out / f"{name_of(block)}.rst": _page(block, python, include) for block in blocks}
    for path, text in pages.items():
        # Sphinx reads again what is newer than the last build.
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in out.iterdir():
        if path not in pages:
            path.unlink()


def _read(path):
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ExtensionError(f"{path}: {error}") from None


def name_of(block):
    """jscc_source, for the block with the id diffjscc_jscc_source."""
    return block["id"].removeprefix("diffjscc_")


def _category(block):
    """The last part of [DiffJSCC]/Codec."""
    return block.get("category", "").rpartition("]/")[2] if "]/" in block.get("category", "") else ""


def _index(blocks):
    rows = [
        "# Blocks",
        "",
        "Each page is made from the description that gnuradio-companion shows. In Python the blocks are in"
        " `from gnuradio import diffjscc`.",
        "",
        "| block | in Python | what it does |",
        "|---|---|---|",
    ]
    for category in sorted({_category(block) for block in blocks}):
        if category:
            rows.append(f"| **{category}** | | |")
        for block in blocks:
            if _category(block) == category:
                rows.append(f"| [{block['label']}]({name_of(block)}.rst) | `{name_of(block)}` | {_summary(block)} |")
    names = "\n".join(name_of(block) for block in blocks)
    return "\n".join(rows) + f"\n\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"


def _summary(block):
    """The first sentence of the documentation."""
    words = " ".join(block.get("documentation", "").strip().split("\n\n")[0].split())
    return re.split(r"(?<=\w)[.;] ", words + " ")[0].rstrip(". ").replace("|", r"\|")


def _page(block, python, include):
    name, title = name_of(block), block["label"]
    lines = [title, "=" * len(title), ""]
    lines += _documentation(block)
    lines += _ports(block)
    lines += _parameters(block)
    source = python / f"{name}.py"
    header = include / f"{name}.h"
    if source.is_file():
        lines += _python_class(source, name)
    elif header.is_file():
        lines += _cpp_class(header, name)
    else:
        raise ExtensionError(f"block {name}: neither {source} nor {header} is there")
    return "\n".join(lines).rstrip() + "\n"


def _documentation(block):
    """Paragraphs, with each line that begins with the label of a parameter or port as a paragraph of its own."""
    labels = {parameter["label"] for parameter in block.get("parameters", [])}
    labels |= {re.sub(r" \(.*\)$", "", label) for label in labels}
    labels |= {str(port.get("label", port.get("id", ""))) for port in block.get("inputs", []) + block.get("outputs", [])}
    labels |= {"Input", "Output", "Inputs", "Outputs", "Message port", "Message ports", "Originals"}
    folded = {label.casefold() for label in labels if label}
    lines = []
    for line in block.get("documentation", "").strip().splitlines():
        head, colon, _ = line.partition(":")
        if colon and all(part.strip().casefold() in folded for part in re.split(r",| and ", head)):
            lines += ["", f"**{inline(head)}:**{inline(line[len(head) + 1 :])}"]
        elif line.startswith("    "):
            lines += [line]
        else:
            lines.append(inline(line))
    return [*lines, ""]


def _table(head, rows):
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        for index, cell in enumerate(row):
            lines.append(f"   {'*' if index == 0 else ' '} - {cell}")
    return [*lines, ""]


def _literal(value):
    return f"``{value}``" if str(value).strip() else "empty"


def _ports(block):
    rows = []
    for direction in ("inputs", "outputs"):
        for port in block.get(direction, []):
            message = port.get("domain") == "message"
            label = port.get("label") or port.get("id") or ("in" if direction == "inputs" else "out")
            what = "messages" if message else f"stream of {port.get('dtype', '')}"
            if port.get("vlen", 1) not in (1, "1"):
                what += f", vectors of {inline(str(port['vlen']))}"
            rows.append((direction[:-1], f"``{label}``", what, "yes" if port.get("optional") else ""))
    if not rows:
        return []
    return ["Ports", "-----", "", *_table(("", "name", "carries", "optional"), rows)]


def _parameters(block):
    rows = []
    for parameter in block.get("parameters", []):
        default = str(parameter.get("default", ""))
        kind = TYPES.get(parameter.get("dtype", "raw"), parameter.get("dtype", ""))
        options, labels = parameter.get("options", []), parameter.get("option_labels", [])
        choices = [
            _literal(option) + (f" ({inline(str(label))})" if str(label) != str(option) else "")
            for option, label in zip(options, labels or options)
        ]
        what = kind + (f": {', '.join(choices)}" if choices else "")
        default = _literal(default) if default.strip("'\" ") else ""
        rows.append((inline(parameter["label"]), f"``{parameter['id']}``", what, default))
    if not rows:
        return []
    return ["Parameters", "----------", "", *_table(("in the companion", "name", "kind", "default"), rows)]


def _python_class(source, name):
    """Signature, docstring and public methods of the class in a Python file."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    if not found:
        raise ExtensionError(f"{source} has no class {name}")
    (cls,) = found
    methods = [node for node in cls.body if isinstance(node, ast.FunctionDef)]
    init = next((node for node in methods if node.name == "__init__"), None)
    lines = ["In Python", "---------", "", *_object("class", f"gnuradio.diffjscc.{name}{_signature(init)}", cls)]
    for node in methods:
        if not node.name.startswith("_") and ast.get_docstring(node) and node.name not in ("work", "start", "stop", "general_work"):
            lines += _object("method", f"{node.name}{_signature(node)}", node, "   ")
    return lines


def _signature(node):
    if node is None:
        return "()"
    arguments = ast.unparse(node.args).split(", ", 1)
    return f"({arguments[1] if len(arguments) > 1 else ''})"


def _object(kind, signature, node, indent=""):
    body = to_rst(inspect.cleandoc(ast.get_docstring(node) or "").splitlines())
    lines = [f".. py:{kind}:: {signature}", *(["   :no-index-entry:"] if kind == "method" else []), ""]
    lines += [f"   {line}" if line else "" for line in body]
    return [f"{indent}{line}" if line else "" for line in [*lines, ""]]


def _cpp_class(header, name):
    """Signature and comment of the class in a C++ header, as it is called from Python."""
    text = header.read_text(encoding="utf-8")
    comments = {}
    for match in re.finditer(r"/\*!(?P<comment>.*?)\*/\s*(?P<code>[^;{]+)", text, re.DOTALL):
        comment = inspect.cleandoc(re.sub(r"^ *\* ?", "", match["comment"].strip(), flags=re.MULTILINE))
        comments[" ".join(match["code"].split())] = comment
    of_class = next(comment for code, comment in comments.items() if code.startswith("class"))
    make, parameters = next((code, comment) for code, comment in comments.items() if " make(" in code)
    arguments = [
        re.sub(r"^.*?(\w+)( = .*)?$", r"\1\2", argument.strip())
        for argument in make[make.index("(") + 1 : make.rindex(")")].split(",")
    ]
    lines = [line for line in of_class.splitlines() if not line.startswith("\\ingroup")]
    lines = [line.replace("\\brief ", "") for line in lines]
    lines += ["", *(line.removeprefix("\\param ") for line in parameters.splitlines() if line.strip())]
    body = to_rst(lines)
    signature = f"gnuradio.diffjscc.{name}({', '.join(arguments)})"
    return ["In Python", "---------", "", f".. py:class:: {signature}", "", *(f"   {line}" if line else "" for line in body)]


def _write(app):
    root = Path(app.srcdir).resolve().parent
    write_pages(root / "grc", root / "python" / "diffjscc", root / "include" / "gnuradio" / "diffjscc", Path(app.srcdir) / "blocks")


def setup(app):
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}
