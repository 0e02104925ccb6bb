"""Matrices of generalised Langevin thermostats (GLE): those that are shipped, and the checks on any.

The physical momentum p (scaled by the root of the mass) and n - 1 additional momenta s obey

    d(p, s)/dt = -A (p, s) + B xi(t),    B B^T = A C + C A^T,

with the drift matrix A (``drift``) and the static covariance C (``covariance``; without one k T times the identity).
Source: Ceriotti, Bussi, Parrinello, Phys. Rev. Lett. 102, 020601 (2009); for path integrals with a matrix for each
normal mode (PIGLET) Ceriotti, Manolopoulos, Phys. Rev. Lett. 109, 100604 (2012).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.datasets.levels import FloatArray

FOLDER = "gle"
KEYS = ("name", "description", "source", "drift_per_atomic_time", "covariance_K")
ROUNDING = 1e-6
"""How far, relative to the largest eigenvalue, published digits may leave the noise below zero."""
CENTROID_TOLERANCE = 0.05
"""How far the covariance of the centroid may be from the number of beads times the temperature."""


@dataclass(frozen=True)
class GleMatrix:
    """A thermostat's matrices.

    Attributes:
        drift: A in inverse atomic units of time: (n, n), or (n_beads, n, n) for one matrix a normal mode.
        covariance: C in kelvin, of the shape of ``drift``; None for the temperature times the identity.
        name: what errors call it.
    """

    drift: FloatArray
    covariance: FloatArray | None = None
    name: str = "gle"

    def __post_init__(self) -> None:
        """Check shapes, stability and noise.

        Raises:
            StudyError: not square or not finite; a drift whose momenta grow; a covariance that is not symmetric and
                positive definite; noise that would have to be imaginary.
        """
        shape = self.drift.shape
        if len(shape) not in (2, 3) or shape[-1] != shape[-2] or 0 in shape:
            raise StudyError(
                f"the drift of {self.name} has the shape {shape}, but must be (n, n), or (n_beads, n, n) for one "
                "matrix a normal mode"
            )
        if self.covariance is not None and self.covariance.shape != shape:
            raise StudyError(
                f"the covariance of {self.name} has the shape {self.covariance.shape}, but its drift {shape}"
            )
        for index, drift in enumerate(self.drift.reshape(-1, *shape[-2:])):
            where = f" of normal mode {index}" if len(shape) == 3 else ""
            covariance = None if self.covariance is None else self.covariance.reshape(-1, *shape[-2:])[index]
            self._check(drift, covariance, where)

    def _check(self, drift: FloatArray, covariance: FloatArray | None, where: str) -> None:
        if not np.isfinite(drift).all() or (covariance is not None and not np.isfinite(covariance).all()):
            raise StudyError(f"a matrix of {self.name}{where} holds numbers that are not finite")
        if np.linalg.eigvals(drift).real.min() <= 0:
            raise StudyError(
                f"the drift of {self.name}{where} has an eigenvalue whose real part is not positive: its momenta would "
                "grow without bounds"
            )
        if covariance is None:
            lowest = np.linalg.eigvalsh(drift + drift.T)[0]
            if not lowest > 0:
                raise StudyError(
                    f"the drift A of {self.name}{where} is not positive definite: the lowest eigenvalue of A + A^T is "
                    f"{lowest:.3g}; give its covariance, or correct the matrix"
                )
            return
        if not np.allclose(covariance, covariance.T, rtol=ROUNDING, atol=ROUNDING * np.abs(covariance).max()):
            raise StudyError(f"the covariance of {self.name}{where} is not symmetric")
        if np.linalg.eigvalsh(covariance)[0] <= 0:
            raise StudyError(f"the covariance of {self.name}{where} is not positive definite")
        noise = np.linalg.eigvalsh(drift @ covariance + covariance @ drift.T)
        if noise[0] < -ROUNDING * noise[-1]:
            raise StudyError(
                f"the noise A C + C A^T of {self.name}{where} has a negative eigenvalue: drift and covariance do not "
                "belong together"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str = "gle") -> GleMatrix:
        """Build the matrices from plain values: the keys are those of the shipped files, ``KEYS``.

        Raises:
            StudyError: unknown keys, no drift, or matrices that cannot be.
        """
        if unknown := sorted(set(values) - set(KEYS)):
            raise StudyError(f"unknown entries {unknown} in {name}: known are {list(KEYS)}")
        if "drift_per_atomic_time" not in values:
            raise StudyError(f"{name} lacks drift_per_atomic_time, the matrix in inverse atomic units of time")
        covariance = values.get("covariance_K")
        return cls(
            _array(values["drift_per_atomic_time"], f"drift_per_atomic_time of {name}"),
            None if covariance is None else _array(covariance, f"covariance_K of {name}"),
            str(values.get("name", name)),
        )

    def check_one_for_all(self) -> None:
        """Refuse what a thermostat that takes one matrix, and samples at the temperature asked for, cannot use.

        Raises:
            StudyError: a matrix for each normal mode, or a covariance of its own.
        """
        if self.drift.ndim != 2:
            raise StudyError(
                f"{self.name} has a matrix for each of {len(self.drift)} normal modes, but the thermostat 'gle' takes "
                "one of the shape (n, n): use the thermostat 'piglet'"
            )
        if self.covariance is not None:
            raise StudyError(
                f"{self.name} has a covariance of its own, with which 'gle' would not sample at temperature_K: leave "
                "covariance_K out, or use the thermostat 'piglet'"
            )

    def check_normal_modes(self, n_beads: int, temperature: float) -> None:
        """Refuse what cannot be the matrices of PIGLET for ``n_beads`` at ``temperature`` (K).

        Raises:
            StudyError: another number of beads, or a centroid of another temperature.
        """
        if self.drift.ndim != 3 or len(self.drift) != n_beads:
            raise StudyError(
                f"the thermostat 'piglet' wants a drift of the shape ({n_beads}, n, n), a matrix for each of the "
                f"n_beads normal modes, but that of {self.name} has the shape {self.drift.shape}"
            )
        if self.covariance is None:
            return
        centroid = float(self.covariance[0, 0, 0]) / n_beads
        if abs(centroid - temperature) > CENTROID_TOLERANCE * temperature:
            raise StudyError(
                f"{self.name} was made for {centroid:.1f} K (covariance of the centroid over the number of beads), but "
                f"temperature_K is {temperature}: use the matrix of this temperature"
            )


def shipped_matrices() -> list[str]:
    """Return the names of the matrices that come with this package."""
    folder = resources.files("aiida_mlfinetune") / FOLDER
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def load_matrix(name: str) -> dict[str, Any]:
    """Return the content of a shipped matrix, in the layout of ``GleMatrix.from_dict``.

    Raises:
        StudyError: no such matrix.
    """
    if name not in shipped_matrices():
        raise StudyError(f"no matrix {name!r} is shipped: choose from {shipped_matrices()}, or give the matrix itself")
    text = (resources.files("aiida_mlfinetune") / FOLDER / f"{name}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def _array(values: Any, name: str) -> FloatArray:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise StudyError(f"{name} is no matrix of numbers whose rows are of equal length") from None
