"""A study of one crystal: one YAML file that says which one, how, and under which conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiida_mlfinetune.cli.study_file import (
    mapping_of,
    number_of,
    read_yaml,
    refuse_unknown,
    relative_crystal,
    text_of,
)
from aiida_mlfinetune.common.errors import StudyError

if TYPE_CHECKING:
    from aiida_mlfinetune.cli.polymorphs import PolymorphStudy

__all__ = ("Study", "read_study")

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
        sampling_model: the same of the model whose dynamics the frames are taken from; None for those of CP2K, unless
            the protocol says otherwise.
        codes: full labels of the codes ``cp2k``, ``python`` and ``i-pi``.
        overrides: what differs from the protocol, by the names of the protocol's inputs.
        label: name of the run in the database.
    """

    crystal: Path | str
    protocol: str | None = None
    temperature_K: float | None = None  # noqa: N815 - the unit is part of the name
    pressure_bar: float | None = None
    foundation: str | None = None
    sampling_model: str | None = None
    codes: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def code(self, program: str) -> str:
        """Return the full label of a program's code, by default the one that ``setup`` makes."""
        return self.codes.get(program, f"{program}@localhost")


def read_study(path: Path) -> Study | PolymorphStudy:
    """Read and check a study file: of one ``crystal``, or of several ``crystals``; paths are relative to the file.

    Raises:
        StudyError: not a YAML mapping, an unknown, missing or repeated key, a value of the wrong kind, no such crystal.
    """
    content = read_yaml(path)
    if "crystals" in content:
        from aiida_mlfinetune.cli.polymorphs import read_polymorphs

        return read_polymorphs(content, path)
    refuse_unknown(content, [*(entry.name for entry in fields(Study)), "crystals"], str(path))
    if not isinstance(content.get("crystal"), str):
        raise StudyError(f"{path} names no crystal: add a line such as `crystal: ice.cif`, or a list of `crystals`")
    crystal = relative_crystal(content["crystal"], path)
    codes = mapping_of(content, "codes", path)
    refuse_unknown(codes, CODES, f"{path}, codes")
    return Study(
        crystal=crystal,
        protocol=text_of(content, "protocol", path),
        temperature_K=number_of(content, "temperature_K", path),
        pressure_bar=number_of(content, "pressure_bar", path),
        foundation=text_of(content, "foundation", path),
        sampling_model=text_of(content, "sampling_model", path),
        codes={name: str(value) for name, value in codes.items()},
        overrides=mapping_of(content, "overrides", path),
        label=text_of(content, "label", path) or Path(crystal).stem,
    )
