"""Every command explains itself, at once, and says what to do next."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from aiida_mlfinetune import __version__
from aiida_mlfinetune.cli import COMMANDS, main
from aiida_mlfinetune.common.errors import StudyError


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    children = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
    return [leaf for name, child in children if child is not None for leaf in leaves(child, (*path, name))]


@pytest.mark.parametrize("path", leaves(main), ids=" ".join)
def test_help_says_what_to_do_next(path: tuple[str, ...]):
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    assert "Next:" in result.output
    assert "\b" not in result.output
    assert "\\b" not in result.output


def test_overview_lists_every_command():
    output = CliRunner().invoke(main, ["--help"]).output
    assert all(f"\n  {name}" in output for name in COMMANDS)
    assert "\\b" not in output


def test_version():
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


def test_unknown_command_is_refused():
    assert CliRunner().invoke(main, ["sublime"]).exit_code == 2


def test_help_does_not_import_aiida():
    code = "import sys; from aiida_mlfinetune.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    check = "assert not [m for m in sys.modules if m.split('.')[0] in ('aiida', 'torch', 'ase')], 'slow import'"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_mistake_ends_in_its_message_alone(monkeypatch):
    @click.command()
    def broken() -> None:
        raise StudyError("the crystal is cut: give whole molecules")

    monkeypatch.setattr(main, "get_command", lambda *_: broken)
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == 1
    assert result.output == "Error: the crystal is cut: give whole molecules\n"
