"""Averages of runs against the size of the training set, beside those of the reference."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.averages.thermodynamics import Estimate
from aiida_mlfinetune.science.conclusions.targets import (
    PropertyTarget,
    Verdict,
    combine,
    judge,
    judged_quantities,
    mean_over_seeds,
    smallest_sufficient,
)

LABEL = re.compile(r"(?P<mode>[a-z][a-z0-9]*(?:_[a-z0-9]+)*)_n(?P<size>\d+)_s(?P<seed>\d+)")
"""What a model of a learning curve is called."""
QUANTITIES = ("potential_energy", "density", "sublimation_enthalpy")
REFERENCE = "reference_"
TITLES = {"potential_energy": "potential energy", "sublimation_enthalpy": "sublimation enthalpy", "density": "density"}


def parse_label(label: str) -> tuple[str, int, int]:
    """Return mode, size of the training set and seed of a model.

    Raises:
        StudyError: a name of another form.
    """
    match = LABEL.fullmatch(label)
    if match is None:
        raise StudyError(
            f"a model is called {label!r}, but must be called <mode>_n<size>_s<seed>, such as naive_n50_s1"
        )
    return match["mode"], int(match["size"]), int(match["seed"])


@calcfunction
def collect_convergence(
    target: orm.Dict, reference_model: orm.Str, failed: orm.Dict, **averages: ObservableData
) -> ObservableData:
    """Return the averages of all models against the size of their training sets, and the smallest that suffices.

    ``averages`` holds ``<quantity>_<mode>_n<size>_s<seed>`` of each model, and ``reference_<quantity>``
    (``reference_average``) of the runs of ``reference_model``; quantities are potential_energy, density and
    sublimation_enthalpy. ``failed`` gives the reasons of the models without averages.

    Arrays: ``sizes`` (n,), ``seeds`` (m,), and for each mode and quantity ``<mode>/<quantity>`` (n, m) and
    ``<mode>/<quantity>_error``, NaN where a run is missing. The value is the difference of the reference model to the
    reference in the first quantity that the target names.

    Raises:
        StudyError: no reference, or none of the models.
    """
    wanted = PropertyTarget.from_dict(target.get_dict())
    references = {name: averages[REFERENCE + name] for name in QUANTITIES if REFERENCE + name in averages}
    if not references:
        raise StudyError("there is no average at the reference level to compare with")
    runs: dict[str, dict[tuple[str, int, int], Estimate]] = {name: {} for name in references}
    for key, observable in averages.items():
        for name in references:
            if key.startswith(f"{name}_") and LABEL.fullmatch(label := key.removeprefix(f"{name}_")):
                runs[name][parse_label(label)] = Estimate(observable.value, observable.error)
    found = sorted({key for own in runs.values() for key in own})
    if not found:
        raise StudyError("there is no average of any model")
    sizes, seeds = (sorted({key[place] for key in found}) for place in (1, 2))
    arrays: dict[str, Any] = {"sizes": np.array(sizes), "seeds": np.array(seeds)}
    for mode in sorted({key[0] for key in found}):
        for name, by_model in runs.items():
            values = np.full((2, len(sizes), len(seeds)), np.nan)
            for (run_mode, size, seed), one in by_model.items():
                if run_mode == mode:
                    values[:, sizes.index(size), seeds.index(seed)] = one.value, one.error
            arrays[f"{mode}/{name}"], arrays[f"{mode}/{name}_error"] = values
    judged = [
        name for name in judged_quantities(list(references)) if wanted.allowed(name, references[name].value) is not None
    ]
    reliable = all(bool(one.details["reliable"]) for one in references.values())
    table = _judge_all(runs, references, wanted, judged, reference_model.value)
    smallest = {mode: _smallest(rows) if reliable else None for mode, rows in table.items()}
    own = parse_label(reference_model.value)
    first = (judged or list(references))[0]
    difference = _difference([own], runs[first], references[first], reference_model.value)
    return ObservableData(
        name="observable_convergence",
        value=difference.value,
        error=difference.error,
        unit=references[first].unit,
        conditions={**references[first].conditions, "quantity": first, "mode": own[0], "n_train": own[1]},
        method=f"{TITLES[first]}, model - reference, of the model {reference_model.value}, whose run was reweighted",
        n_independent=references[first].n_independent,
        warnings=list(dict.fromkeys(warning for one in references.values() for warning in one.warnings)),
        arrays=arrays,
        details={
            "reference": {name: _reference(one) for name, one in references.items()},
            "reference_model": reference_model.value,
            "target": wanted.to_dict(),
            "judged": judged,
            "reliable": reliable,
            "verdicts": table,
            "smallest": smallest,
            "sentences": {
                mode: _sentence(rows, smallest[mode], judged, reliable=reliable) for mode, rows in table.items()
            },
            "failed": failed.get_dict(),
        },
    )


def _judge_all(
    runs: Mapping[str, Mapping[tuple[str, int, int], Estimate]],
    references: Mapping[str, ObservableData],
    target: PropertyTarget,
    judged: list[str],
    reference_model: str,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return, by mode and size (a string, as JSON has no other keys), each quantity's difference and the verdict."""
    keys = sorted({key for own in runs.values() for key in own})
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for mode in sorted({key[0] for key in keys}):
        table[mode] = {}
        for size in sorted({key[1] for key in keys if key[0] == mode}):
            row: dict[str, Any] = {}
            verdicts = []
            for name, reference in references.items():
                own = [key for key in keys if key[:2] == (mode, size) and key in runs[name]]
                if not own:
                    continue
                difference = _difference(own, runs[name], reference, reference_model)
                row[name] = {"difference": difference.value, "error": _finite(difference.error)}
                allowed = target.allowed(name, reference.value)
                if name in judged and allowed is not None:
                    verdict = judge(difference, allowed)
                    row[name] |= {"allowed": allowed, "verdict": verdict.value}
                    verdicts.append(verdict)
            row["verdict"] = combine(verdicts).value if len(verdicts) == len(judged) else Verdict.UNDECIDED.value
            table[mode][str(size)] = row
    return table


