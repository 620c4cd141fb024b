#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes what --help says of diffjscc, diffjscc-tx and diffjscc-rx as man pages and as pages of the documentation site.

    PYTHONPATH=build/test_modules .venv/bin/python tools/command_pages.py

writes docs/man/NAME.1 and docs/commands/NAME.md; `make man` does the same. They are in the repository because neither the
installation nor the site can run the commands: one has no torch, the other no GNU Radio.
"""

import argparse
import importlib.machinery
import importlib.util
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from diffjscc import __version__, cli

ROOT = Path(__file__).resolve().parents[1]

#: Longest line of a man page's source, characters.
WIDTH = 120

#: Longest line of a usage on the site, characters.
USAGE_WIDTH = 84


@dataclass
class Command:
    """A command or subcommand: what its --help says, in parts.

    usage    one line
    groups   title → rows of (how the option is written, what it does)
    """

    name: str
    summary: str
    text: str
    usage: str
    groups: dict[str, list[tuple[str, str]]]
    epilog: str = ""
    subcommands: list["Command"] = field(default_factory=list)


def read(parser: argparse.ArgumentParser, summary: str = "") -> Command:
    """What a parser and its subparsers say."""
    formatter = argparse.HelpFormatter(parser.prog, width=10_000)
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    text = " ".join((parser.description or summary or "").split())
    command = Command(parser.prog, summary or text, text, usage, {}, " ".join((parser.epilog or "").split()))
    for group in parser._action_groups:
        rows = []
        for action in group._group_actions:
            if action.help == argparse.SUPPRESS:
                continue
            if isinstance(action, argparse._SubParsersAction):
                helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
                command.subcommands = [read(sub, helps.get(name, "")) for name, sub in action.choices.items()]
                continue
            names = formatter._format_action_invocation(action)
            rows.append((names, " ".join(formatter._expand_help(action).split()) if action.help else ""))
        if rows:
            command.groups[group.title or "options"] = rows
    return command


def man_page(command: Command) -> str:
    """The page in the language of man(7)."""
    lines = [
        '.\\" SPDX-License-Identifier: GPL-3.0-or-later',
        '.\\" Written by tools/command_pages.py.',
        f'.TH {command.name.upper()} 1 "" "gr-diffjscc {__version__}" "User Commands"',
        ".SH NAME",
        _roff(f"{command.name} - {_first_lower(command.summary).rstrip('.')}"),
        ".SH SYNOPSIS",
        *_synopsis(command),
        ".SH DESCRIPTION",
        *_paragraph(command.text),
        *_options(command, ".SH"),
    ]
    for sub in _all_subcommands(command):
        lines += [f'.SH "{sub.name.upper()}"', *_paragraph(sub.text), ".PP", *_synopsis(sub), *_options(sub, ".SS")]
        if sub.epilog:
            lines += [".SS examples", *_example_lines(sub)]
    if command.epilog:
        lines += [".SH EXAMPLES", *_example_lines(command)]
    others = [name for name in ("diffjscc", "diffjscc-rx", "diffjscc-tx") if name != command.name]
    lines += [".SH SEE ALSO", *(f".BR {_roff(name)} (1){',' if name != others[-1] else ''}" for name in others)]
    return "\n".join(lines) + "\n"


def _all_subcommands(command):
    for sub in command.subcommands:
        yield sub
        yield from _all_subcommands(sub)


def _options(command, heading):
    lines = []
    for title, rows in command.groups.items():
        lines.append(f'{heading} "{title.upper() if heading == ".SH" else title}"')
        for names, text in rows:
            lines += [".TP", f".B {_roff(names)}", *_paragraph(text or "(no description)")]
    return lines


def _synopsis(command):
    _, _, rest = command.usage.partition(command.name)
    return [f".B {_roff(command.name)}", *_paragraph(rest.strip() or " ")]


def _paragraph(text):
    """Lines of at most WIDTH characters; one that begins with a dot or a quote would be an instruction."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
    return [_roff(text) for text in [*lines, line]]


def _roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return f"\\&{text}" if text[:1] in (".", "\\") and not text.startswith("\\-") else text


def _example_lines(command):
    return [line for example in _examples(command) for line in (".PP", *_paragraph(example))]


def _first_lower(text):
    return text[:1].lower() + text[1:]


def site_page(command: Command) -> str:
    """The page of the documentation site, Markdown."""
    lines = [f"# {command.name}", "", *_site_command(command)]
    for sub in _all_subcommands(command):
        lines += [f"## {sub.name}", "", *_site_command(sub)]
    return "\n".join(lines).rstrip() + "\n"


def _site_command(command):
    lines = [_markdown(command.text), "", "```text", *_wrapped_usage(command.usage), "```", ""] if command.text else []
    for title, rows in command.groups.items():
        lines += [f"| {title} | |", "|---|---|"]
        lines += [f"| `{names.replace('|', chr(92) + '|')}` | {_markdown(text)} |" for names, text in rows] + [""]
    return lines + (["```sh", *_examples(command), "```", ""] if command.epilog else [])


def _examples(command):
    """The commands of an epilog such as "example: one; another"."""
    return command.epilog.removeprefix("example: ").split("; ")


def _wrapped_usage(usage):
    lines, line = [], ""
    for part in re.findall(r"\[[^\]]*\](?: \.\.\.)?\]?|\S+", usage):
        if line and len(line) + 1 + len(part) > USAGE_WIDTH:
            lines.append(line)
            line = "   "
        line = f"{line} {part}" if line else part
    return [*lines, line]


def _markdown(text):
    return re.sub(r"([|*<>_])", r"\\\1", text) if "`" not in text else text.replace("|", r"\|")


def parsers():
    """The parsers of the three commands."""
    yield cli.make_parser()
    for name in ("diffjscc-rx", "diffjscc-tx"):
        loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(ROOT / "apps" / name))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
        sys.dont_write_bytecode = True
        loader.exec_module(module)
        yield module.make_parser()


def pages():
    """Path in the repository → content, of all pages."""
    for parser in parsers():
        command = read(parser)
        yield Path("docs/man") / f"{command.name}.1", man_page(command)
        yield Path("docs/commands") / f"{command.name}.md", site_page(command)


def main():
    for path, text in pages():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
