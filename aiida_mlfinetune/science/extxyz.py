"""Frames to and from extended XYZ, at full precision, in ASE's keys, MACE's keys, or this package's own.

Three styles of keys, all of them readable by ``ase.io.read``:

- ``ase``: ``energy``, ``free_energy``, ``forces``, ``stress``; one level.
- ``mace``: ``REF_energy``, ``REF_forces``, ``REF_stress``, and ``head``; one level.
- ``full``: ``<name>_energy``, ``<name>_forces``, ``<name>_stress`` for every level, where ``<name>`` is the level's
  key with all but letters and digits turned into ``_``.

In all styles the entry ``step`` holds the step of the run and ``source`` the process that made the frame, and the
first frame holds the metadata of each level as JSON: ``level`` for the styles with one level, ``<name>_level`` for
``full``. A stress is written as nine numbers; six (Voigt order xx yy zz yz xz xy) are read too. Units are eV,
angstrom, eV/angstrom and eV/angstrom^3, with ASE's sign of the stress.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import IO

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from aiida_mlfinetune.common.enums import EnergyKind
from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.science.frames import Frames
from aiida_mlfinetune.science.levels import Labels

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class KeyStyle(str, Enum):
    """Names under which labels stand in a file."""

    ASE = "ase"
    MACE = "mace"
    FULL = "full"


def write_mace_extxyz(path: Path, frames: Frames, level: str, head: str | None = None) -> None:
    """Write frames and their labels at ``level`` for a training job: labels only where present, no metadata.

    Raises:
        LabelsError: the frames hold no such level.
    """
    labels = frames.labels(level)
    with path.open("w", encoding="utf-8") as handle:
        for index in range(len(frames)):
            info = _frame_info(labels, index, {"energy": "REF_energy", "stress": "REF_stress"})
            if head is not None:
                info["head"] = head if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", head) else _json(head)
            _write_frame(handle, frames, index, info, {"REF_forces": labels} if labels.has_forces[index] else {})


def write_extxyz(path: Path, frames: Frames, style: KeyStyle = KeyStyle.FULL, level: str | None = None) -> None:
    """Write frames with steps, sources, and labels of all levels (``full``) or of ``level`` (``ase``, ``mace``).

    Raises:
        LabelsError: ``level`` is unknown, or several levels are there and a style with one level does not say which.
    """
    style = KeyStyle(style)
    chosen = _chosen_levels(frames, style, level)
    with path.open("w", encoding="utf-8") as handle:
        for index in range(len(frames)):
            info: dict[str, str] = {}
            columns: dict[str, Labels] = {}
            for prefix, labels in chosen.items():
                names = _names(style, prefix, labels.level.energy)
                info.update(_frame_info(labels, index, names))
                if labels.has_forces[index]:
                    columns[names["forces"]] = labels
                if index == 0:
                    info[names["level"]] = _json(labels.level.to_dict())
            if frames.steps[index] >= 0:
                info["step"] = str(frames.steps[index])
            if source := frames.sources[frames.source_index[index]]:
                info["source"] = source if UUID.fullmatch(source) else _json(source)
            _write_frame(handle, frames, index, info, columns)


def level_prefixes(keys: list[str]) -> dict[str, str]:
    """Return the prefix of each level's names in the style ``full``; equal prefixes get a number."""
    prefixes: dict[str, str] = {}
    for key in sorted(keys):
        base = re.sub(r"[^A-Za-z0-9]+", "_", key).strip("_") or "level"
        base = f"level_{base}" if base[0].isdigit() else base
        prefix, number = base, 2
        while prefix in prefixes.values():
            prefix, number = f"{base}_{number}", number + 1
        prefixes[key] = prefix
    return prefixes


def _chosen_levels(frames: Frames, style: KeyStyle, level: str | None) -> dict[str, Labels]:
    """Return labels by prefix."""
    if style is KeyStyle.FULL:
        keys = sorted(frames.labels_by_level) if level is None else [level]
        return {prefix: frames.labels(key) for key, prefix in level_prefixes(keys).items()}
    if level is None and len(frames.labels_by_level) > 1:
        raise LabelsError(
            f"the frames hold the levels {sorted(frames.labels_by_level)}, but a file in the style {style.value!r} "
            "holds one: say which, or use the style 'full'"
        )
    keys = list(frames.labels_by_level) if level is None else [level]
    return {"": frames.labels(key) for key in keys}


def _names(style: KeyStyle, prefix: str, kind: EnergyKind) -> dict[str, str]:
    """Return the names of energy, forces, stress and metadata in a file."""
    if style is KeyStyle.FULL:
        return {kind: f"{prefix}_{kind}" for kind in ("energy", "forces", "stress", "level")}
    if style is KeyStyle.MACE:
        return {"energy": "REF_energy", "forces": "REF_forces", "stress": "REF_stress", "level": "level"}
    names = {"energy": "energy", "forces": "forces", "stress": "stress", "level": "level"}
    return names | ({"free_energy": "free_energy"} if kind is EnergyKind.FREE else {})


def _frame_info(labels: Labels, index: int, names: Mapping[str, str]) -> dict[str, str]:
    """Return the comment's entries for energy and stress."""
    info = {}
    if labels.has_energy[index]:
        info[names["energy"]] = repr(float(labels.energy[index]))
        if "free_energy" in names:
            info[names["free_energy"]] = info[names["energy"]]
    if labels.has_stress[index]:
        info[names["stress"]] = _numbers(labels.stress[index].T)  # Fortran order, as ASE reads it
    return info


def _numbers(values: NDArray[np.float64]) -> str:
    return '"' + " ".join(map(repr, values.ravel().tolist())) + '"'


def _json(value: object) -> str:
    """Return a quoted entry that ASE parses as JSON, whatever characters it holds."""
    text = "_JSON " + json.dumps(value, sort_keys=True)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write_frame(
    handle: IO[str], frames: Frames, index: int, info: Mapping[str, str], columns: Mapping[str, Labels]
) -> None:
    own = frames.slice(index)
    comment = [f"Lattice={_numbers(frames.cells[index])}"] if frames.cells[index].any() else []
    comment.append(":".join(["Properties=species:S:1:pos:R:3", *(f"{name}:R:3" for name in columns)]))
    comment.extend(f"{name}={value}" for name, value in info.items())
    comment.append('pbc="' + " ".join("T" if periodic else "F" for periodic in frames.pbc[index]) + '"')
    numbers = frames.numbers[own].tolist()
    values = np.hstack([frames.positions[own], *(labels.forces[own] for labels in columns.values())]).tolist()
    line = "%-2s" + " %r" * (3 + 3 * len(columns))
    handle.write(f"{len(numbers)}\n{' '.join(comment)}\n")
    handle.writelines(
        line % (chemical_symbols[z], *row) + "\n" for z, row in zip(numbers, values, strict=True)
    )
