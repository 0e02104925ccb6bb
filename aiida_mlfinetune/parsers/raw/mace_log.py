"""The metrics that MACE writes during a training."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

INITIAL_EPOCH = -1
"""Epoch under which the model before training is listed."""
VALID_METRICS = {
    "valid_loss": "loss",
    "valid_rmse_energy_eV_per_atom": "rmse_e_per_atom",
    "valid_mae_energy_eV_per_atom": "mae_e_per_atom",
    "valid_rmse_forces_eV_A": "rmse_f",
    "valid_mae_forces_eV_A": "mae_f",
    "valid_rmse_stress_eV_A3": "rmse_stress",
}


def parse_loss_curve(text: str) -> dict[str, NDArray[Any]]:
    """Return the loss and the validation errors of every epoch from MACE's JSON lines.

    A training that was resumed repeats epochs: the last time counts. Lines cut short by the end of a job are left out.

    Returns:
        ``epoch`` (n,) with -1 for the model before training; ``train_loss`` (n,), the mean over the batches of all
        heads; ``valid_loss`` and the errors named in ``VALID_METRICS`` (n,), in eV and angstrom, of the target head,
        which is the last that is validated; the same for every other head, ``<head>_valid_loss`` and so on. NaN where
        an epoch was not validated or a label is missing. All empty if there was no epoch.
    """
    batches: dict[int, list[float]] = {}
    valid: dict[int, dict[str, dict[str, Any]]] = {}
    heads: list[str] = []
    resumed = False
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        head = str(entry.get("head"))
        if entry.get("epoch") is None:  # every run starts with a validation of each head
            valid.setdefault(INITIAL_EPOCH, {}).setdefault(head, entry)
            heads += [] if head in heads else [head]
            resumed = True
            continue
        epoch = int(entry["epoch"])
        if resumed:
            for stored in (batches, valid):
                for repeated in [e for e in stored if e >= epoch]:
                    del stored[repeated]
            resumed = False
        if entry["mode"] == "eval":
            valid.setdefault(epoch, {})[head] = entry
            heads += [] if head in heads else [head]
        else:
            batches.setdefault(epoch, []).append(float(entry["loss"]))
    epochs = sorted({*batches, *valid})
    curve: dict[str, NDArray[Any]] = {
        "epoch": np.array(epochs, dtype=np.int64),
        "train_loss": np.array([np.mean(batches[e]) if e in batches else math.nan for e in epochs], dtype=np.float64),
    }
    prefixes = {head: f"{head}_" for head in heads[:-1]}
    for head in [*heads[-1:], *heads[:-1]] or [""]:
        for name, key in VALID_METRICS.items():
            values = [valid.get(epoch, {}).get(head, {}).get(key, math.nan) for epoch in epochs]
            curve[prefixes.get(head, "") + name] = np.array(values, dtype=np.float64)
    return curve
