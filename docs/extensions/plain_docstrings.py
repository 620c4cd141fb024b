# SPDX-License-Identifier: GPL-3.0-or-later
"""Docstrings of this project as reStructuredText.

They are plain text, made to be read in an editor: paragraphs, indented blocks (drawings and code), and lists of
``name   what it is`` with continuation lines that are indented. Sphinx would take them for reStructuredText and complain.
"""

import re

#: A name of such a list, two spaces or more, and what it is. A second name may follow a comma or a slash.
_ENTRY = re.compile(r"(?P<name>[\w.*$«»`<>\"'-]+(?:(?:, | / | and |/)[\w.*$`\"'-]+)*(?: \([^)]*\))?) {2,}(?P<text>\S.*)")

#: What is shown as it is, between single or double backticks.
_LITERAL = re.compile(r"``(?P<double>.+?)``|`(?P<single>[^`]+)`", re.DOTALL)


def inline(text):
    """A piece of prose, with literals and nothing else that reStructuredText would interpret."""
    out, end = [], 0
    for match in _LITERAL.finditer(text):
        out.append(_escape(text[end : match.start()]))
        out.append(f"\\ ``{(match['double'] or match['single']).strip()}``\\ ")
        end = match.end()
    return "".join(out) + _escape(text[end:])


def _escape(text):
    # Two colons at the end of a paragraph would announce a literal block.
    return re.sub(r"([\\*|_`])", r"\\\1", text).replace("::", r":\:")


def to_rst(lines):
    """Lines of a docstring, without their common indentation → lines of reStructuredText."""
    out = []
    for block in _blocks(lines):
        out += [*"\n".join(_block(block)).split("\n"), ""]
    return out


def _blocks(lines):
    """Runs of lines between blank ones. Indented runs that follow each other are one, with their blank lines."""
    runs, run = [], []
    for line in [*lines, ""]:
        if line.strip():
            run.append(line.rstrip())
        elif run:
            runs.append(run)
            run = []
    merged = []
    for run in runs:
        if merged and _indented(run) and _indented(merged[-1]):
            merged[-1] += ["", *run]
        else:
            merged.append(run)
    return merged


def _indented(block):
    return all(line.startswith("  ") for line in block if line)


def _block(block):
    if _indented(block):
        return ["::", "", *(f"    {line}" for line in block)]
    if _ENTRY.match(block[0]):
        return _entries(block)
    # A sentence, then a list or a drawing right below it.
    for index in range(1, len(block)):
        if block[index].startswith("    ") and _indented(block[index:]):
            return [inline(" ".join(block[:index])), "", *_block(block[index:])]
        if not block[index].startswith(" ") and all(_ENTRY.match(line) or line.startswith("  ") for line in block[index:]):
            return [inline(" ".join(block[:index])), "", *_entries(block[index:])]
    return [inline("\n".join(line.strip() for line in block))]


def _entries(block):
    entries = []
    for line in block:
        match = _ENTRY.match(line)
        if match:
            entries.append([match["name"].strip("`"), match["text"]])
        else:
            entries[-1][1] += " " + line.strip()
    out = []
    for name, text in entries:
        out += [f"``{name}``", f"    {inline(text)}", ""]
    return out


def _replace(app, what, name, obj, options, lines):
    lines[:] = to_rst(lines)


def setup(app):
    app.connect("autodoc-process-docstring", _replace)
    return {"parallel_read_safe": True}