def _difference(
    keys: list[tuple[str, int, int]],
    runs: Mapping[tuple[str, int, int], Estimate],
    reference: ObservableData,
    reference_model: str,
) -> Estimate:
    """Return model - reference of the models of one mode and size.

    The run that was reweighted is compared by its shift, in which its own fluctuations cancel.
    """
    if keys == [parse_label(reference_model)]:
        shift = reference.details["shift"]
        return Estimate(-shift["value"], math.inf if shift["error"] is None else shift["error"])
    mean = mean_over_seeds([runs[key] for key in keys])
    return Estimate(mean.value - reference.value, math.hypot(mean.error, reference.error))


def _smallest(rows: Mapping[str, Mapping[str, Any]]) -> int | None:
    return smallest_sufficient({int(size): Verdict(row["verdict"]) for size, row in rows.items()})


def _sentence(rows: Mapping[str, Mapping[str, Any]], smallest: int | None, judged: list[str], *, reliable: bool) -> str:
    """Say which set suffices, or why none can be named."""
    if not judged:
        return "nothing was asked of the averages that there are"
    if not reliable:
        return (
            "no set can be named: the reference itself is unreliable, as the run of the largest set hardly visits "
            "where the reference lives; train on its frames with the largest errors first"
        )
    largest = str(max(int(size) for size in rows))
    told = ", ".join(
        f"{TITLES[name]} off by {rows[largest][name]['difference']:+.3g}"
        + (" (error unknown)" if rows[largest][name]["error"] is None else f" +- {rows[largest][name]['error']:.2g}")
        + f" of {rows[largest][name]['allowed']:.2g} allowed"
        for name in judged
        if name in rows[largest]
    )
    if smallest is not None:
        least = min(int(size) for size in rows) == smallest
        which = "the smallest set that was tried" if least else "the smallest sufficient set"
        return f"{which} has {smallest} frames; at {largest}: {told}"
    if rows[largest]["verdict"] == Verdict.UNDECIDED.value:
        return f"no set can be named: at {largest} frames the errors are too large to tell ({told}): run longer"
    return f"more than {largest} frames are needed ({told})"


def _reference(observable: ObservableData) -> dict[str, Any]:
    details = observable.details
    return {
        "value": observable.value,
        "error": _finite(observable.error),
        "unit": observable.unit,
        **{key: details[key] for key in ("run", "shift", "reweighted", "reliable") if key in details},
    }


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None
