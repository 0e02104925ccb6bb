"""The quality of labels as observables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.datasets import label_quality as science
from aiida_mlfinetune.science.datasets.coverage import Coverage
from aiida_mlfinetune.science.datasets.duplicates import TOLERANCE_A
from aiida_mlfinetune.science.datasets.frames import Frames

MOST_LISTED = 200
"""Frames that are named in the attributes of an observable; all of them are in its arrays."""


@calcfunction
def assess_labels(dataset: DatasetData, level: orm.Str, **sampled: DatasetData) -> dict[str, ObservableData]:
    """Judge the labels of a dataset at ``level``, and against the frames ``sampled`` that it was chosen from.

    ``sampled`` is any number of datasets under any names, such as the trajectories of crystal and gas.

    Returns, each where the labels have what it needs: ``net_force`` (meV/angstrom, mean over frames),
    ``energy_outliers``, ``duplicate_frames``, ``near_duplicates`` (counts), ``smallest_distance`` (angstrom),
    ``forces`` (eV/angstrom, root mean square of components), and with ``sampled`` ``energy_spread`` (kJ/mol of formula
    units) and ``volume_spread`` (cubic angstrom per formula unit). Indices of frames are those of ``dataset``.
    """
    parts = [sampled[name].frames for name in sorted(sampled)]
    quality = science.assess_labels(dataset.frames, level.value, Frames.concatenate(parts) if parts else None)
    outputs: dict[str, ObservableData] = {}
    if quality.net_forces is not None:
        outputs["net_force"] = _net_force(quality, quality.net_forces)
        outputs["forces"] = _forces(quality)
    if quality.energies is not None:
        outputs["energy_outliers"] = _outliers(quality, quality.energies)
    outputs |= _duplicates(quality)
    if quality.distances.pairs:
        outputs["smallest_distance"] = _distances(quality)
    if quality.energy_coverage and quality.energy_levels is not None:
        levels = {"level_labelled": quality.energy_levels.labelled, "level_sampled": quality.energy_levels.sampled}
        outputs["energy_spread"] = _coverage(quality, "energy_spread", "kJ/mol", quality.energy_coverage, levels)
    if quality.volume_coverage:
        outputs["volume_spread"] = _coverage(quality, "volume_spread", "A^3", quality.volume_coverage, {})
    return outputs


def _net_force(quality: science.LabelQuality, net: science.NetForces) -> ObservableData:
    values = net.values
    known = len(values) > 1
    warnings = _warnings(quality, "net_force")
    return _observable(
        quality,
        "net_force",
        float(values.mean()),
        "meV/A",
        "mean over frames of the norm of the summed force over all atoms; zero for exact forces",
        error=float(values.std(ddof=1) / np.sqrt(len(values))) if known else math.inf,
        warnings=warnings if known else [*warnings, "one frame only: the error of the mean is unknown"],
        arrays={"net_force_meV_A": net.norms},
        details={
            "n": len(values),
            "median_meV_A": float(np.median(values)),
            "largest_meV_A": float(values.max()),
            "largest_frame": int(np.nanargmax(net.norms)),
            "per_component_meV_A": net.per_component,
            "rms_component_meV_A": net.rms_component,
        },
    )


def _forces(quality: science.LabelQuality) -> ObservableData:
    by_element = quality.forces
    n_components = sum(3 * element.n_atoms for element in by_element.values())
    mean_square = sum(3 * element.n_atoms * element.rms**2 for element in by_element.values()) / n_components
    arrays = {f"counts_{name}": element.counts for name, element in by_element.items()}
    return _observable(
        quality,
        "forces",
        math.sqrt(mean_square),
        "eV/A",
        "root mean square of all force components",
        arrays={"edges_eV_A": next(iter(by_element.values())).edges, **arrays},
        details={
            "by_element": {
                name: {
                    "n_atoms": element.n_atoms,
                    "rms_eV_A": element.rms,
                    "largest_eV_A": element.largest,
                    "largest_frame": element.largest_frame,
                }
                for name, element in by_element.items()
            }
        },
    )


def _outliers(quality: science.LabelQuality, energies: science.EnergyScores) -> ObservableData:
    listed = [
        {"frame": index, "score": float(energies.scores[index]), "energy_kJ_mol": float(energies.energies[index])}
        for index in energies.outliers[:MOST_LISTED]
    ]
    judged = int((~np.isnan(energies.scores)).sum())
    return _observable(
        quality,
        "energy_outliers",
        len(energies.outliers),
        "frames",
        f"energies further than {science.OUTLIER_SCORE:g} robust standard deviations from the median of their "
        "composition (1.4826 times the median absolute deviation)",
        warnings=_warnings(quality, "energy_outliers"),
        arrays={"score": energies.scores, "energy_minus_median_kJ_mol": energies.energies},
        details={"outliers": listed, "n_judged": judged, "scale_kJ_mol": dict(energies.scale)},
    )


def _duplicates(quality: science.LabelQuality) -> dict[str, ObservableData]:
    duplicates = quality.duplicates
    return {
        "duplicate_frames": _observable(
            quality,
            "duplicate_frames",
            duplicates.n_surplus,
            "frames",
            "frames equal to an earlier one, by content hash",
            warnings=_warnings(quality, "duplicate_frames"),
            details={"groups": [list(group) for group in duplicates.equal[:MOST_LISTED]]},
        ),
        "near_duplicates": _observable(
            quality,
            "near_duplicates",
            len(duplicates.near),
            "pairs of frames",
            f"pairs of frames whose sorted distances by pair of elements agree within {TOLERANCE_A:g} angstrom",
            warnings=_warnings(quality, "near_duplicates"),
            arrays={"pairs": np.array(duplicates.near, dtype=np.int64).reshape(-1, 2)},
        ),
    }


def _distances(quality: science.LabelQuality) -> ObservableData:
    names, values = quality.distances.pairs, quality.distances.values
    by_pair = {
        name: {"smallest_A": float(np.nanmin(column)), "frame": int(np.nanargmin(column))}
        for name, column in zip(names, values.T, strict=True)
    }
    return _observable(
        quality,
        "smallest_distance",
        min(entry["smallest_A"] for entry in by_pair.values()),
        "A",
        "smallest distance of two atoms, periodic images included",
        arrays={f"{name}_A": column for name, column in zip(names, values.T, strict=True)},
        details={"by_pair": by_pair},
    )


def _coverage(
    quality: science.LabelQuality, name: str, unit: str, coverage: Sequence[Coverage], levels: Mapping[str, str]
) -> ObservableData:
    by_formula, arrays = {}, {}
    for each in coverage:
        here, there = each.spreads
        by_formula[each.formula] = {
            "n_labelled": len(each.labelled),
            "n_sampled": len(each.sampled),
            "spread_labelled": here,
            "spread_sampled": there,
            "shift": each.shift,
            "covered": each.covered,
        }
        arrays |= {f"labelled_{each.formula}": each.labelled, f"sampled_{each.formula}": each.sampled}
    n = sum(len(each.labelled) for each in coverage)
    spread = math.sqrt(sum(len(each.labelled) * each.spreads[0] ** 2 for each in coverage) / n)
    return _observable(
        quality,
        name,
        spread,
        unit,
        "standard deviation in the labelled set, per formula unit, about the mean of each composition",
        error=spread / math.sqrt(2 * max(1, n - len(coverage))),
        arrays=arrays,
        details={"by_formula": by_formula, **levels},
    )


def _observable(
    quality: science.LabelQuality, name: str, value: float, unit: str, method: str, error: float = 0.0, **more: Any
) -> ObservableData:
    """Return an observable about labels; counts and extremes are exact, so their error is zero."""
    return ObservableData(
        name=f"label_{name}",
        value=float(value),
        error=error,
        unit=unit,
        conditions={"level": quality.level},
        method=method,
        **more,
    )


def _warnings(quality: science.LabelQuality, name: str) -> list[str]:
    return [text for about, text in science.quality_warnings(quality).items() if about == name]
