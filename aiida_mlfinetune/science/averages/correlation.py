"""How long a run remembers: the number of steps after which two of its frames are told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.statistics import MIN_SAMPLES, time_average


@dataclass(frozen=True)
class CorrelationTime:
    """The integrated autocorrelation time of the energies of a run.

    Attributes:
        steps: in steps of the run.
        error: half the difference of what the two halves of the run give, in steps.
        stride: steps between two samples.
        n_samples: samples after equilibration.
        n_independent: number of independent samples.
        warnings: what makes it doubtful.
    """

    steps: float
    error: float
    stride: int
    n_samples: int
    n_independent: float
    warnings: tuple[str, ...] = ()

    @property
    def separation(self) -> int:
        """Whole steps that two frames must be apart."""
        return math.ceil(self.steps - 1e-9)


def correlation_time(steps: ArrayLike, energies: ArrayLike) -> CorrelationTime:
    """Return the integrated autocorrelation time of a run's potential energies after equilibration.

    Args:
        steps: (n,) step of each sample, at equal distances.
        energies: (n,) potential energy in eV.

    Raises:
        MlFinetuneError: too few samples to tell, or samples that are not at equal distances.
    """
    step, energy = np.asarray(steps, dtype=np.int64).reshape(-1), np.asarray(energies, dtype=np.float64).reshape(-1)
    known = np.isfinite(energy)
    step, energy = step[known], energy[known]
    if len(step) < 2 * MIN_SAMPLES:
        raise MlFinetuneError(
            f"{len(step)} energies are too few to tell a correlation time: give 'min_separation' in steps yourself"
        )
    strides = np.unique(np.diff(step))
    if len(strides) != 1 or strides[0] < 1:
        raise MlFinetuneError(
            f"the energies of a run must be at equal distances, but its steps differ by {strides[:5].tolist()}: give "
            "'min_separation' in steps yourself"
        )
    stride = int(strides[0])
    whole = time_average(energy)
    used = energy[whole.equilibration :]
    half = len(used) // 2
    halves = [time_average(part, 0).correlation_time for part in (used[:half], used[half:])]
    spread = abs(halves[0] - halves[1]) / 2
    return CorrelationTime(
        steps=whole.correlation_time * stride,
        error=spread * stride if math.isfinite(spread) else math.inf,
        stride=stride,
        n_samples=whole.n_samples,
        n_independent=whole.n_independent,
        warnings=whole.warnings if math.isfinite(spread) else (*whole.warnings, "the run is too short for an error"),
    )


def longest(times: Mapping[str, CorrelationTime]) -> str:
    """Return the name of the run with the longest correlation time."""
    return max(times, key=lambda name: (times[name].steps, name))
