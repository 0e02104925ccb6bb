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

Forces are derivatives of the free energy. Where a file holds both ``energy`` and ``free_energy``, a level whose
``EnergyKind`` is ``FREE`` reads ``free_energy``, and one whose kind is ``SIGMA0`` reads ``energy``.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import IO, Any

import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.io.extxyz import key_val_str_to_dict
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from aiida_mlfinetune.common.enums import EnergyKind
from aiida_mlfinetune.common.errors import FramesError, LabelsError, MlFinetuneError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray, Labels, Level

ASE_STRESS = "mlfinetune_stress"
"""Where the entry ``stress`` is kept while reading: ASE's own parser refuses six numbers."""
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
    chosen = _chosen_levels(frames, style, level)  # before the file is touched
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


def read_extxyz(path: Path, level: Level | None = None, style: KeyStyle | None = None) -> Frames:
    """Read frames with steps, sources and labels.

    Args:
        path: a file in extended XYZ.
        level: what the labels are, where the file does not say it.
        style: which names to read, where the file holds labels under several.

    Raises:
        FramesError: the file cannot be parsed, or holds no frame.
        LabelsError: labels whose level is not declared, that are not finite (naming the frame), or of several styles.

    Warns:
        UserWarning: names what else the file holds, which is not read.
    """
    try:
        images: list[Atoms] = ase.io.read(path, index=":", format="extxyz", properties_parser=_parse_comment)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise FramesError(f"{path} cannot be read as extended XYZ: {error}") from error
    if not images:
        raise FramesError(f"{path} holds no frames")
    entries = [_entries(image) for image in images]
    frames = _geometry(images, entries)
    try:
        for prefix, own in _declared_levels(entries, level, style).items():
            names = _names(KeyStyle.FULL if prefix else _found_style(entries, style), prefix, own.energy)
            frames = frames.with_labels(_read_labels(entries, names, own, frames))
    except MlFinetuneError as error:
        raise type(error)(f"{path}: {error}") from None
    unread = sorted({name for entry in entries for name in entry})
    if unread:
        warnings.warn(f"{path}: not read: {', '.join(unread)}", UserWarning, stacklevel=2)
    return frames


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
    key = next(iter(frames.labels_by_level), None) if level is None else level
    return {} if key is None else {"": frames.labels(key)}


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
    handle.writelines(line % (chemical_symbols[z], *row) + "\n" for z, row in zip(numbers, values, strict=True))


def _parse_comment(line: str) -> dict[str, Any]:
    """Parse as ASE does, but let a stress have six numbers."""
    parsed: dict[str, Any] = key_val_str_to_dict(re.sub(r"(^|\s)stress\s*=", rf"\1{ASE_STRESS}=", line))
    return parsed


def _entries(image: Atoms) -> dict[str, Any]:
    """Return all that a frame holds besides its geometry, by the names in the file."""
    entries: dict[str, Any] = dict(image.info)
    entries.update({name: array for name, array in image.arrays.items() if name not in {"numbers", "positions"}})
    if image.calc is not None:
        entries.update({name: value for name, value in image.calc.results.items() if value is not None})
    if ASE_STRESS in entries:
        entries["stress"] = entries.pop(ASE_STRESS)
    return entries


def _geometry(images: list[Atoms], entries: Sequence[dict[str, Any]]) -> Frames:
    """Return the frames with steps and sources, which are removed from the entries."""
    steps = [int(entry.pop("step")) if isinstance(entry.get("step"), (int, np.integer)) else -1 for entry in entries]
    names = [str(entry.pop("source", "")) for entry in entries]
    sources = tuple(dict.fromkeys(names))
    index = np.array([sources.index(name) for name in names], dtype=np.int64)
    return replace(Frames.from_atoms(images, steps=steps), sources=sources, source_index=index)


def _styles(entries: Sequence[Mapping[str, Any]]) -> list[KeyStyle]:
    """Return the styles of names that labels are found under."""
    names = set().union(*entries)
    found = []
    if names & {"energy", "free_energy", "forces", "stress"}:
        found.append(KeyStyle.ASE)
    if names & {"REF_energy", "REF_forces", "REF_stress"}:
        found.append(KeyStyle.MACE)
    if any(name.endswith("_level") and isinstance(entry[name], dict) for entry in entries for name in entry):
        found.append(KeyStyle.FULL)
    return found


