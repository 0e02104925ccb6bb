"""Levels of theory and the labels computed at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_mlfinetune.common.enums import EnergyKind
from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.common.jsonable import plain_json
from aiida_mlfinetune.science.datasets.reference_cells import joined_references

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
GRID_CELLS = "grid_cells"


@dataclass(frozen=True)
class Level:
    """A level of theory, as far as it defines the numbers of a label.

    Attributes:
        key: unique name within a dataset, such as ``revpbe-d3/cp2k``.
        engine: program family, such as ``cp2k``.
        method: functional or Hamiltonian, such as ``revPBE-D3(zero)``.
        basis: basis set or plane-wave cutoff, free text.
        energy: which energy is stored.
        code: name of the executable, free text.
        code_version: version as printed by the program.
        settings: further JSON-serialisable settings that define the level.
    """

    key: str
    engine: str = ""
    method: str = ""
    basis: str = ""
    energy: EnergyKind = EnergyKind.FREE
    code: str = ""
    code_version: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the key and turn a plain string into an ``EnergyKind``."""
        if not self.key or any(character.isspace() for character in self.key):
            raise LabelsError(f"the level key {self.key!r} is empty or holds white space: use a name like 'pbe/cp2k'")
        object.__setattr__(self, "energy", EnergyKind(self.energy))
        try:
            object.__setattr__(self, "settings", plain_json(dict(self.settings)))
        except (TypeError, ValueError) as error:
            raise LabelsError(f"the settings of level {self.key!r} are not plain JSON: {error}") from error

    def joined(self, other: Level) -> Level | None:
        """Return the level that labels of both are at, or None where these are two.

        Reference cells of the grid (``grid_cells`` in the settings) belong to a crystal each: labels of different
        crystals may be joined, those of one crystal only if they have one reference cell.
        """
        mine, theirs = (dict(level.settings) for level in (self, other))
        references = joined_references(mine.pop(GRID_CELLS, {}), theirs.pop(GRID_CELLS, {}))
        if references is None or replace(self, settings=mine) != replace(other, settings=theirs):
            return None
        return replace(self, settings={**mine, GRID_CELLS: references}) if references else self

    def to_dict(self) -> dict[str, Any]:
        """Return the level as plain JSON types."""
        return {
            "key": self.key,
            "engine": self.engine,
            "method": self.method,
            "basis": self.basis,
            "energy": self.energy.value,
            "code": self.code,
            "code_version": self.code_version,
            "settings": dict(self.settings),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Level:
        """Build a level from what ``to_dict`` returned; unknown names are refused."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise LabelsError(
                f"unknown entries in a level of theory: {sorted(unknown)}; known: {list(cls.__dataclass_fields__)}"
            )
        return cls(**values)


@dataclass(frozen=True)
class Labels:
    """Energies, forces and stress of a set of frames at one level; missing values are NaN.

    Attributes:
        level: the level of theory.
        energy: (n,) eV.
        forces: (N, 3) eV/angstrom, all atoms of all frames.
        stress: (n, 3, 3) eV/angstrom^3, ASE's sign (positive = tensile).
        has_energy: (n,) mask.
        has_forces: (n,) mask; a frame has forces for all of its atoms or none.
        has_stress: (n,) mask.
    """

    level: Level
    energy: FloatArray
    forces: FloatArray
    stress: FloatArray
    has_energy: BoolArray
    has_forces: BoolArray
    has_stress: BoolArray

    @classmethod
    def build(
        cls,
        level: Level,
        offsets: IntArray,
        energy: FloatArray | None = None,
        forces: FloatArray | None = None,
        stress: FloatArray | None = None,
    ) -> Labels:
        """Make labels of the frames given by ``offsets`` (n + 1,); NaN marks what is missing.

        A value that is infinite, or forces or a stress that are NaN in part, raise ``LabelsError``: NaN throughout
        means "not labelled", anything else is a fault of the calculation that produced it.
        """
        n, n_atoms = len(offsets) - 1, int(offsets[-1])
        e = np.full(n, np.nan) if energy is None else np.array(energy, dtype=np.float64).reshape(n)
        f = np.full((n_atoms, 3), np.nan) if forces is None else np.array(forces, dtype=np.float64).reshape(n_atoms, 3)
        s = np.full((n, 3, 3), np.nan) if stress is None else np.array(stress, dtype=np.float64).reshape(n, 3, 3)
        for name, values in (("energy", e), ("forces", f), ("stress", s)):
            if np.isinf(values).any():
                raise LabelsError(f"{name} of level {level.key!r} holds infinite values")
        has_energy = np.asarray(~np.isnan(e))
        has_stress = np.asarray(~np.isnan(s).any(axis=(1, 2)))
        finite = (~np.isnan(f).any(axis=1)).astype(np.int64)
        cumulative = np.concatenate([[0], np.cumsum(finite)])
        counts = cumulative[offsets[1:]] - cumulative[offsets[:-1]]
        sizes = np.diff(offsets)
        has_forces = np.asarray((counts == sizes) & (sizes > 0))
        if (partial := np.flatnonzero((counts > 0) & ~has_forces)).size:
            raise LabelsError(f"forces of level {level.key!r} are NaN for some atoms of frames {partial[:10].tolist()}")
        if (partial := np.flatnonzero(np.isnan(s).any(axis=(1, 2)) & ~np.isnan(s).all(axis=(1, 2)))).size:
            raise LabelsError(f"the stress of level {level.key!r} is NaN in part for frames {partial[:10].tolist()}")
        return cls(level, e, f, s, has_energy, has_forces, has_stress)

    @property
    def counts(self) -> dict[str, int]:
        """Number of frames with each kind of label."""
        return {
            "energy": int(self.has_energy.sum()),
            "forces": int(self.has_forces.sum()),
            "stress": int(self.has_stress.sum()),
        }
