"""Small molecular crystals from published crystallographic parameters, for the demo, the examples and the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal

from aiida_mlfinetune.common.errors import StudyError

OH_BOND_A = 0.985
"""O-H distance given to the hydrogen atoms that are placed on hydrogen bonds."""


def ice_xi() -> Atoms:
    """Return ice XI, the proton-ordered form of ice Ih: 8 molecules, orthorhombic, 0.93 g/cm^3.

    Cell at 5 K of Leadbetter et al., J. Chem. Phys. 82, 424 (1985): Cmc2_1, a = 4.465, b = 7.859, c = 7.292 angstrom.
    Oxygen at the sites of ice Ih (z = 0.06226, Goto et al., J. Chem. Phys. 93, 1412 (1990)) in that cell; hydrogen on
    the hydrogen bonds in the order of ice XI, in which an oxygen of the first kind donates both of its bonds within the
    mirror plane and one of the second kind both of those that cross it.
    """
    z = 0.06226
    oxygen = crystal(
        ("O", "O"),
        basis=[(0.0, 2.0 / 3.0, z), (0.5, 5.0 / 6.0, -z)],
        spacegroup=36,
        cellpar=[4.465, 7.859, 7.292, 90, 90, 90],
    )
    first_kind = np.asarray(oxygen.arrays["spacegroup_kinds"]) == 0
    ice = Atoms("O8", positions=oxygen.positions, cell=oxygen.cell, pbc=True)
    for i, vector in zip(*neighbor_list("iD", oxygen, 3.0), strict=True):
        in_mirror_plane = abs(vector[0]) < 1e-6
        if in_mirror_plane == first_kind[i]:
            ice += Atoms("H", positions=[ice.positions[i] + OH_BOND_A * vector / np.linalg.norm(vector)])
    return ice


def ice_ic() -> Atoms:
    """Return a proton-ordered form of cubic ice (Ic): 8 molecules, edge 6.358 angstrom, 0.93 g/cm^3.

    Edge at 88 K of Arnold et al., J. Chem. Phys. 49, 4365 (1968); oxygen on the sites of diamond, and every molecule
    donates both of its bonds that point up along c, which satisfies the ice rules (space group I4_1md). No other ice
    of 8 molecules has all edges above 6 angstrom: at the Gamma point the 4.5 angstrom edge of ice XI costs 3 kJ/mol.
    """
    oxygen = crystal("O", basis=[(0.0, 0.0, 0.0)], spacegroup=227, cellpar=[6.358, 6.358, 6.358, 90, 90, 90])
    ice = Atoms("O8", positions=oxygen.positions, cell=oxygen.cell, pbc=True)
    for i, vector in zip(*neighbor_list("iD", oxygen, 3.0), strict=True):
        if vector[2] > 0:
            ice += Atoms("H", positions=[ice.positions[i] + OH_BOND_A * vector / np.linalg.norm(vector)])
    return ice


def carbon_dioxide() -> Atoms:
    """Return dry ice (phase I): 4 molecules, Pa-3.

    Simon and Peters, Acta Cryst. B 36, 2750 (1980), at 150 K: a = 5.624 angstrom, C at the origin, O at x = 0.1185.
    """
    return _plain(
        crystal(
            ("C", "O"),
            basis=[(0.0, 0.0, 0.0), (0.1185, 0.1185, 0.1185)],
            spacegroup=205,
            cellpar=[5.624, 5.624, 5.624, 90, 90, 90],
        )
    )


def ammonia() -> Atoms:
    """Return solid ammonia (phase I): 4 molecules, P2_1 3.

    Boese et al., J. Phys. Chem. B 101, 5794 (1997), at 160 K: a = 5.1305 angstrom, N at x = 0.2107, H at (0.3689,
    0.2671, 0.1159).
    """
    return _plain(
        crystal(
            ("N", "H"),
            basis=[(0.2107, 0.2107, 0.2107), (0.3689, 0.2671, 0.1159)],
            spacegroup=198,
            cellpar=[5.1305, 5.1305, 5.1305, 90, 90, 90],
        )
    )


CRYSTALS: Final[Mapping[str, Callable[[], Atoms]]] = MappingProxyType(
    {"ice-ic": ice_ic, "ice-xi": ice_xi, "carbon-dioxide": carbon_dioxide, "ammonia": ammonia}
)
"""The crystals that come with the package, by name."""


def build_crystal(name: str) -> Atoms:
    """Return one of the crystals that come with the package.

    Raises:
        StudyError: there is none of that name.
    """
    if name not in CRYSTALS:
        raise StudyError(f"there is no crystal called {name!r} in this package: choose from {list(CRYSTALS)}")
    return CRYSTALS[name]()


def _plain(atoms: Atoms) -> Atoms:
    """Return the atoms without the arrays and info that ``ase.spacegroup`` adds."""
    return Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=True)
