"""What a training was asked to do, and where what it says that it did differs.

The program writes down, from MACE's own objects, the heads of the model, the frames of each set and head with a weight
on energies, forces and stress, the loss, the learning rates and the averages. MACE changes several of these silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aiida_mlfinetune.science.training.heads import HeadSets, Targets, loss_targets
from aiida_mlfinetune.science.training.mace_arguments import DEFAULTS, FROZEN_BY, LOSSES_WITH_STRESS

LOSS_CLASSES = {
    "weighted": "WeightedEnergyForcesLoss",
    "l1l2energyforces": "WeightedEnergyForcesL1L2Loss",
    "stress": "WeightedEnergyForcesStressLoss",
    "universal": "UniversalLoss",
    "huber": "WeightedHuberEnergyForcesStressLoss",
}
GROUPS = (*FROZEN_BY, "readouts")
"""MACE's groups of weights, each with a learning rate."""
TOLERANCE = 1e-6
"""Numbers are kept in float32 where that is the precision of the training."""


def expected_record(
    parameters: Mapping[str, Any], heads: Sequence[HeadSets], *, fine_tuned: bool = False
) -> dict[str, Any]:
    """Return what the record of a training must say if it did what its inputs ask for."""
    settings = {**DEFAULTS, **parameters}
    targets = loss_targets(parameters)
    frozen = [group for group, value in FROZEN_BY.items() if settings.get("freeze", 0) >= value]
    rate = float(settings["lr"])
    return {
        "heads": [head.name for head in heads],
        "fine_tuned": fine_tuned,
        "sets": {name: {head.name: _counts(head, name, targets) for head in heads} for name in ("train", "valid")},
        "loss": _loss(settings, ""),
        "lr": {group: 0.0 if group in frozen else rate for group in GROUPS},
        "frozen": frozen,
        "lora": settings["lora"],
        "ema_decay": float(settings["ema_decay"]) if settings["ema"] else None,
        "batch_size": settings["batch_size"],
        "stage_two": {
            "start": settings["start_swa"],
            "lr": float(settings["swa_lr"]),
            "loss": _loss(settings, "swa_"),
        }
        if settings["swa"]
        else None,
    }


def record_differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """Return in words where what a training did differs from what was asked for; entries not asked for are skipped."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        differences: list[str] = []
        for key, value in expected.items():
            place = f"{where}.{key}" if where else str(key)
            if key not in found:
                differences.append(f"{place} is missing")
            else:
                differences += record_differences(value, found[key], place)
        return differences
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (expected, found))
    same = math.isclose(expected, found, rel_tol=TOLERANCE, abs_tol=1e-12) if numbers else expected == found
    return [] if same else [f"{where}: {expected!r} asked for, {found!r} done"]


def _counts(head: HeadSets, name: str, targets: Targets) -> dict[str, int]:
    frames = head.trained_frames(name, targets)
    return {"n": len(frames), **frames.labels(head.level).counts}


def _loss(settings: Mapping[str, Any], stage: str) -> dict[str, Any]:
    weights = {name: float(settings[f"{stage}{name}"]) for name in ("energy_weight", "forces_weight")}
    if settings["loss"] in LOSSES_WITH_STRESS:
        weights["stress_weight"] = float(settings[f"{stage}stress_weight"])
    return {"class": LOSS_CLASSES[settings["loss"]], **weights}
