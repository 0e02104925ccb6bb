"""What defines a molecular dynamics run, whichever program does it, and the checks on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import StudyError

LARGEST_TIMESTEP_WITH_HYDROGEN_FS = 2.0


@dataclass(frozen=True)
class MdSettings:
    """A molecular dynamics run.

    Attributes:
        ensemble: see ``Ensemble``.
        temperature_K: temperature of the thermostat and of the initial velocities.
        n_steps: number of steps.
        seed: seed of velocities and thermostat; in i-PI with another stream for every structure and model.
        pressure_bar: external pressure, for ensembles with a barostat.
        timestep_fs: time step.
        stride: steps between frames that are kept, with positions, forces, cell and stress.
        thermostat_tau_fs: time constant of the thermostat.
        barostat_tau_fs: time constant of the barostat.
        allow_large_timestep: accept more than 2 fs for structures that hold hydrogen.
    """

    ensemble: Ensemble
    temperature_K: float  # noqa: N815 - the unit
    n_steps: int
    seed: int
    pressure_bar: float = 1.0
    timestep_fs: float = 0.5
    stride: int = 10
    thermostat_tau_fs: float = 100.0
    barostat_tau_fs: float = 1000.0
    allow_large_timestep: bool = False

    def __post_init__(self) -> None:
        """Check every value; the message names the offender and the remedy."""
        try:
            object.__setattr__(self, "ensemble", Ensemble(self.ensemble))
        except ValueError:
            raise StudyError(
                f"unknown ensemble {self.ensemble!r}: choose from {[choice.value for choice in Ensemble]}"
            ) from None
        for name in ("temperature_K", "timestep_fs", "thermostat_tau_fs", "barostat_tau_fs"):
            value = getattr(self, name)
            if not is_number(value) or not value > 0:
                raise StudyError(f"{name} is {value!r}, but must be a positive number")
        if not is_number(self.pressure_bar):
            raise StudyError(f"pressure_bar is {self.pressure_bar!r}, but must be a finite number")
        check_flags(self, ("allow_large_timestep",))
        for name in ("n_steps", "stride"):
            value = getattr(self, name)
            if not _is_integer(value) or value < 1:
                raise StudyError(f"{name} is {value!r}, but must be an integer of at least 1")
        if not _is_integer(self.seed) or not 0 < self.seed < 2**31:
            raise StudyError(f"seed is {self.seed!r}, but must be an integer between 1 and {2**31 - 1}")
        if self.stride > self.n_steps:
            raise StudyError(
                f"stride ({self.stride}) is larger than n_steps ({self.n_steps}), so no frame would be kept: lower it"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MdSettings:
        """Build the settings from plain values.

        Raises:
            StudyError: an unknown or missing entry, or a bad value.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise StudyError(f"unknown entries {unknown} in the MD settings: known are {known}")
        required = ("ensemble", "temperature_K", "n_steps", "seed")
        if missing := [name for name in required if name not in values]:
            raise StudyError(f"the MD settings lack {missing}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "ensemble": self.ensemble.value}

    def check_elements(self, elements: Sequence[str]) -> None:
        """Raise ``StudyError`` if the time step is too long for hydrogen and was not allowed explicitly."""
        too_long = self.timestep_fs > LARGEST_TIMESTEP_WITH_HYDROGEN_FS
        if too_long and "H" in elements and not self.allow_large_timestep:
            raise StudyError(
                f"timestep_fs is {self.timestep_fs}, over {LARGEST_TIMESTEP_WITH_HYDROGEN_FS} fs for a structure with "
                "hydrogen: shorten it, or set allow_large_timestep if you mean it"
            )


def is_number(value: object) -> bool:
    """Whether a value is a finite number, which true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_flags(settings: object, names: Sequence[str]) -> None:
    """Raise ``StudyError`` for an attribute that is neither true nor false, such as the text "no"."""
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, bool):
            raise StudyError(f"{name} is {value!r}, but must be true or false")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