def _found_style(entries: Sequence[Mapping[str, Any]], style: KeyStyle | None) -> KeyStyle:
    return _styles(entries)[0] if style is None else KeyStyle(style)


def _declared_levels(
    entries: Sequence[dict[str, Any]], level: Level | None, style: KeyStyle | None
) -> dict[str, Level]:
    """Return the levels by prefix (empty for the styles with one level); metadata are removed from the entries."""
    found = _styles(entries)
    if style is not None and KeyStyle(style) not in found:
        raise LabelsError(f"there are no labels in the style {KeyStyle(style).value!r}: {_listed(found)}")
    if style is None and len(found) > 1:
        raise LabelsError(f"labels stand under names of several styles ({_listed(found)}): say which style to read")
    if not found:
        if level is not None:
            raise LabelsError(f"level {level.key!r} is declared, but there are no labels: leave the level out")
        return {}
    if _found_style(entries, style) is KeyStyle.FULL:
        levels: dict[str, Level] = {}
        for entry in entries:
            for name in [name for name in entry if name.endswith("_level") and isinstance(entry[name], dict)]:
                levels.setdefault(name.removesuffix("_level"), Level.from_dict(entry.pop(name)))
        if level is not None:
            keys = [own.key for own in levels.values()]
            raise LabelsError(f"level {level.key!r} is declared, but the file declares {keys}: leave the level out")
        return levels
    stated = [Level.from_dict(entry.pop("level")) for entry in entries if isinstance(entry.get("level"), dict)]
    declared = [*([level] if level is not None else []), *stated]
    if not declared:
        raise LabelsError(
            "labels whose level is not declared: say at which level of theory they were computed, with a key such as "
            "'pbe-d3/vasp' (--level on the command line)"
        )
    if any(other != declared[0] for other in declared):
        raise LabelsError(
            f"the levels declared differ: {[other.to_dict() for other in declared]}; leave out what the file states"
        )
    return {"": declared[0]}


def _listed(styles: Sequence[KeyStyle]) -> str:
    return ", ".join(style.value for style in styles) or "no labels at all"


def _read_labels(entries: Sequence[dict[str, Any]], names: Mapping[str, str], level: Level, frames: Frames) -> Labels:
    """Return labels; what was read is removed from the entries."""
    n = len(frames)
    energy, stress = np.full(n, np.nan), np.full((n, 3, 3), np.nan)
    forces = np.full((len(frames.numbers), 3), np.nan)
    for index, entry in enumerate(entries):
        wanted = {kind: name for kind, name in names.items() if kind != "level" and name in entry}
        read = {kind: _finite(entry.pop(name), index, name) for kind, name in wanted.items()}
        if names["energy"] == "energy" and level.energy is EnergyKind.SIGMA0:
            if "free_energy" in entry and "energy" not in read:
                raise LabelsError(
                    f"frame {index}: level {level.key!r} wants the energy extrapolated to zero smearing, but there is "
                    "only 'free_energy'"
                )
            entry.pop("free_energy", None)
        for kind in ("energy", "free_energy"):  # the latter wins where it is wanted
            if kind in read:
                energy[index] = _shaped(read[kind], (), index, names[kind])
        if "forces" in read:
            own = frames.slice(index)
            forces[own] = _shaped(read["forces"], (own.stop - own.start, 3), index, names["forces"])
        if "stress" in read:
            stress[index] = _shaped(_full_stress(read["stress"]), (3, 3), index, names["stress"])
    return Labels.build(level, frames.offsets, energy, forces, stress)


def _finite(value: object, index: int, name: str) -> FloatArray:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise LabelsError(f"frame {index}: {name} is {value!r}, which is no number") from None
    if not np.isfinite(numbers).all():
        what = "NaN" if np.isnan(numbers).any() else "infinite"
        raise LabelsError(f"frame {index}: {name} is {what}: leave a label out where it is missing")
    return numbers


def _shaped(value: FloatArray, shape: tuple[int, ...], index: int, name: str) -> FloatArray:
    if value.shape != shape:
        raise LabelsError(f"frame {index}: {name} has the shape {value.shape}, but {shape} is needed")
    return value


def _full_stress(values: FloatArray) -> FloatArray:
    """Return (3, 3) from six numbers in Voigt order, nine in Fortran order, or a matrix."""
    if values.shape == (6,):
        return np.asarray(voigt_6_to_full_3x3_stress(values))
    return values.reshape((3, 3), order="F") if values.shape == (9,) else values
