"""Choices that appear in inputs and attributes."""

from __future__ import annotations

from enum import Enum


class Ensemble(str, Enum):
    """Statistical ensemble of a molecular dynamics run."""

    NVE = "nve"
    NVT = "nvt"
    NPT_ISOTROPIC = "npt-isotropic"
    NPT_FLEXIBLE = "npt-flexible"

    @property
    def has_barostat(self) -> bool:
        """Whether the cell moves."""
        return self in (Ensemble.NPT_ISOTROPIC, Ensemble.NPT_FLEXIBLE)


class TrainingMode(str, Enum):
    """How a model comes to be (section "training modes" of the documentation)."""

    SCRATCH = "scratch"
    """Random start."""
    NAIVE = "naive"
    """All weights, from the foundation's."""
    MULTIHEAD_REPLAY = "multihead-replay"
    """Shared descriptors; one head on a replay set, one on the new labels."""
    MULTI_LEVEL = "multi-level"
    """One head for each of several levels."""
    DELTA = "delta"
    """A model of level minus baseline, to be added to the baseline."""
    TRANSFER = "transfer"
    """From a model of a lower level, trained on the higher one; weights may be frozen."""
    MULTI_FIDELITY = "multi-fidelity"
    """A lower and the higher level in the loss, as heads."""

    @property
    def needs_foundation(self) -> bool:
        """Whether a training in this mode always starts from a model."""
        return self in (TrainingMode.NAIVE, TrainingMode.MULTIHEAD_REPLAY, TrainingMode.TRANSFER)

    @property
    def allows_foundation(self) -> bool:
        """Whether a training in this mode may start from a model."""
        return self.needs_foundation or self in (TrainingMode.MULTI_LEVEL, TrainingMode.MULTI_FIDELITY)

    @property
    def has_heads(self) -> bool:
        """Whether the model has further heads beside that of the target level."""
        return self in (TrainingMode.MULTIHEAD_REPLAY, TrainingMode.MULTI_LEVEL, TrainingMode.MULTI_FIDELITY)


class EnergyKind(str, Enum):
    """Which energy of a self-consistent calculation a label holds."""

    FREE = "free"
    """The (free) energy that forces and stress are derivatives of."""
    SIGMA0 = "sigma0"
    """The energy extrapolated to zero electronic smearing."""
