"""What defines a run of i-PI with a MACE model, beyond what defines any molecular dynamics run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.devices import DTYPES, device_problem
from aiida_mlfinetune.science.md_settings import MdSettings

BEADS_SUPPORTED = (1,)
"""Numbers of beads that the input can be written for."""
DEVICES = ("cpu", "cuda")


class Thermostat(str, Enum):
    """Thermostats of the atoms; a flexible or breathing cell gets a white-noise one of its own.

    Attributes:
        LANGEVIN: white noise on every atom. Samples a molecule in vacuum correctly, rotation included.
        SVR: stochastic velocity rescaling, one global factor. Disturbs the dynamics least.
    """

    LANGEVIN = "langevin"
    SVR = "svr"


@dataclass(frozen=True)
class IpiSettings(MdSettings):
    """A molecular dynamics run with i-PI.

    Attributes:
        properties_stride: steps between rows of the properties; divides ``stride``. By default the largest divisor of
            ``stride`` up to 10.
        checkpoint_stride: steps between restart files, a multiple of ``properties_stride``; by default 10 strides. A
            run that is ended politely (wall time, SIGTERM) writes one at its last row in any case.
        thermostat: see ``Thermostat``.
        n_beads: beads of the ring polymer; 1 is classical.
        print_forces: whether frames hold forces (eV/A) too; energies and, for crystals, stress they always do.
        head: head of the model; needed if it has several.
        dtype: precision of the model, ``float64`` or ``float32``.
        device: where the model runs, ``cpu`` or ``cuda``.
        enable_cueq: whether the model uses the kernels of cuEquivariance; with ``cuda`` only.
        min_distance_A: two atoms closer than this end the run as exploded.
        max_force_eV_A: a force above this ends it.
        max_displacement_A: an atom that moves further in one step ends it.
        volume_factor_limits: volumes outside these multiples of the start's end it.
    """

    properties_stride: int | None = None
    checkpoint_stride: int | None = None
    thermostat: Thermostat = Thermostat.LANGEVIN
    n_beads: int = 1
    print_forces: bool = False
    head: str | None = None
    dtype: str = "float64"
    device: str = "cpu"
    enable_cueq: bool = False
    min_distance_A: float = 0.4  # noqa: N815 - the unit
    max_force_eV_A: float = 200.0  # noqa: N815
    max_displacement_A: float = 0.5  # noqa: N815
    volume_factor_limits: tuple[float, float] = (0.4, 2.5)

    def __post_init__(self) -> None:
        """Check every value; the message names the offender and the remedy."""
        super().__post_init__()
        try:
            object.__setattr__(self, "thermostat", Thermostat(self.thermostat))
        except ValueError:
            raise StudyError(
                f"unknown thermostat {self.thermostat!r}: choose from {[choice.value for choice in Thermostat]}"
            ) from None
        if self.n_beads not in BEADS_SUPPORTED:
            raise StudyError(f"n_beads is {self.n_beads!r}: supported are {list(BEADS_SUPPORTED)}")
        for name, choices in (("dtype", DTYPES), ("device", DEVICES)):
            if getattr(self, name) not in choices:
                raise StudyError(f"{name} is {getattr(self, name)!r}: choose from {list(choices)}")
        if (problem := device_problem(self.device, self.dtype, self.enable_cueq)) is not None:
            raise StudyError(problem)
        for name in ("min_distance_A", "max_force_eV_A", "max_displacement_A"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise StudyError(f"{name} is {value!r}, but must be a positive number")
        limits = tuple(self.volume_factor_limits)
        if len(limits) != 2 or not 0 <= limits[0] < 1 < limits[1]:
            raise StudyError(f"volume_factor_limits are {list(limits)}, but must be [below 1, above 1]")
        object.__setattr__(self, "volume_factor_limits", limits)
        self._set_strides()

    def _set_strides(self) -> None:
        if self.properties_stride is None:
            largest = max(n for n in range(1, min(10, self.stride) + 1) if self.stride % n == 0)
            object.__setattr__(self, "properties_stride", largest)
        elif not _is_count(self.properties_stride) or self.stride % self.properties_stride:
            raise StudyError(
                f"properties_stride is {self.properties_stride!r}, but must divide stride ({self.stride}), so that "
                "every frame has its energy"
            )
        if self.checkpoint_stride is None:
            object.__setattr__(self, "checkpoint_stride", 10 * self.stride)
        elif not _is_count(self.checkpoint_stride) or self.checkpoint_stride % (self.properties_stride or 1):
            raise StudyError(
                f"checkpoint_stride is {self.checkpoint_stride!r}, but must be a multiple of properties_stride "
                f"({self.properties_stride})"
            )

    def check_periodicity(self, periodic: bool) -> None:
        """Raise ``StudyError`` for a barostat without a cell to move."""
        if self.ensemble.has_barostat and not periodic:
            raise StudyError(
                f"ensemble {self.ensemble.value!r} moves the cell, but the structure is a molecule without one: use "
                f"{Ensemble.NVT.value!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            **super().to_dict(),
            "thermostat": self.thermostat.value,
            "volume_factor_limits": list(self.volume_factor_limits),
        }


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
