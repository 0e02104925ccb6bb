"""The levels of a dataset, one by one and against each other."""

from __future__ import annotations

from itertools import combinations

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.report.page import Section, Table
from aiida_mlfinetune.report.text import number
from aiida_mlfinetune.science.datasets.comparison import Deviation, LevelComparison, compare_levels

__all__ = ("comparison_section", "content_section")

LEVEL_HEADER = ("level", "method", "basis", "program", "energy", "energies", "forces", "stress")
HEADER = ("quantity", "of", "values", "mean shift", "RMSE", "RMSE about the shift", "correlation")
MOST_PAIRS = 10
INTRODUCTION = (
    "Levels compared on the frames that carry both, as the first level minus the second. A shift of the energies says "
    "nothing by itself (other pseudopotentials, another zero); the spread about the shift is what a model that starts "
    "from one level has to learn of the other."
)


def content_section(dataset: DatasetData) -> Section:
    """Return the section about what a dataset holds."""
    formulas = dataset.base.attributes.get("formulas")
    rows = [
        ("frames", str(dataset.n_frames)),
        ("elements", ", ".join(dataset.elements)),
        ("compositions", ", ".join(f"{count} × {formula}" for formula, count in formulas.items())),
        ("content hash", dataset.content_hash),
    ]
    tables = [Table((), tuple(rows))]
    levels = []
    for key, entry in dataset.levels.items():
        own, counts = entry["level"], entry["counts"]
        program = " ".join(str(own[name]) for name in ("code", "code_version") if own[name]) or own["engine"]
        kinds = (str(counts[kind]) for kind in ("energy", "forces", "stress"))
        levels.append((key, own["method"], own["basis"], program, own["energy"], *kinds))
    if levels:
        tables.append(Table(LEVEL_HEADER, tuple(levels), "Levels of theory, and how many frames have labels at them"))
    return Section("Frames and levels", tables=tuple(tables))


def comparison_section(dataset: DatasetData) -> Section:
    """Return the section that compares each two levels of a dataset; empty with one level."""
    tables, warnings = [], []
    pairs = list(combinations(dataset.levels, 2))
    for level_a, level_b in pairs[:MOST_PAIRS]:
        try:
            found = compare_levels(dataset.frames, level_a, level_b)
        except LabelsError as error:
            warnings.append(str(error))
            continue
        tables.append(Table(HEADER, tuple(_rows(found)), f"{level_a} minus {level_b}, {found.n_frames} frames"))
        if found.energy is not None:
            warnings += found.energy.warnings
    if len(pairs) > MOST_PAIRS:
        warnings.append(f"{len(pairs) - MOST_PAIRS} more pairs of levels are not shown")
    return Section("Levels against each other", (INTRODUCTION,) if tables else (), tuple(tables), (), tuple(warnings))


def _rows(found: LevelComparison) -> list[tuple[str, ...]]:
    rows = []
    if found.energy is not None:
        rows += [_row("energy / (kJ/mol)", name, value) for name, value in found.energy.per_molecule.items()]
        if len(found.energy.by_formula) > 1:
            rows += [
                _row("energy / (kJ/mol of molecules)", f"frames of {name}", value)
                for name, value in found.energy.by_formula.items()
            ]
    if found.forces is not None:
        rows.append(_row("force component / (meV/Å)", "all", found.forces.components))
        rows += [_row("force component / (meV/Å)", name, value) for name, value in found.forces.by_element.items()]
    if found.stress is not None:
        rows.append(_row("stress component / (meV/Å³)", "", found.stress.components))
        rows.append(_row("pressure / GPa", "", found.stress.pressure))
    return rows


def _row(quantity: str, of: str, value: Deviation) -> tuple[str, ...]:
    numbers = (number(each) for each in (value.shift, value.rmse, value.rmse_about_shift))
    correlation = "–" if value.correlation is None else f"{value.correlation:.5f}"
    return quantity, of, str(value.n), *numbers, correlation
