"""Nested splits, and the learning curve from the errors of many trainings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.averages.correlation import CorrelationTime, longest
from aiida_mlfinetune.science.averages.correlation import correlation_time as correlation_of
from aiida_mlfinetune.science.datasets.splits import NestedSizes, nested_split
from aiida_mlfinetune.science.models.metrics import label_errors
from aiida_mlfinetune.science.training import learning_curve as science

SET_NAMES = {"valid": "validation", "test": "test"}
TRAIN, ERRORS, PARAMETERS = "train_", "errors_", "parameters_"
NOT_SEPARATED = (
    "frames of the sets may be neighbours in time: no separation was asked for, and the runs that the frames come from "
    "are not known"
)
ONE_SEED = "one seed: the spread over seeds, and so every error bar, is unknown"
SEEDS_ONLY = (
    "error bars are standard errors over seeds (start of the weights, order of the frames) on the same frames; other "
    "frames would add to them"
)


def training_label(mode: str, size: int, seed: int) -> str:
    """Return what a training is called: in links, outputs and reports."""
    return f"{mode}_n{size}_s{seed}"


@calcfunction
def correlation_time(**runs: orm.ArrayData) -> ObservableData:
    """Return the longest correlation time of the potential energies of ``runs``, in steps.

    Each input is the ``properties`` of a run, with the arrays ``step`` and ``potential_energy_eV``.
    """
    times = correlation_times(runs)
    name = longest(times)
    slowest = times[name]
    return ObservableData(
        name="correlation_time",
        value=slowest.steps,
        error=slowest.error,
        unit="steps",
        method="integrated autocorrelation time of the potential energy after equilibration, the longest of all runs; "
        "error: half the difference of the two halves of the run",
        n_independent=slowest.n_independent,
        warnings=list(slowest.warnings),
        details={
            "separation": max(time.separation for time in times.values()),
            "run": name,
            "by_run": {
                each: {"steps": time.steps, "stride": time.stride, "n_samples": time.n_samples}
                for each, time in times.items()
            },
        },
    )


def correlation_times(runs: Mapping[str, orm.ArrayData]) -> dict[str, CorrelationTime]:
    """Return the correlation time of each run.

    Raises:
        StudyError: no run.
        MlFinetuneError: a run that is too short, or whose samples are not at equal distances.
    """
    if not runs:
        raise StudyError("a correlation time needs the properties of at least one run")
    return {
        name: correlation_of(run.get_array("step"), run.get_array("potential_energy_eV")) for name, run in runs.items()
    }


@calcfunction
def nested_splits(
    dataset: DatasetData, parameters: orm.Dict, correlation: ObservableData | None = None
) -> dict[str, orm.Data]:
    """Split a dataset into views: nested training sets ``train_<n>``, ``valid``, and ``test`` where it is not empty.

    ``parameters`` are those of ``science.splits.NestedSizes``: train (list of counts or fractions), valid, test, seed,
    min_separation (steps), or a ``choice`` of published sizes. ``correlation`` gives the separation where they do not.
    ``sizes`` says what was made of them. A set does not depend on which other sizes are asked for.
    """
    sizes = NestedSizes.from_dict(parameters.get_dict())
    estimated = None if correlation is None else int(correlation.details["separation"])
    sets = nested_split(dataset.frames, sizes, estimated)
    given = sizes.min_separation is not None
    views: dict[str, orm.Data] = {
        f"{TRAIN}{n}": DatasetData.subset(dataset, indices) for n, indices in sets.train.items()
    }
    views["valid"] = DatasetData.subset(dataset, sets.valid)
    if len(sets.test):
        views["test"] = DatasetData.subset(dataset, sets.test)
    views["sizes"] = orm.Dict(
        {
            "train": list(sets.train),
            "valid": len(sets.valid),
            "test": len(sets.test),
            "seed": sizes.seed,
            "min_separation_steps": sizes.min_separation if given else estimated or 0,
            "separation": "given" if given else "none" if estimated is None else "correlation time",
            "n_frames": dataset.n_frames,
            "n_left_out": sets.n_left_out,
        }
    )
    return views


@calcfunction
def seeded_parameters(seeds: orm.List, **parameters: orm.Dict) -> dict[str, orm.Dict]:
    """Return the parameters of each mode with each seed, as ``<mode>_s<seed>``."""
    return {
        f"{mode}_s{seed}": orm.Dict({**values.get_dict(), "seed": seed})
        for mode, values in parameters.items()
        for seed in seeds.get_list()
    }


@calcfunction
def collect_learning_curve(
    judged: DatasetData,
    level: orm.Str,
    sizes: orm.Dict,
    seeds: orm.List,
    target: orm.Dict,
    failed: orm.Dict,
    **trainings: orm.Dict,
) -> ObservableData:
    """Return the learning curve of all trainings, as the errors on the set ``judged``, the test or the validation set.

    ``trainings`` holds the parameters of each mode as ``parameters_<mode>``, and the output ``errors`` of each training
    that ended well as ``errors_<mode>_n<size>_s<seed>``; ``failed`` gives the reasons of the others by the same name
    without ``errors_``. Percent are of the standard deviation of the labels at ``level`` in that set.

    Arrays: ``sizes`` (n,), ``seeds`` (m,), and for each mode and quantity ``<mode>/<quantity>`` (n, m), NaN where a
    training is missing. The value is that of the mode with the smallest error at the largest size.
    """
    modes = {
        name.removeprefix(PARAMETERS): node.get_dict()
        for name, node in trainings.items()
        if name.startswith(PARAMETERS)
    }
    name_of_set = "test" if sizes["test"] else "valid"
    ended = {name.removeprefix(ERRORS): node for name, node in trainings.items() if name.startswith(ERRORS)}
    if not ended:
        raise StudyError("a learning curve needs at least one training that ended well")
    spreads = science.flatten_spreads(_own_errors(judged, level.value, modes.values()))
    found = {
        label: science.in_percent(science.flatten_errors(node.get_dict()[name_of_set]), spreads)
        for label, node in ended.items()
    }
    all_sizes, all_seeds = sizes["train"], seeds.get_list()
    tables = {mode: _table(mode, found, all_sizes, all_seeds) for mode in modes}
    curves = {mode: table for mode, table in tables.items() if table}
    conclusions = {mode: science.conclude(table, target.get_dict()) for mode, table in curves.items()}
    best = min(curves, key=lambda mode: _best_value(curves[mode], conclusions[mode])[0])
    quantity = conclusions[best].quantity
    value, error = _best_value(curves[best], conclusions[best])
    warnings = _warnings(sizes.get_dict(), len(all_seeds), failed.get_dict(), error)
    return ObservableData(
        name="learning_curve",
        value=value,
        error=error if math.isfinite(error) else math.inf,
        unit=science.unit_of(quantity),
        conditions={"level": level.value, "set": name_of_set, "mode": best, "n_train": conclusions[best].largest},
        method=f"{science.title_of(quantity)} on the {SET_NAMES[name_of_set]} set after training on nested sets, mean "
        "over seeds with its standard error; percent are of the standard deviation of the reference on the same frames",
        n_independent=float(len(all_seeds)),
        warnings=warnings,
        arrays={
            "sizes": np.array(all_sizes, dtype=np.int64),
            "seeds": np.array(all_seeds, dtype=np.int64),
            **{f"{mode}/{name}": curve.values for mode, table in curves.items() for name, curve in table.items()},
        },
        details={
            "sentence": " ".join(f"{mode}: {each.sentence}" for mode, each in conclusions.items()),
            "conclusions": {mode: each.to_dict() for mode, each in conclusions.items()},
            "fits": {mode: _laws(table) for mode, table in curves.items()},
            "modes": {mode: values.get("mode", mode) for mode, values in modes.items()},
            "set": name_of_set,
            "split": sizes.get_dict(),
            "target": target.get_dict(),
            "spreads": spreads,
            "failed": failed.get_dict(),
        },
    )


def curves_of(observable: ObservableData) -> dict[str, dict[str, science.Curve]]:
    """Return the curves of a learning curve's node by mode and quantity."""
    arrays = observable.arrays()
    sizes = arrays["sizes"]
    curves: dict[str, dict[str, science.Curve]] = {}
    for name, values in arrays.items():
        mode, slash, quantity = name.partition("/")
        if slash:
            curves.setdefault(mode, {})[quantity] = science.Curve(sizes, values)
    return {mode: curves[mode] for mode in observable.details["modes"] if mode in curves}


