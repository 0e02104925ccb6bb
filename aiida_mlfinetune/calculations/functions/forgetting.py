"""What a fine-tuned model has forgotten, as observables."""

from __future__ import annotations

import math
from typing import Any

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.models import forgetting as science

PREFIX = "forgetting_"
UNITS = {"energy": "meV_per_atom", "energy_about_shifts": "meV_per_atom", "forces": "meV_A", "stress": "meV_A3"}
METHOD = (
    "RMSE of the model over that of its foundation on the same frames, against labels of the foundation's own level; 1 "
    "means nothing forgotten; error by bootstrap over frames within each set, which are taken as independent"
)
LEVELS = ("reference", "model", "foundation")
SHIFTED = 2.0
"""A ratio of energies this many times that about the shifts is a matter of reference energies."""


@calcfunction
def forgetting_ratio(levels: orm.Dict, **datasets: DatasetData) -> dict[str, ObservableData]:
    """Return the forgetting ratios ``energy``, ``energy_about_shifts``, ``forces`` and ``stress``, each where known.

    ``levels`` holds the keys ``reference`` (the level that the foundation was trained on), ``model`` and ``foundation``
    (their predictions, as ``mlfinetune.mace_evaluate`` adds them), which all ``datasets`` carry; optionally
    ``n_bootstrap`` and ``seed``. Values are over the frames of all datasets; ``details['by_dataset']`` has each.
    """
    values = levels.get_dict()
    if missing := [name for name in LEVELS if name not in values]:
        raise LabelsError(f"the levels lack {missing}: name the keys of {list(LEVELS)}")
    if unknown := sorted(set(values) - {*LEVELS, "n_bootstrap", "seed"}):
        raise LabelsError(f"unknown entries {unknown} in the levels: known are {[*LEVELS, 'n_bootstrap', 'seed']}")
    found = science.forgetting_ratios({name: node.frames for name, node in datasets.items()}, **values)
    shifted = _is_shifted(found)
    outputs = {}
    for quantity, ratio in found.pooled.items():
        warnings = []
        if quantity == "energy" and shifted:
            warnings.append(
                "the energies differ mostly by reference energies of another level, which is not forgetting: see "
                f"{PREFIX}{science.ABOUT_SHIFTS}"
            )
        if math.isinf(ratio.error):
            warnings.append("one frame only, or frames without any error: the error of the ratio is unknown")
        outputs[quantity] = ObservableData(
            name=f"{PREFIX}{quantity}",
            value=ratio.ratio,
            error=ratio.error,
            conditions={name: values[name] for name in LEVELS},
            method=METHOD + ("; shifts of the elements fitted to all sets" if quantity == science.ABOUT_SHIFTS else ""),
            n_independent=ratio.n_frames,
            warnings=warnings,
            details={
                **_describe(quantity, ratio),
                "by_dataset": {
                    name: _describe(quantity, own[quantity]) for name, own in found.by_set.items() if quantity in own
                },
            },
        )
    return outputs


def _is_shifted(found: science.Forgetting) -> bool:
    energy, about = found.pooled.get("energy"), found.pooled.get(science.ABOUT_SHIFTS)
    return energy is not None and about is not None and energy.ratio > SHIFTED * about.ratio


def _describe(quantity: str, ratio: science.ForgettingRatio) -> dict[str, Any]:
    return {
        "ratio": ratio.ratio,
        "error": ratio.error if math.isfinite(ratio.error) else None,
        f"rmse_model_{UNITS[quantity]}": ratio.rmse_model,
        f"rmse_foundation_{UNITS[quantity]}": ratio.rmse_foundation,
        "n_frames": ratio.n_frames,
    }
