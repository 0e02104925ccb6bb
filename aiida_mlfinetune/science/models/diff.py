"""What differs between the makings of two models, and which errors moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiida_mlfinetune.science.models.history import (
    DatasetRecord,
    ModelHistory,
    columns,
    error_values,
    flat,
    text_of,
)

__all__ = ("Difference", "ErrorChange", "ModelDiff", "compare_models", "diff_text")

E0_TOLERANCE_EV = 1e-6
"""Reference energies closer than this are the same but for the rounding of a file."""


@dataclass(frozen=True)
class Difference:
    """An input, or a property of the model, that is not the same.

    Attributes:
        name: of it, such as ``parameters.lr``.
        first: its value for the first model; empty where that has none.
        second: its value for the second model.
    """

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class ErrorChange:
    """An error of both models.

    Attributes:
        head: of the model.
        frames: the set that it is an error on.
        measure: such as ``forces_rmse_meV_A``.
        first: value for the first model.
        second: value for the second model.
        same_frames: whether both were measured on the same frames with the same labels; None if that is unknown.
    """

    head: str
    frames: str
    measure: str
    first: float
    second: float
    same_frames: bool | None

    @property
    def change_percent(self) -> float | None:
        """Change from the first to the second in percent of the first; None if that is zero."""
        return None if self.first == 0 else 100.0 * (self.second - self.first) / abs(self.first)


@dataclass(frozen=True)
class ModelDiff:
    """Two models beside each other.

    Attributes:
        first: name of the first.
        second: name of the second.
        inputs: that differ.
        properties: of the files that differ.
        errors: that both have, and that are not the same.
        n_same_errors: how many errors both have that are the same.
        one_sided: errors that only one of them has, as head, set and measure.
    """

    first: str
    second: str
    inputs: tuple[Difference, ...]
    properties: tuple[Difference, ...]
    errors: tuple[ErrorChange, ...]
    n_same_errors: int
    one_sided: tuple[tuple[str, str, str], ...]


def compare_models(first: ModelHistory, second: ModelHistory) -> ModelDiff:
    """Return what differs between two models: inputs, properties, errors."""
    sets = {record.role: record for record in first.datasets}
    others = {record.role: record for record in second.datasets}
    ours, theirs = error_values(first.passport.errors), error_values(second.passport.errors)
    both = [key for key in ours if key in theirs]
    changes = tuple(
        ErrorChange(*key, ours[key], theirs[key], _same_frames(sets.get(key[1]), others.get(key[1])))
        for key in both
        if ours[key] != theirs[key]
    )
    return ModelDiff(
        first=first.name,
        second=second.name,
        inputs=tuple(_inputs(first, second, sets, others)),
        properties=tuple(_differences(_properties(first), _properties(second))),
        errors=changes,
        n_same_errors=len(both) - len(changes),
        one_sided=tuple(sorted(set(ours) ^ set(theirs))),
    )


def _inputs(
    first: ModelHistory,
    second: ModelHistory,
    sets: Mapping[str, DatasetRecord],
    others: Mapping[str, DatasetRecord],
) -> list[Difference]:
    found = _differences(_making(first), _making(second))
    for role in dict.fromkeys([*sets, *others]):
        ours, theirs = sets.get(role), others.get(role)
        if ours is not None and theirs is not None and ours.content_hash == theirs.content_hash:
            continue
        found.append(Difference(f"data.{role}", _dataset(ours, theirs), _dataset(theirs, ours)))
    return found


def _making(history: ModelHistory) -> dict[str, str]:
    """Return what a model was made with, but for its datasets, by name."""
    found = {name: text_of(value) for name, value in flat(dict(history.settings)).items()}
    found |= {f"{role}.sha256": parent.passport.sha256 for role, parent in history.parents}
    if (process := history.process) is not None:
        found |= {"process": process.name, "code": process.code}
        found |= {f"version of {name}": version for name, version in process.versions.items()}
    else:
        found["process"] = history.origin
    for key, level in history.levels().items():
        found |= {f"level {key}.{name}": text_of(value) for name, value in flat(level).items()}
    return found


def _properties(history: ModelHistory) -> dict[str, Any]:
    passport = history.passport
    found: dict[str, Any] = {
        "sha256": passport.sha256,
        "dtype": passport.dtype,
        "n_parameters": str(passport.n_parameters),
        "r_max": text_of(passport.r_max),
        "elements": text_of(passport.elements),
        "heads": text_of(passport.heads),
    }
    found |= {f"architecture.{name}": text_of(value) for name, value in flat(dict(passport.architecture)).items()}
    found |= {f"level of head {head}": key for head, key in passport.levels.items()}
    for head, energies in passport.e0s.items():
        found |= {f"E0 of {element}, head {head} (eV)": value for element, value in energies.items()}
    return found


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    found = []
    for name in dict.fromkeys([*first, *second]):
        ours, theirs = first.get(name, ""), second.get(name, "")
        if isinstance(ours, float) and isinstance(theirs, float):
            if abs(ours - theirs) < E0_TOLERANCE_EV:
                continue
            ours, theirs = f"{ours:.6f}", f"{theirs:.6f}"
        if ours != theirs:
            found.append(Difference(name, text_of(ours), text_of(theirs)))
    return found


def _dataset(record: DatasetRecord | None, other: DatasetRecord | None) -> str:
    """Return a dataset in words, with how many of its frames the other one has too."""
    if record is None:
        return ""
    text = f"{record.n_frames} frames, hash {record.content_hash[:12]}"
    if other is None or not record.frame_hashes or not other.frame_hashes:
        return text
    shared = len(set(record.frame_hashes) & set(other.frame_hashes))
    return f"{text}, {shared} shared"


def _same_frames(first: DatasetRecord | None, second: DatasetRecord | None) -> bool | None:
    if first is None or second is None:
        return None
    return first.content_hash == second.content_hash


def diff_text(diff: ModelDiff) -> str:
    """Return the differences as text for the terminal."""
    lines = [f"A: {diff.first}", f"B: {diff.second}", "", "Inputs that differ"]
    lines += _difference_lines(diff.inputs)
    lines += ["", "What is in the files"]
    lines += _difference_lines(diff.properties)
    lines += ["", "Errors that moved"]
    if not diff.errors:
        lines.append("  none that both models have" if not diff.n_same_errors else "  none")
    else:
        rows = [("head", "set", "measure", "A", "B", "change")]
        for change in diff.errors:
            percent = "" if change.change_percent is None else f"{change.change_percent:+.1f} %"
            mark = {True: "", False: " other frames", None: " frames unknown"}[change.same_frames]
            numbers = (f"{change.first:.4g}", f"{change.second:.4g}", percent + mark)
            rows.append((change.head, change.frames, change.measure, *numbers))
        lines += columns(rows, "  ")
    if any(change.same_frames is False for change in diff.errors):
        lines.append("  'other frames': measured on different sets, so that the numbers do not compare the models.")
    if diff.n_same_errors:
        lines.append(f"  {diff.n_same_errors} more are the same.")
    if diff.one_sided:
        lines.append(f"  {len(diff.one_sided)} more are there for one of the two only.")
    return "\n".join(lines)


def _difference_lines(differences: tuple[Difference, ...]) -> list[str]:
    if not differences:
        return ["  none"]
    rows = [("", "A", "B")]
    rows += [(entry.name, entry.first or "-", entry.second or "-") for entry in differences]
    return columns(rows, "  ")
