"""When a loop of labelling, training, running and reweighting ends: the target is met, or the budget is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.conclusions.reweighting import MIN_EFFECTIVE
from aiida_mlfinetune.science.conclusions.targets import Verdict
from aiida_mlfinetune.science.training.learning_curve import FAR, fit_power_law, rounded

STOP, GO_ON = "stop", "go on"


@dataclass(frozen=True)
class Budget:
    """What a closed loop may cost.

    Attributes:
        max_rounds: rounds of training, running and reweighting, at most.
        max_labels: frames that the loop labels, at most, those of the reweighting included; None for no limit.
    """

    max_rounds: int = 4
    max_labels: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            StudyError: a value that is no positive whole number.
        """
        for name, value in asdict(self).items():
            if value is None and name == "max_labels":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise StudyError(f"{name} of the budget is {value!r}, but must be a whole number of at least 1")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Budget:
        """Build from plain JSON types.

        Raises:
            StudyError: an unknown name, or a bad value.
        """
        known = list(cls.__dataclass_fields__)
        if unknown := sorted(set(values) - set(known)):
            raise StudyError(f"unknown entries {unknown} in the budget: known are {known}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def next_step(verdict: Verdict, n_rounds: int, n_labels: int, labels_per_round: int, budget: Budget) -> tuple[str, str]:
    """Return whether the loop stops or goes on, and why, in words.

    Args:
        verdict: on the averages of the round that ended.
        n_rounds: rounds that ended.
        n_labels: frames that were labelled so far.
        labels_per_round: frames that the round labelled for its reweighting; the next one will label as many.
        budget: see ``Budget``.
    """
    if verdict is Verdict.MET:
        return STOP, "the target is met"
    if n_rounds >= budget.max_rounds:
        return STOP, f"the budget of {budget.max_rounds} rounds is spent"
    if budget.max_labels is not None and n_labels + labels_per_round > budget.max_labels:
        return STOP, (
            f"{n_labels} of {budget.max_labels} labels are spent, and another round needs {labels_per_round}: the "
            "budget is spent"
        )
    if verdict is Verdict.MISSED:
        return GO_ON, "the target is missed: the frames with the largest errors are trained on"
    return GO_ON, "the target cannot be told to be met: the frames with the largest errors are trained on"


def reliable_spread(n_frames: int) -> float:
    """Return how much energy differences may spread, in kT, for the weights of so many frames to be reliable.

    Gaussian differences with the standard deviation s leave n exp(-s^2) effective ones of n frames.

    Raises:
        StudyError: so few frames that no weights are.
    """
    if n_frames <= MIN_EFFECTIVE:
        raise StudyError(f"of {n_frames} frames more than {MIN_EFFECTIVE:g} are wanted: label more of a run")
    return math.sqrt(math.log(n_frames / MIN_EFFECTIVE))


def what_it_takes(n_frames: Sequence[int], spreads: Sequence[float], labels_per_round: int) -> str:
    """Return in words how many frames to train on the weights of a round need to be reliable.

    Args:
        n_frames: that each round was trained on.
        spreads: standard deviation of the energy differences between model and reference in each round, in kT.
        labels_per_round: frames of a run that a round labels for its weights.
    """
    told = ", ".join(f"{spread:.2g} kT with {n}" for n, spread in zip(n_frames, spreads, strict=True))
    text = f"Energies of model and reference differ by {told} frames (standard deviation on the frames of a run)"
    if labels_per_round <= MIN_EFFECTIVE:
        return f"{text}; {labels_per_round} labelled frames of a run are too few for any weights to be reliable."
    wanted = reliable_spread(labels_per_round)
    text += f"; the weights of {labels_per_round} frames are reliable up to some {wanted:.2g} kT."
    if spreads[-1] <= wanted:
        return text
    law = fit_power_law(n_frames, spreads) if len(set(n_frames)) > 1 else None
    if law is None:
        return f"{text} One round does not tell how many frames get there."
    needed, error = law.size_for(wanted)
    if not math.isfinite(needed):
        return (
            f"{text} More frames do not help so far: the differences do not fall. Noisy labels, or a model that is too "
            "small, can be why."
        )
    text += f" A power law through the rounds gets there with about {rounded(needed, math.nan)} frames"
    if needed > FAR * n_frames[-1] or not error < needed:
        return f"{text}: no more than a hint."
    return f"{text}."