def judged_quantities(judged: DatasetData, level: str, parameters: Iterable[orm.Dict]) -> set[str]:
    """Return the quantities of a learning curve that the labels of a set can tell."""
    return set(science.flatten_errors(_own_errors(judged, level, [each.get_dict() for each in parameters])))


def _own_errors(judged: DatasetData, level: str, parameters: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the errors of labels against themselves: zero, with the standard deviations beside them."""
    molecule = next((own["molecule"] for own in parameters if "molecule" in own), None)
    labels = judged.frames.labels(level)
    return label_errors(judged.frames, labels, labels, molecule)


def _table(
    mode: str, found: Mapping[str, Mapping[str, float]], sizes: list[int], seeds: list[int]
) -> dict[str, science.Curve]:
    """Return the curves of a mode by quantity."""
    values: dict[str, np.ndarray] = {}
    for row, size in enumerate(sizes):
        for column, seed in enumerate(seeds):
            for quantity, value in found.get(training_label(mode, size, seed), {}).items():
                values.setdefault(quantity, np.full((len(sizes), len(seeds)), np.nan))[row, column] = value
    return {quantity: science.Curve(np.array(sizes, dtype=np.int64), table) for quantity, table in values.items()}


def _best_value(table: Mapping[str, science.Curve], conclusion: science.Conclusion) -> tuple[float, float]:
    curve = table[conclusion.quantity]
    place = int(np.flatnonzero(curve.sizes == conclusion.largest)[0])
    return float(curve.mean[place]), float(curve.error[place])


def _laws(table: Mapping[str, science.Curve]) -> dict[str, Any]:
    laws = {name: science.fit_power_law(curve.sizes, curve.values) for name, curve in table.items()}
    return {name: law.to_dict() for name, law in laws.items() if law is not None}


def _warnings(sizes: Mapping[str, Any], n_seeds: int, failed: Mapping[str, str], error: float) -> list[str]:
    warnings = [SEEDS_ONLY] if n_seeds > 1 else [ONE_SEED]
    if n_seeds > 1 and not math.isfinite(error):
        warnings.append("at the largest size one training is left: its error bar is unknown")
    if sizes["separation"] == "none":
        warnings.append(NOT_SEPARATED)
    if failed:
        warnings.append(f"{len(failed)} trainings failed and are missing: {', '.join(sorted(failed))}")
    return warnings
