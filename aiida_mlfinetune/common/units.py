"""The one table of units and constants: multiply by a constant to go from the first unit to the second.

All values derive from ``ase.units`` (CODATA 2014), so that labels agree with those of any ASE calculator.
"""

from __future__ import annotations

from typing import Final

from ase import units

HARTREE_EV: Final[float] = float(units.Hartree)
BOHR_ANGSTROM: Final[float] = float(units.Bohr)
HARTREE_BOHR_EV_ANGSTROM: Final[float] = HARTREE_EV / BOHR_ANGSTROM
GPA_EV_A3: Final[float] = float(units.GPa)
BAR_EV_A3: Final[float] = float(units.bar)
KB_EV: Final[float] = float(units.kB)
"""Boltzmann constant in eV/K."""
EV_KJMOL: Final[float] = float(units.mol / units.kJ)
"""1 eV per particle in kJ/mol."""
AMU_A3_G_CM3: Final[float] = float(units._amu) * 1e3 * 1e24  # noqa: SLF001 - ASE's own constant, in kg
"""1 atomic mass unit per cubic angstrom in g/cm^3."""
ATOMIC_TIME_FS: Final[float] = float(units._aut) * 1e15  # noqa: SLF001 - ASE's own constant, in s
"""The atomic unit of time in femtoseconds."""
EV_MEV: Final[float] = 1000.0
