"""Two levels of theory of one dataset, compared and subtracted, as calcfunctions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.datasets import comparison as science

PREFIX = "level_difference_"
SPREAD = "root mean square of A - B about its mean, on the frames that carry both levels"
ONE_FRAME = "one value only: its error is unknown"
UNITS = {"energy": "kJ/mol", "forces": "meV/A", "stress": "meV/A^3"}


@calcfunction
def compare_levels(dataset: DatasetData, level_a: orm.Str, level_b: orm.Str) -> dict[str, ObservableData]:
    """Return ``energy``, ``forces`` and ``stress``, each where frames have it at both levels.

    Values are the spread of A - B about its mean: kJ/mol of formula units (each kind about its own mean), meV/angstrom,
    meV/angstrom^3; their errors count frames (forces: components) as independent. ``details`` holds mean shifts, errors
    and correlations per formula unit, per composition and per element, ``arrays`` the differences frame by frame.
    """
    found = science.compare_levels(dataset.frames, level_a.value, level_b.value)
    levels = {"level_a": level_a.value, "level_b": level_b.value}
    outputs = {}
    if found.energy is not None:
        outputs["energy"] = _energy(found.energy, levels)
    if found.forces is not None:
        outputs["forces"] = _forces(found.forces, levels)
    if found.stress is not None:
        outputs["stress"] = _stress(found.stress, levels)
    return outputs


@calcfunction
def subtract_levels(dataset: DatasetData, level_a: orm.Str, level_b: orm.Str) -> DatasetData:
    """Return the frames that carry both levels with the labels A - B, at the level ``A-minus-B``."""
    frames = science.subtract_levels(dataset.frames, level_a.value, level_b.value)
    (key,) = frames.labels_by_level
    known = dataset.level_sources
    sources = dict.fromkeys(source for level in (level_a, level_b) for source in known.get(level.value, []))
    return DatasetData(frames, {key: list(sources)})


def _energy(found: science.EnergyComparison, levels: dict[str, str]) -> ObservableData:
    details = {
        "n": len(found.indices),
        "per_atom": found.per_atom.to_dict("meV_per_atom"),
        "per_molecule": {name: value.to_dict("kJ_mol") for name, value in found.per_molecule.items()},
        "by_formula": {name: value.to_dict("kJ_mol") for name, value in found.by_formula.items()},
        "element_shift_eV": dict(found.element_shift),
        "element_rank": found.element_rank,
        "rmse_about_element_shift_meV_per_atom": found.rmse_about_element_shift,
    }
    arrays = {"index": found.indices, "difference_kJ_mol": found.difference, "molecule": np.array(found.molecules)}
    return _observable("energy", found.about_shifts, levels, details, arrays, list(found.warnings))


def _forces(found: science.ForceComparison, levels: dict[str, str]) -> ObservableData:
    details = {
        "n": len(found.indices),
        "components": found.components.to_dict("meV_A"),
        "by_element": {name: value.to_dict("meV_A") for name, value in found.by_element.items()},
    }
    arrays = {"index": found.indices, "rmse_meV_A": found.rmse_by_frame}
    return _observable("forces", found.components, levels, details, arrays)


def _stress(found: science.StressComparison, levels: dict[str, str]) -> ObservableData:
    details = {
        "n": len(found.indices),
        "components": found.components.to_dict("meV_A3"),
        "pressure": found.pressure.to_dict("GPa"),
    }
    arrays = {"index": found.indices, "pressure_difference_GPa": found.pressure_difference}
    return _observable("stress", found.components, levels, details, arrays)


def _observable(
    quantity: str,
    spread: science.Deviation,
    levels: dict[str, str],
    details: dict[str, Any],
    arrays: dict[str, Any],
    warnings: list[str] | None = None,
) -> ObservableData:
    known = math.isfinite(spread.rmse_error)
    return ObservableData(
        name=f"{PREFIX}{quantity}",
        value=spread.rmse_about_shift,
        error=spread.rmse_error if known else math.inf,
        unit=UNITS[quantity],
        conditions=levels,
        method=SPREAD,
        n_independent=details["n"],
        warnings=[*(warnings or []), *([] if known else [ONE_FRAME])],
        arrays=arrays,
        details=details,
    )
