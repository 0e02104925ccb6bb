"""A study: one YAML file that says which crystal, how, and under which conditions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from aiida_mlfinetune.common.errors import StudyError

__all__ = ("Study", "read_study", "refuse_unknown")

CODES = ("cp2k", "python", "i-pi")


@dataclass(frozen=True)
class Study:
    """The content of a study file.

    Attributes:
        crystal: file with the crystal's structure, of any format that ASE reads, or the name of a crystal that comes
            with the package.
        protocol: name of the protocol, None for the default one.
        temperature_K: temperature in K, None for that of the protocol.
        pressure_bar: pressure in bar, None for that of the protocol.
        foundation: name of the foundation model, or pk or uuid of a model node; None for that of the protocol.
        codes: full labels of the codes ``cp2k``, ``python`` and ``i-pi``.
        overrides: what differs from the protocol, by the names of the protocol's inputs.
        label: name of the run in the database.
    """

    crystal: Path | str
    protocol: str | None = None
    temperature_K: float | None = None  # noqa: N815 - the unit is part of the name
    pressure_bar: float | None = None
    foundation: str | None = None
    codes: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def code(self, program: str) -> str:
        """Return the full label of a program's code, by default the one that ``setup`` makes."""
        return self.codes.get(program, f"{program}@localhost")


def read_study(path: Path) -> Study:
    """Read and check a study file; a relative path of the crystal is relative to the file.

    Raises:
        StudyError: not a YAML mapping, an unknown or missing key, a value of the wrong kind, or no such crystal.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise StudyError(f"{path} must hold keys and values, such as `crystal: ice.cif`")
    refuse_unknown(content, [entry.name for entry in fields(Study)], str(path))
    if not isinstance(content.get("crystal"), str):
        raise StudyError(f"{path} names no crystal: add a line such as `crystal: ice.cif`")
    crystal = _crystal(content["crystal"], path)
    codes = _mapping(content, "codes", path)
    refuse_unknown(codes, CODES, f"{path}, codes")
    return Study(
        crystal=crystal,
        protocol=_text(content, "protocol", path),
        temperature_K=_number(content, "temperature_K", path),
        pressure_bar=_number(content, "pressure_bar", path),
        foundation=_text(content, "foundation", path),
        codes={name: str(value) for name, value in codes.items()},
        overrides=_mapping(content, "overrides", path),
        label=_text(content, "label", path) or Path(crystal).stem,
    )


def refuse_unknown(given: Mapping[str, Any], known: list[str] | tuple[str, ...], where: str) -> None:
    """Raise ``StudyError`` if ``given`` holds a key that is not ``known``; the message suggests the nearest one."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
            raise StudyError(f"{where}: unknown key {key!r}; {hint}")


def _crystal(value: str, path: Path) -> Path | str:
    """Return the file with the crystal, or the name of one that comes with the package."""
    from aiida_mlfinetune.science.crystals import CRYSTALS

    file = path.parent / value
    if file.is_file():
        return file
    if value in CRYSTALS:
        return value
    raise StudyError(
        f"{path}: there is no file {file} (a path is relative to the study file), and no crystal {value!r} in the "
        f"package, which has {', '.join(CRYSTALS)}"
    )


def _text(content: Mapping[str, Any], key: str, path: Path) -> str | None:
    value = content.get(key)
    if value is not None and not isinstance(value, str | int):
        raise StudyError(f"{path}: {key} must be a text, got {value!r}")
    return None if value is None else str(value)


def _number(content: Mapping[str, Any], key: str, path: Path) -> float | None:
    value = content.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise StudyError(f"{path}: {key} must be a number, got {value!r}")
    return None if value is None else float(value)


def _mapping(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, Mapping):
        raise StudyError(f"{path}: {key} must hold keys and values, got {value!r}")
    return value
