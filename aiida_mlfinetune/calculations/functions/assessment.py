"""The assessment of a model, as calcfunctions: the frames that it is asked about, and the verdict on its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from ase.data import atomic_numbers
from numpy.typing import NDArray

from aiida_mlfinetune.common.errors import MoleculesError
from aiida_mlfinetune.data.assessments import NAME
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.crystals.molecules import perceive_molecules
from aiida_mlfinetune.science.datasets.distances import smallest_distances
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.models import assessment as science
from aiida_mlfinetune.science.models.baseline import baseline_head
from aiida_mlfinetune.science.models.metrics import label_errors
from aiida_mlfinetune.science.models.probes import Probe, ProbeKind, ProbeSettings, make_probes

METHOD = "number of checks that failed; each with its number and threshold in details"
CHECKED_ON = "validation frames, which chose the best epoch of the training, stand in for test frames"


@calcfunction
def assessment_frames(
    structure: orm.StructureData, model: MaceModelData, settings: orm.Dict, **more: orm.Data
) -> dict[str, orm.Data]:
    """Return the ``frames`` that a model is to predict, and the ``plan``: which of them are for what.

    Args:
        structure: a crystal, or a molecule that is periodic in no direction.
        model: its cutoff tells when atoms no longer see each other.
        settings: of ``science.probes.ProbeSettings``.
        **more: ``test``, frames with labels, and ``level``, their level; ``baseline`` of a model that is a difference.
    """
    r_max = max(each.passport.r_max for each in (model, more.get("baseline")) if each is not None)
    test = more["test"].frames if "test" in more else None
    elements = set(structure.get_symbols_set()) | (set(test.elements) if test is not None else set())
    ordered = sorted(elements, key=atomic_numbers.__getitem__)
    made = make_probes(structure.get_ase(), ordered, r_max, ProbeSettings.from_dict(settings.get_dict()))
    parts, series, sources = [made.frames], list(made.series), {}
    if test is not None:
        level = more["level"].value
        parts.append(replace(test, labels_by_level={level: test.labels(level)}))
        series.append(Probe(ProbeKind.PARITY, level, len(made.frames), len(test)))
        sources = {level: more["test"].level_sources.get(level, [])}
    plan = {"series": [probe.to_dict() for probe in series], "left_out": dict(made.left_out)}
    return {"frames": DatasetData(Frames.concatenate(parts), level_sources=sources), "plan": orm.Dict(plan)}


@calcfunction
def assess_model(
    model: MaceModelData,
    structure: orm.StructureData,
    predicted: DatasetData,
    plan: orm.Dict,
    evaluation: orm.Dict,
    thresholds: orm.Dict,
    **more: orm.Data,
) -> ObservableData:
    """Return the verdict on a model: the number of checks that failed, with every check in ``details``.

    Args:
        model: the model.
        structure: that the run started from.
        predicted: the frames of ``assessment_frames`` with the model's labels.
        plan: what they are for.
        evaluation: the parameters of their prediction, of which ``key`` and ``head`` are used.
        thresholds: of ``science.assessment.Thresholds``.
        **more: ``run``, the parameters of a run at a higher temperature, with its ``properties`` and ``trajectory``;
            ``baseline`` of a model that is a difference; ``parity_set``, name of the set that the test frames are.
    """
    asked = science.Thresholds.from_dict(thresholds.get_dict())
    values = evaluation.get_dict()
    head = values.get("head", model.heads[-1])
    frames = predicted.frames
    energies = frames.labels(values["key"]).energy
    e0s = _reference_energies(model, head, more.get("baseline"))
    series = [Probe.from_dict(each) for each in plan["series"]]
    checks: list[science.Check] = []
    arrays: dict[str, NDArray[Any]] = {}
    details: dict[str, Any] = {}
    warnings: list[str] = []
    for probe in series:
        own, at = energies[probe.first : probe.first + probe.n_frames], np.array(probe.coordinates)
        if probe.kind is ProbeKind.PARITY:
            part = frames.select(list(probe.indices))
            errors = label_errors(part, part.labels(probe.name), part.labels(values["key"]))
            checks += science.parity_checks(errors, asked)
            details["parity"] = errors
        else:
            checks += _probe_checks(probe, at, own, e0s, frames, asked, details)
        if len(at):
            arrays |= {f"{probe.kind.value}_{probe.name}_x": at, f"{probe.kind.value}_{probe.name}_eV": own}
    left_out = dict(plan["left_out"])
    if "parity" not in details:
        left_out["parity"] = "no test frames were given"
    if "run" in more:
        checks += _run_checks(structure, more, asked, details)
    else:
        left_out["nvt"] = "no run was asked for"
    if "parity_set" in more and more["parity_set"].value == "valid":
        warnings.append(CHECKED_ON)
    judged = [check for check in checks if check.passed is not None]
    failed = [check for check in judged if not check.passed]
    conditions = {"model_sha256": model.sha256, "head": head, "formula": structure.get_formula(mode="hill")}
    if "run" in more:
        conditions |= {name: more["run"][name] for name in ("temperature_K", "ensemble")}
    if "baseline" in more:
        conditions["baseline_sha256"] = more["baseline"].sha256
    return ObservableData(
        name=NAME,
        value=len(failed),
        error=0.0,
        unit="checks failed",
        conditions=conditions,
        method=METHOD,
        warnings=[*warnings, *(f"failed: {check}" for check in failed)],
        arrays=arrays,
        details={
            "passed": not failed,
            "n_judged": len(judged),
            "checks": [check.to_dict() for check in checks],
            "left_out": left_out,
            "thresholds": asked.to_dict(),
            **details,
        },
    )


def _reference_energies(model: MaceModelData, head: str, baseline: MaceModelData | None) -> dict[str, float]:
    """Return the energies in eV that single atoms should have, by element."""
    own = dict(model.passport.e0s[head])
    if baseline is None:
        return own
    other = baseline.passport.e0s[baseline_head(model.passport, baseline.passport) or baseline.heads[-1]]
    return {element: value + other[element] for element, value in own.items() if element in other}


def _probe_checks(
    probe: Probe,
    at: NDArray[np.float64],
    own: NDArray[np.float64],
    e0s: Mapping[str, float],
    frames: Frames,
    asked: science.Thresholds,
    details: dict[str, Any],
) -> list[science.Check]:
    if probe.kind is ProbeKind.VOLUME:
        curve = science.volume_curve(at, own)
        found = {"minimum_A3": curve.minimum, "bulk_modulus_GPa": curve.bulk_modulus}
        details["volume"] = {name: value if np.isfinite(value) else None for name, value in found.items()}
        return science.volume_checks(probe.name, at, own, asked)
    if probe.kind is ProbeKind.ATOM:
        return [science.atom_check(probe.name, float(own[0]), e0s[probe.name], asked)]
    if probe.kind is ProbeKind.DISSOCIATION:
        symbols = frames.atoms(probe.first).get_chemical_symbols()
        return science.dissociation_checks(probe.name, at, own, sum(e0s[each] for each in symbols), len(symbols), asked)
    bare = probe.kind is ProbeKind.DIATOMIC
    name, threshold = ("diatomic_hole", asked.diatomic_hole_eV) if bare else ("distance_hole", asked.distance_hole_eV)
    return [science.distance_check(name, probe.name, own, asked.barrier_eV, threshold)]


def _run_checks(
    structure: orm.StructureData, more: Mapping[str, Any], asked: science.Thresholds, details: dict[str, Any]
) -> list[science.Check]:
    run = more["run"].get_dict()
    if "properties" not in more:
        return [science.completed_check(0, run["n_steps"], asked)]
    properties = more["properties"]
    table = {name: properties.get_array(name) for name in ("step", "time_fs", "temperature_K", "conserved_eV")}
    n_atoms = len(structure.sites)
    half = len(table["step"]) // 2
    halves = {"first": slice(None, max(1, half)), "second": slice(half, None)}
    details["nvt"] = {
        "picoseconds": float(table["time_fs"][-1] / 1000),
        **{f"{name}_half_temperature_K": _finite(table["temperature_K"][own].mean()) for name, own in halves.items()},
    }
    checks = [
        science.completed_check(int(table["step"][-1]), run["n_steps"], asked),
        *science.run_checks(
            table["time_fs"], table["temperature_K"], table["conserved_eV"], run["temperature_K"], n_atoms, asked
        ),
    ]
    if "trajectory" not in more or not more["trajectory"].n_frames:
        return checks
    frames = more["trajectory"].frames
    distances = smallest_distances(frames)
    if len(distances.pairs):
        checks.append(science.distance_ratio_check(distances.pairs, distances.values, asked))
    bonds = _bond_lengths(structure, frames)
    if bonds is not None:
        checks.append(science.bond_ratio_check(bonds, asked))
    return checks


def _bond_lengths(structure: orm.StructureData, frames: Frames) -> NDArray[np.float64] | None:
    """Return (n, bonds) the lengths of the bonds of the start, in angstrom; None where there are no molecules."""
    try:
        molecules = perceive_molecules(structure.get_ase())
    except MoleculesError:
        return None
    if not len(molecules.tree):
        return None
    lengths = []
    for image in frames:
        positions = molecules.unwrap(image)
        lengths.append(np.linalg.norm(positions[molecules.tree[:, 1]] - positions[molecules.tree[:, 0]], axis=1))
    return np.array(lengths)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
