"""What a study is going to do, stage by stage, and about how many hours that takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CELL_ATOMS = 24
"""Atoms of the cell that costs of levels are given for."""
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        name: of the stage.
        processes: work chains.
        what: what is done, in words.
        labels: frames that get labels.
        steps: molecular dynamics steps, all runs together; a step of b beads counts once.
        core_seconds: estimate; None where a cost is not known.
    """

    name: str
    processes: int
    what: str
    labels: int = 0
    steps: int = 0
    core_seconds: float | None = 0.0


@dataclass(frozen=True)
class StudyPlan:
    """All stages.

    Attributes:
        title: the crystals, in words.
        stages: in order.
        concurrent: work chains at a time.
    """

    title: str
    stages: tuple[StagePlan, ...]
    concurrent: int

    @property
    def processes(self) -> int:
        """Work chains of all stages."""
        return sum(stage.processes for stage in self.stages)

    @property
    def labels(self) -> int:
        """Frames that get labels."""
        return sum(stage.labels for stage in self.stages)

    @property
    def steps(self) -> int:
        """Molecular dynamics steps."""
        return sum(stage.steps for stage in self.stages)

    @property
    def core_hours(self) -> float:
        """Core hours of the stages whose costs are known."""
        return sum(stage.core_seconds or 0.0 for stage in self.stages) / SECONDS_PER_HOUR

    @property
    def unknown(self) -> list[str]:
        """Stages whose costs are not known."""
        return [stage.name for stage in self.stages if stage.core_seconds is None]

    def lines(self) -> list[str]:
        """Return the plan, line by line."""
        width = max(len(stage.name) for stage in self.stages)
        lines = [self.title]
        for stage in self.stages:
            hours = "?" if stage.core_seconds is None else f"{_rounded(stage.core_seconds / SECONDS_PER_HOUR)}"
            lines.append(f"  {stage.name:<{width}}  {stage.processes:>4} x  {hours:>7} core hours  {stage.what}")
        known = f"about {_rounded(self.core_hours)} core hours"
        if self.unknown:
            known = f"at least {_rounded(self.core_hours)} core hours (not known: {', '.join(self.unknown)})"
        lines.append(
            f"in all {self.processes} work chains, {self.labels} labels, {self.steps} MD steps, {known}; "
            f"some {_rounded(self.core_hours / self.concurrent)} hours with {self.concurrent} one-core jobs at a time"
        )
        return lines


def label_cost(costs: Mapping[str, Any], level: str, n_atoms: int, *, periodic: bool) -> float | None:
    """Return the core seconds of a label of ``n_atoms`` atoms, or of a step at that level; None if it is not known."""
    known = costs["levels"].get(level)
    if known is None:
        return None
    if not periodic:
        return float(known["gas"])
    return float(known["crystal"] * (n_atoms / CELL_ATOMS) ** known["exponent"])


def add_costs(*costs: float | None) -> float | None:
    """Return the sum, None if one of them is not known."""
    total = 0.0
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return total


def _rounded(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.2g}"
