"""Whether a model was trained on stress, as far as its passport tells."""

from __future__ import annotations

from aiida_mlfinetune.science.models.passport import Passport
from aiida_mlfinetune.science.training.heads import loss_targets


def stress_problem(passport: Passport, head: str) -> str | None:
    """Return what shows that the stress of a model's head was never trained; None if it was, or if nothing is known.

    A barostat moves the cell by the stress. Where that was not in the loss, volumes and densities are extrapolated.
    A model that was imported without the record of its training is passed over.
    """
    settings = passport.settings
    parameters = settings.get("parameters")
    if not parameters:
        return None
    if not loss_targets(parameters).stress:
        loss = parameters.get("loss", "weighted")
        return f"model {passport.sha256[:8]} was trained without stress (loss {loss!r} gives it no weight)"
    counts = settings.get("trained", {}).get("sets", {}).get("train", {}).get(head)
    if counts is not None and counts.get("stress", 0) == 0:
        return f"model {passport.sha256[:8]} was trained without stress: none of the frames of head {head!r} had any"
    return None
