"""Writes the reference pages: the help of every command, the ports of every process, what the long tests found."""

from __future__ import annotations

import json
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx reads them."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(app: Sphinx) -> None:
    """Write the generated pages, and leave those alone whose content is the same."""
    folder = Path(app.srcdir) / "reference"
    pages = {
        "command-line.md": command_line(),
        "processes.md": processes(),
        "validation.md": validation(Path(app.srcdir) / "validation"),
    }
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def validation(folder: Path) -> str:
    """Return the page on what the tests that take long found, from the files that they write."""
    parts = [
        "# Validation\n",
        "What `make test-long` found, written by the tests themselves; the bound is what a test lets pass.\n",
    ]
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        parts += [f"## {found['title']}\n", f"{found['method']}\n"]
        parts += ["| quantity | value | unit | reference | bound | source |", "|---|---|---|---|---|---|"]
        for line in found["lines"]:
            cells = (line.get(name, "") for name in ("quantity", "value", "unit", "reference", "bound", "source"))
            parts.append("| " + " | ".join(map(str, cells)) + " |")
        versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        parts.append(f"\n`{found['command']}`, {found['minutes']} minutes, with {versions}.\n")
    return "\n".join(parts)


def command_line() -> str:
    """Return the page on the commands."""
    from aiida_mlfinetune.cli import main

    parts = ["# Command line\n", "What `--help` prints, for every command.\n"]

    def visit(command: click.Command, names: list[str], parent: click.Context | None) -> None:
        context = click.Context(command, info_name=names[-1], parent=parent, terminal_width=100, max_content_width=100)
        parts.append(f"{'#' * min(len(names) + 1, 4)} {' '.join(names)}\n")
        parts.append(f"```text\n{command.get_help(context)}\n```\n")
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                if child is not None:
                    visit(child, [*names, name], context)

    visit(main, ["aiida-mlfinetune"], None)
    return "\n".join(parts)


def processes() -> str:
    """Return the page on work chains and calculations."""
    parts = [
        "# Processes\n",
        "Inputs, outputs and exit codes, as the code declares them.",
        "Names with a dot lie in a namespace; those that come from AiiDA itself (`metadata`) are left out.\n",
    ]
    for group, title in (("aiida.workflows", "Work chains"), ("aiida.calculations", "Calculations")):
        parts.append(f"## {title}\n")
        entries = sorted(entry_points(group=group), key=lambda entry: entry.name)
        parts += [process_text(entry.name, entry.load()) for entry in entries if entry.name.startswith("mlfinetune.")]
    return "\n".join(parts)


def process_text(name: str, cls: Any) -> str:
    """Return the section on one process."""
    spec = cls.spec()
    summary = (cls.__doc__ or "").strip().splitlines()[0]
    lines = [f"### {name}\n", f"{summary}\n"]
    for title, namespace in (("input", spec.inputs), ("output", spec.outputs)):
        rows = port_rows(namespace)
        if rows:
            lines += [f"| {title} | type | required | what it is |", "|---|---|---|---|", *rows, ""]
    codes = [
        f"| {code.status} | `{label}` | {escape(code.message or '')} |"
        for label, code in sorted(spec.exit_codes.items(), key=lambda item: item[1].status)
        if code.status >= 200
    ]
    if codes:
        lines += ["| exit code | label | message |", "|---|---|---|", *codes, ""]
    return "\n".join(lines)


def port_rows(namespace: Any, prefix: str = "") -> list[str]:
    """Return table rows for all ports below a namespace."""
    rows = []
    for name, port in sorted(namespace.items()):
        if name == "metadata":
            continue
        full = f"{prefix}{name}"
        if hasattr(port, "items"):
            rows += port_rows(port, f"{full}.")
            continue
        types = port.valid_type if isinstance(port.valid_type, tuple) else (port.valid_type,)
        names = ", ".join(kind.__name__ for kind in types if kind is not None and kind is not type(None))
        required = "yes" if port.required else "no"
        rows.append(f"| `{full}` | {names} | {required} | {escape(port.help or '')} |")
    return rows


def escape(text: str) -> str:
    """Return text that is safe in a cell of a Markdown table."""
    flat = re.sub(r"\s+", " ", text)
    for character in ("\\", "|", "<", ">", "*", "_", "$", "[", "]", "{", "}"):
        flat = flat.replace(character, f"\\{character}")
    parts = flat.split("`")
    # Inside code spans backslashes are shown as they are.
    return "`".join(part if index % 2 == 0 else re.sub(r"\\([^|])", r"\1", part) for index, part in enumerate(parts))
