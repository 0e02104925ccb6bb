"""Code in the documentation is valid: Python compiles, studies are read, commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from aiida_mlfinetune.cli import main
from aiida_mlfinetune.cli.learning_curve import read_settings
from aiida_mlfinetune.cli.polymorphs import PolymorphStudy, link_name
from aiida_mlfinetune.cli.study import read_study

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        if "_build" in page.parts:
            continue
        text = page.read_text(encoding="utf-8")
        matches = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
        found += [(f"{page.name}-{number}", match) for number, match in enumerate(matches)]
    assert found
    return found


def named(language: str):
    found = blocks(language)
    return pytest.mark.parametrize("text", [text for _, text in found], ids=[name for name, _ in found])


@named("python")
def test_python_compiles(text: str):
    compile(text, "documentation", "exec")


@named("yaml")
def test_studies_are_read(text: str, tmp_path: Path):
    content = yaml.safe_load(text)
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    if "crystals" in content:
        for value in content["crystals"].values():
            if Path(str(value)).suffix:
                (tmp_path / value).touch()
        study = read_study(path)
        assert isinstance(study, PolymorphStudy)
        assert list(study.crystals) == [link_name(name) for name in content["crystals"]]
        return
    if "crystal" not in content:
        assert read_settings(path) == content
        return
    (tmp_path / content["crystal"]).touch()
    study = read_study(path)
    assert study.crystal.name == content["crystal"]


@named("console")
def test_our_commands_and_options_exist(text: str):
    for line in text.splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:1] != ["aiida-mlfinetune"]:
            continue
        command: click.Command = main
        context = click.Context(main)
        rest = words[1:]
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            found = command.get_command(context, rest.pop(0))
            assert found is not None, line
            command = found
        known = {option for parameter in command.get_params(context) for option in parameter.opts}
        unknown = {word for word in rest if word.startswith("-")} - known - {"--help"}
        assert not unknown, line


def test_makefile_targets_named_in_the_documentation_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z-]+)`", page.read_text(encoding="utf-8")):
            assert target in targets, f"{page.name}: make {target}"
