"""What defines a run of i-PI with a MACE model, beyond what defines any molecular dynamics run."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from typing import Any

from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.dynamics.gle import GleMatrix, load_matrix
from aiida_mlfinetune.science.dynamics.md_settings import MdSettings, check_flags, is_number
from aiida_mlfinetune.science.models.devices import DTYPES, device_problem

DEVICES = ("cpu", "cuda")


class Thermostat(str, Enum):
    """Thermostats of the atoms; a flexible or breathing cell has one of its own.

    Attributes:
        LANGEVIN: white noise on every atom. Samples a molecule in vacuum correctly, rotation included.
        SVR: stochastic velocity rescaling, one global factor. Disturbs the dynamics least; for classical nuclei.
        GLE: coloured noise on every atom, from one drift matrix.
        PILE_L: white noise on every normal mode of the ring polymers, of critical damping but for the centroids.
        PILE_G: as PILE_L, with one global factor for the centroids.
        PIGLET: coloured noise on every normal mode, from a matrix for each.
    """

    LANGEVIN = "langevin"
    SVR = "svr"
    GLE = "gle"
    PILE_L = "pile-l"
    PILE_G = "pile-g"
    PIGLET = "piglet"

    @property
    def uses_matrix(self) -> bool:
        """Whether it takes its time scales from a matrix instead of a time constant."""
        return self in (Thermostat.GLE, Thermostat.PIGLET)


MATRIX_USERS = {
    "gle": "it is the matrix of thermostat 'gle' or 'piglet', and of cell_thermostat 'gle' where there is no cell_gle",
    "cell_gle": "it is the matrix of cell_thermostat 'gle' under a barostat",
}
"""What the matrices are for."""
CELL_THERMOSTATS = (Thermostat.LANGEVIN, Thermostat.SVR, Thermostat.GLE)
"""A cell has no normal modes."""
EXPLODED_TEMPERATURE_FACTOR = 20.0
EXPLODED_TEMPERATURE_K = 5000.0
"""By default a run has exploded whose temperature passes both, 20 times that of the thermostat and 5000 K."""


@dataclass(frozen=True)
class IpiSettings(MdSettings):
    """A molecular dynamics run with i-PI.

    Attributes:
        properties_stride: steps between rows of the properties; divides ``stride``. By default the largest divisor of
            ``stride`` up to 10.
        checkpoint_stride: steps between restart files, a multiple of ``properties_stride``; by default 10 strides. A
            run that is ended politely (wall time, SIGTERM) writes one at its last row in any case.
        thermostat: see ``Thermostat``; ``thermostat_tau_fs`` is its time constant (of the centroids, with PILE).
        gle: matrix of the thermostats ``gle`` and ``piglet``: the name of a shipped one, or its content in the layout
            of ``science.gle``; kept is the content.
        cell_thermostat: thermostat of a cell that moves: ``langevin`` or ``svr``, whose time constant is that of the
            barostat, or ``gle``.
        cell_gle: matrix of the cell's ``gle``; by default the atoms'.
        n_beads: beads of the ring polymer; 1 is classical.
        batch_size: beads whose forces are computed in one pass of the model; divides ``n_beads``, by default all.
        print_forces: whether frames hold forces (eV/A) too; energies and, for crystals, stress they always do.
        head: head of the model; needed if it has several.
        dtype: precision of the model, ``float64`` or ``float32``.
        device: where the model runs, ``cpu`` or ``cuda``.
        enable_cueq: whether the model uses the kernels of cuEquivariance; with ``cuda`` only.
        min_distance_A: two atoms closer than this end the run as exploded.
        max_force_eV_A: a force above this ends it.
        max_displacement_A: an atom that moves further in one step ends it.
        max_temperature_K: a temperature above this ends it; by default 20 times ``temperature_K``, but at least 5000 K.
        volume_factor_limits: volumes outside these multiples of the start's end it.
        require_stress: refuse a barostat with a model that was trained without stress, instead of warning of it.
    """

    properties_stride: int | None = None
    checkpoint_stride: int | None = None
    thermostat: Thermostat = Thermostat.LANGEVIN
    gle: Mapping[str, Any] | str | None = None
    cell_thermostat: Thermostat = Thermostat.LANGEVIN
    cell_gle: Mapping[str, Any] | str | None = None
    n_beads: int = 1
    batch_size: int | None = None
    print_forces: bool = False
    head: str | None = None
    dtype: str = "float64"
    device: str = "cpu"
    enable_cueq: bool = False
    min_distance_A: float = 0.4  # noqa: N815 - the unit
    max_force_eV_A: float = 200.0  # noqa: N815
    max_displacement_A: float = 0.5  # noqa: N815
    max_temperature_K: float | None = None  # noqa: N815
    volume_factor_limits: tuple[float, float] = (0.4, 2.5)
    require_stress: bool = False

    def __post_init__(self) -> None:
        """Check every value; the message names the offender and the remedy."""
        super().__post_init__()
        self._set_beads()
        self._set_thermostats()
        for name, choices in (("dtype", DTYPES), ("device", DEVICES)):
            if getattr(self, name) not in choices:
                raise StudyError(f"{name} is {getattr(self, name)!r}: choose from {list(choices)}")
        if (problem := device_problem(self.device, self.dtype, self.enable_cueq)) is not None:
            raise StudyError(problem)
        if self.max_temperature_K is None:
            limit = max(EXPLODED_TEMPERATURE_FACTOR * self.temperature_K, EXPLODED_TEMPERATURE_K)
            object.__setattr__(self, "max_temperature_K", limit)
        for name in ("min_distance_A", "max_force_eV_A", "max_displacement_A", "max_temperature_K"):
            value = getattr(self, name)
            if not is_number(value) or not value > 0:
                raise StudyError(f"{name} is {value!r}, but must be a positive number")
        limits = tuple(self.volume_factor_limits)
        if len(limits) != 2 or not all(map(is_number, limits)) or not 0 <= limits[0] < 1 < limits[1]:
            raise StudyError(f"volume_factor_limits are {list(limits)}, but must be [below 1, above 1]")
        object.__setattr__(self, "volume_factor_limits", limits)
        check_flags(self, ("print_forces", "require_stress"))
        self._set_strides()

    def _set_beads(self) -> None:
        if not _is_count(self.n_beads):
            raise StudyError(f"n_beads is {self.n_beads!r}, but must be an integer of at least 1")
        if self.batch_size is None:
            object.__setattr__(self, "batch_size", self.n_beads)
        elif not _is_count(self.batch_size) or self.n_beads % self.batch_size:
            raise StudyError(
                f"batch_size is {self.batch_size!r}, but must divide n_beads ({self.n_beads}), so that no bead waits "
                "for a batch that never fills"
            )

    def _set_thermostats(self) -> None:
        for name in ("thermostat", "cell_thermostat"):
            try:
                object.__setattr__(self, name, Thermostat(getattr(self, name)))
            except ValueError:
                raise StudyError(
                    f"unknown {name} {getattr(self, name)!r}: choose from {[choice.value for choice in Thermostat]}"
                ) from None
        if self.cell_thermostat not in CELL_THERMOSTATS:
            raise StudyError(
                f"cell_thermostat is {self.cell_thermostat.value!r}, which acts on the normal modes of ring polymers: "
                f"choose from {[choice.value for choice in CELL_THERMOSTATS]}"
            )
        for name in ("gle", "cell_gle"):
            object.__setattr__(self, name, _matrix_content(name, getattr(self, name)))
        if self.n_beads > 1 and self.thermostat is Thermostat.SVR and self.ensemble is not Ensemble.NVE:
            raise StudyError(
                "thermostat 'svr' does not sample path integrals, whose normal modes hardly exchange energy: use "
                "'pile-g', which rescales the centroids only"
            )
        self._check_matrices()

    def _check_matrices(self) -> None:
        """Raise ``StudyError`` for a matrix that is missing, or not the thermostat's.

        One without use is no error here, as that of a protocol has none in a run that changes the thermostat:
        ``check_use`` refuses those that were asked for.
        """
        if self._atoms_use_matrix:
            matrix = self.matrix
            if matrix is None:
                raise StudyError(
                    f"thermostat {self.thermostat.value!r} needs a matrix as gle: the name of a shipped one, or its "
                    "content"
                )
            if self.thermostat is Thermostat.PIGLET:
                matrix.check_normal_modes(self.n_beads, self.temperature_K)
            else:
                matrix.check_one_for_all()
        if self._cell_uses_matrix:
            matrix = self.cell_matrix
            if matrix is None:
                raise StudyError("cell_thermostat 'gle' needs a matrix: give cell_gle, or gle for atoms and cell")
            matrix.check_one_for_all()

    @property
    def _atoms_use_matrix(self) -> bool:
        return self.ensemble is not Ensemble.NVE and self.thermostat.uses_matrix

    @property
    def _cell_uses_matrix(self) -> bool:
        return self.ensemble.has_barostat and self.cell_thermostat is Thermostat.GLE

    @property
    def unused_matrices(self) -> tuple[str, ...]:
        """Which of ``gle`` and ``cell_gle`` are there, but used by no thermostat of the run."""
        used = {
            "gle": self._atoms_use_matrix or (self._cell_uses_matrix and self.cell_gle is None),
            "cell_gle": self._cell_uses_matrix,
        }
        return tuple(name for name, use in used.items() if getattr(self, name) is not None and not use)

    def check_use(self, given: Mapping[str, Any]) -> None:
        """Raise ``StudyError`` for a matrix among the ``given`` parameters that no thermostat of the run uses."""
        for name in self.unused_matrices:
            if given.get(name) is not None:
                raise StudyError(
                    f"{name} is given, but nothing uses it: {MATRIX_USERS[name]}, but here ensemble is "
                    f"{self.ensemble.value!r}, thermostat {self.thermostat.value!r}, cell_thermostat "
                    f"{self.cell_thermostat.value!r}; leave it out, or change those"
                )

    @property
    def n_batches(self) -> int:
        """Passes of the model a step."""
        return self.n_beads // (self.batch_size or self.n_beads)

    @property
    def matrix(self) -> GleMatrix | None:
        """The matrix of the atoms' thermostat."""
        return _matrix("gle", self.gle)

    @property
    def cell_matrix(self) -> GleMatrix | None:
        """The matrix of the cell's thermostat."""
        return _matrix("gle", self.gle) if self.cell_gle is None else _matrix("cell_gle", self.cell_gle)

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
            "cell_thermostat": self.cell_thermostat.value,
            "volume_factor_limits": list(self.volume_factor_limits),
        }


def _matrix_content(name: str, given: Mapping[str, Any] | str | None) -> dict[str, Any] | None:
    """Return the content of a matrix that is given by name or by content, checked."""
    if given is None:
        return None
    if not isinstance(given, (str, Mapping)):
        raise StudyError(f"{name} is {given!r}, but must be the name of a shipped matrix or a dictionary")
    content = load_matrix(given) if isinstance(given, str) else deepcopy(dict(given))
    GleMatrix.from_dict(content, name)
    return content


def _matrix(name: str, content: Mapping[str, Any] | str | None) -> GleMatrix | None:
    return None if content is None or isinstance(content, str) else GleMatrix.from_dict(content, name)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
