"""Ices by name: proton-disordered and ordered cells of any size, built with GenIce.

GenIce 2 (Matsumoto, Yagasaki and Tanaka, J. Comput. Chem. 39, 61 (2018)) places the molecules on the sites of the
lattice and draws a proton order that satisfies the ice rules and has no net dipole moment. Ice VIII, which is ordered,
comes from its space group instead, as GenIce has it in a large cell only.
"""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.io import read
from ase.spacegroup import crystal

from aiida_mlfinetune.common.errors import StudyError

LATTICES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Ih": "1h",
        "Ic": "1c",
        "II": "2",
        "III": "3",
        "IV": "4",
        "V": "5",
        "VI": "6",
        "VII": "7",
        "IX": "9",
        "XI": "11",
        "XII": "12",
        "XIII": "13",
        "XIV": "14",
        "XVII": "17",
    }
)
"""GenIce's name of the lattice of each ice, but for ice VIII."""
ICES: Final = tuple(sorted((*LATTICES, "VIII")))
"""The ices that can be built by name."""
MOST_MOLECULES = 2000


@dataclass(frozen=True)
class IceSpec:
    """An ice by name.

    Attributes:
        ice: its name in Roman numerals, such as ``Ih`` or ``VIII``.
        repeat: three numbers of repetitions of the unit cell along its vectors, or three rows of whole numbers, the
            cell vectors of the supercell; rows are for ordered ices, as the disorder is drawn before.
        seed: of the proton order.
    """

    ice: str
    repeat: tuple[int, int, int] | tuple[tuple[int, int, int], ...] = (1, 1, 1)
    seed: int = 1

    def __post_init__(self) -> None:
        """Check the values; the message names the offender and the remedy."""
        if self.ice not in ICES:
            raise StudyError(f"there is no ice {self.ice!r} to be built: choose from {list(ICES)}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise StudyError(f"the seed of ice {self.ice} is {self.seed!r}, but must be a whole number of at least 0")
        rows = self.repeat
        if not isinstance(rows, (list, tuple)) or len(rows) != 3 or not _whole(rows):
            raise StudyError(
                f"the repetitions of ice {self.ice} are {rows!r}: give three positive numbers, or three rows of three "
                "whole numbers"
            )
        object.__setattr__(self, "repeat", tuple(tuple(row) if isinstance(row, Sequence) else row for row in rows))
        if round(abs(float(np.linalg.det(self.matrix)))) < 1 or (not self.is_matrix and min(np.diag(self.matrix)) < 1):
            raise StudyError(f"the repetitions of ice {self.ice}, {rows!r}, make no cell")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IceSpec:
        """Build from plain JSON types.

        Raises:
            StudyError: an unknown name, or a bad value.
        """
        if unknown := sorted(set(values) - set(cls.__dataclass_fields__)):
            raise StudyError(f"unknown entries of an ice: {unknown}; known are {list(cls.__dataclass_fields__)}")
        return cls(**values)

    @property
    def is_matrix(self) -> bool:
        """Whether the supercell is given by its vectors."""
        return isinstance(self.repeat[0], tuple)

    @property
    def matrix(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The supercell's vectors (3, 3) in those of the unit cell."""
        return np.array(self.repeat) if self.is_matrix else np.diag(self.repeat)


def build_ice(spec: IceSpec) -> Atoms:
    """Return the cell of an ice at the density of its lattice, every molecule whole; equal specs make equal cells.

    Raises:
        StudyError: a cell of too many molecules.
    """
    if spec.ice == "VIII":
        unit = ice_viii()
        atoms = unit if (spec.matrix == np.eye(3)).all() else make_supercell(unit, spec.matrix)
    elif spec.is_matrix:
        atoms = make_supercell(_genice(spec.ice, (1, 1, 1), spec.seed), spec.matrix)
    else:
        atoms = _genice(spec.ice, spec.repeat, spec.seed)
    if len(atoms) > 3 * MOST_MOLECULES:
        raise StudyError(f"{len(atoms) // 3} molecules of ice {spec.ice} are too many: repeat the cell less often")
    return Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=True)


def ice_viii() -> Atoms:
    """Return the tetragonal cell of ice VIII: 8 molecules, I4_1/amd.

    Kuhs et al., J. Chem. Phys. 81, 3612 (1984), at 2.4 GPa.
    """
    return crystal(
        ("O", "H"),
        basis=[(0.0, 0.25, 0.1071), (0.0, 0.4157, 0.1935)],
        spacegroup=141,
        setting=2,
        cellpar=[4.656, 4.656, 6.775, 90, 90, 90],
    )


def _genice(ice: str, repeat: Sequence[Any], seed: int) -> Atoms:
    """Return a cell by GenIce, which draws from the generators of Python and of numpy."""
    with _quiet(), _seeded(seed):
        from genice2.genice import GenIce
        from genice2.plugin import Format, Lattice, Molecule

        lattice = GenIce(Lattice(LATTICES[ice]), rep=tuple(int(number) for number in repeat))
        text = lattice.generate_ice(formatter=Format("gromacs"), water=Molecule("tip3p"))
    return read(io.StringIO(text), format="gromacs")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back GenIce's account of every step."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators that GenIce draws from, and set them back."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the legacy generator is GenIce's
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _whole(rows: Sequence[Any]) -> bool:
    """Whether three entries are all whole numbers, or all rows of three whole numbers."""
    if all(isinstance(row, (list, tuple)) for row in rows):
        return all(len(row) == 3 and all(_is_int(value) for value in row) for row in rows)
    return all(_is_int(row) for row in rows)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
