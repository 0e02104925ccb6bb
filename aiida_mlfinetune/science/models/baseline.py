"""A model of the difference between two levels, and the baseline that it is added to.

The passport of such a model says so in ``settings['baseline']``: ``sha256`` and ``head`` of the baseline (none where
the baseline is no model of ours, but labels that a dataset had already), and ``level``, the key of its level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida_mlfinetune.common.errors import ModelError
from aiida_mlfinetune.science.models.passport import Passport


def required_baseline(passport: Passport) -> Mapping[str, Any] | None:
    """Return ``sha256``, ``head`` and ``level`` of the baseline that a model is a difference to, None if it is none."""
    found: Mapping[str, Any] | None = passport.settings.get("baseline") or None
    return found


def baseline_head(passport: Passport, baseline: Passport | None) -> str | None:
    """Return the head of ``baseline`` that a model's predictions are added to, None for a model that needs none.

    Args:
        passport: of the model that is to predict.
        baseline: of the model given as its baseline, if any.

    Raises:
        ModelError: a difference without its baseline, or with another one; a baseline for a model that is no
            difference.
    """
    required = required_baseline(passport)
    if required is None:
        if baseline is not None:
            raise ModelError(
                f"a baseline is given, but model {passport.sha256[:8]} is no difference between two levels: its own "
                "energies are complete, so leave `baseline` out"
            )
        return None
    digest, head = required.get("sha256"), required.get("head")
    if not digest:
        raise ModelError(
            f"model {passport.sha256[:8]} is a difference to the level {required.get('level')!r}, which is no MACE "
            "model, so that nothing can be added to it here: train the difference to a MACE model (the input "
            "`baseline` of the training)"
        )
    if baseline is None:
        raise ModelError(
            f"model {passport.sha256[:8]} is a difference to the model {digest[:8]}, and means nothing without it: "
            "pass that model as `baseline`"
        )
    if baseline.sha256 != digest:
        raise ModelError(
            f"model {passport.sha256[:8]} is a difference to the model {digest[:8]}, but the baseline given is "
            f"{baseline.sha256[:8]}: pass the one that it was trained with"
        )
    if required_baseline(baseline) is not None:
        raise ModelError(
            f"the baseline {baseline.sha256[:8]} is itself a difference to another model: a sum of three is not "
            "supported, train on a baseline that stands alone"
        )
    if head is None and len(baseline.heads) == 1:
        head = baseline.heads[0]
    if head not in baseline.heads:
        raise ModelError(f"the baseline {baseline.sha256[:8]} has no head {head!r}: it has {list(baseline.heads)}")
    return str(head)
