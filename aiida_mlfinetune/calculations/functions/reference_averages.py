"""Averages of whole runs, moved to a reference level by what reweighting says of some of their frames.

The frames of a run that were labelled give the average at the reference level, and that of the run, from the same
frames. Their difference, the shift, is known much better than either, as the fluctuations of the run cancel in it.
Added to the average over all steps of the run, it gives that of the reference with a smaller error than the
labelled frames alone: in the limit of many frames both are the same.
"""

from __future__ import annotations

import math
from typing import Any

from aiida.engine import calcfunction

from aiida_mlfinetune.calculations.functions.thermodynamics import compare_enthalpies
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.averages.thermodynamics import Estimate
from aiida_mlfinetune.science.conclusions import reference as science

METHOD = "average over the whole run, and the shift to the reference level from its reweighted frames"


@calcfunction
def reference_average(average: ObservableData, reweighted: ObservableData) -> ObservableData:
    """Return the average at the reference level from that of a run and the reweighted frames of the same run.

    Details: ``run``, ``reweighted`` and ``shift`` (value and standard error each), the verdict on the weights, and
    ``spread_kT``, the standard deviation of the energy differences of the labelled frames.

    Raises:
        MlFinetuneError: another observable, unit or state, or a reweighted one that is no number.
    """
    return move_to_reference(average, reweighted)


@calcfunction
def reference_sublimation(enthalpy_crystal: ObservableData, enthalpy_gas: ObservableData) -> ObservableData:
    """Return H_gas - H_crystal at the reference level from two averages by ``reference_average``.

    Details: ``run`` is what the model alone gives, ``shift`` the correction, each with its standard error.
    """
    parts = (enthalpy_gas.details, enthalpy_crystal.details)
    details: dict[str, Any] = {
        "reliable": all(part["reliable"] for part in parts),
        "n_effective": min(part["n_effective"] for part in parts),
        "n_frames": sum(part["n_frames"] for part in parts),
        "spread_kT": max(part["spread_kT"] for part in parts),
    }
    for key in ("run", "shift"):
        errors = [part[key]["error"] for part in parts]
        details[key] = {
            "value": parts[0][key]["value"] - parts[1][key]["value"],
            "error": None if None in errors else math.hypot(*errors),
        }
    return compare_enthalpies(enthalpy_crystal, enthalpy_gas, details)


def move_to_reference(average: ObservableData, reweighted: ObservableData) -> ObservableData:
    """Return what ``reference_average`` does, as a plain function."""
    if (average.name, average.unit) != (reweighted.name, reweighted.unit) or "shift" not in reweighted.details:
        raise MlFinetuneError(
            f"the average {average.name!r} in {average.unit!r} cannot be moved by the reweighted {reweighted.name!r} "
            f"in {reweighted.unit!r}"
        )
    own, other = average.conditions, reweighted.conditions
    for key in ("temperature_K", "ensemble"):
        if key in own and own[key] != other[key]:
            raise MlFinetuneError(f"the run was averaged at {key} {own[key]}, but reweighted at {other[key]}")
    shift = reweighted.details["shift"]
    known = math.isfinite(average.error)
    result = science.move_to_reference(Estimate(average.value, average.error), Estimate(shift["value"], shift["error"]))
    return ObservableData(
        name=average.name,
        value=result.value,
        error=result.error,
        unit=average.unit,
        conditions={**other, **own, "level": other["level"]},
        method=METHOD,
        n_independent=reweighted.n_independent,
        warnings=[*average.warnings, *reweighted.warnings],
        details={
            **{key: average.details[key] for key in ("formula", "n_molecules") if key in average.details},
            "run": {"value": average.value, "error": average.error if known else None},
            "shift": shift,
            "reweighted": {"value": reweighted.value, "error": reweighted.error},
            **{key: reweighted.details[key] for key in ("n_effective", "n_frames", "spread_kT")},
            "reliable": reweighted.details["reliable"],
            "verdict": reweighted.details["verdict"],
        },
    )
