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
    NAIVE = "naive"


class EnergyKind(str, Enum):
    """Which energy of a self-consistent calculation a label holds."""

    FREE = "free"
    """The (free) energy that forces and stress are derivatives of."""
    SIGMA0 = "sigma0"
    """The energy extrapolated to zero electronic smearing."""
