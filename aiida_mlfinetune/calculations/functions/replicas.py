"""Independent replicas of one run: their parameters, and the averages over all of them."""

from __future__ import annotations

import math

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.averages.replicas import pool, replica_seeds

PREFIX = "replica_"


@calcfunction
def replica_parameters(parameters: orm.Dict, n_replicas: orm.Int) -> dict[str, orm.Dict]:
    """Return the parameters of each replica, ``replica_0`` and so on, which differ by their seeds only."""
    values = parameters.get_dict()
    seeds = replica_seeds(int(values["seed"]), n_replicas.value)
    return {f"{PREFIX}{number}": orm.Dict({**values, "seed": seed}) for number, seed in enumerate(seeds)}


@calcfunction
def pool_observables(**observables: ObservableData) -> ObservableData:
    """Return the average of one observable over independent replicas; see ``science.replicas``.

    Arrays ``replica_value`` and ``replica_error``, in the unit of the observable.

    Raises:
        MlFinetuneError: fewer than two, or observables of another name, unit or conditions.
    """
    names = sorted(observables, key=lambda name: (len(name), name))
    own = [observables[name] for name in names]
    for one in own[1:]:
        for what in ("name", "unit", "conditions"):
            if getattr(one, what) != getattr(own[0], what):
                raise MlFinetuneError(
                    f"the replicas differ in {what}: {getattr(own[0], what)!r} and {getattr(one, what)!r}; give those "
                    "of one run"
                )
    values, errors = np.array([one.value for one in own]), np.array([one.error for one in own])
    result = pool(values, errors)
    counts = [one.n_independent for one in own]
    warnings = [f"{name}: {warning}" for name, one in zip(names, own, strict=True) for warning in one.warnings]
    return ObservableData(
        name=own[0].name,
        value=result.value,
        error=result.error,
        unit=own[0].unit,
        conditions=own[0].conditions,
        method=f"mean over {len(own)} independent replicas; each: {own[0].method}",
        n_independent=None if None in counts else float(sum(count for count in counts if count is not None)),
        warnings=[*result.warnings, *warnings],
        arrays={"replica_value": values, "replica_error": errors},
        details={
            "n_replicas": len(own),
            "error_within": _finite(result.within),
            "error_between": result.between,
            "chi_squared": _finite(result.chi_squared),
            "probability": _finite(result.probability),
        },
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
