"""When a loop of labelling, training, running and reweighting ends: the target is met, or the budget is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.conclusions.targets import Verdict

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
