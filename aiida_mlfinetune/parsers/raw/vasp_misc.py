"""Labels from what aiida-vasp calls ``misc``: the quantities of a finished VASP run as a plain dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aiida_mlfinetune.common.enums import EnergyKind
from aiida_mlfinetune.common.units import GPA_EV_A3
from aiida_mlfinetune.science.datasets.levels import FloatArray

ENERGY_TYPES = ("energy_free", "energy_extrapolated")
"""What aiida-vasp is asked to store."""
KBAR_GPA = 0.1


def misc_energy(misc: Mapping[str, Any], kind: EnergyKind) -> float | None:
    """Return the energy of a run in eV, or None where vasprun.xml ended before it.

    The free energy is the last ``<energy>`` of vasprun.xml, which holds the dispersion correction. The energy that is
    extrapolated to sigma = 0 is that plus the difference of the two in the last electronic step: VASP 5 prints another
    number under the name of the last extrapolated energy, and energies of electronic steps lack the dispersion.
    """
    energies = misc.get("total_energies") or {}
    needed = {"energy_free"} if kind == EnergyKind.FREE else {f"{name}_electronic" for name in ENERGY_TYPES}
    if not needed | {"energy_free"} <= set(energies):
        return None
    free = float(energies["energy_free"])
    if kind == EnergyKind.FREE:
        return free
    return free + float(energies["energy_extrapolated_electronic"]) - float(energies["energy_free_electronic"])


def misc_forces(misc: Mapping[str, Any], n_atoms: int) -> FloatArray | None:
    """Return the forces (n_atoms, 3) in eV/angstrom, in the order of POSCAR, or None where they are not complete."""
    return _array(misc.get("forces"), (n_atoms, 3))


def misc_stress(misc: Mapping[str, Any]) -> FloatArray | None:
    """Return the stress (3, 3) in eV/angstrom^3 with ASE's sign, or None where there is none.

    VASP prints kbar, positive where the cell wants to expand; ASE's stress is positive under tension.
    """
    stress = _array(misc.get("stress"), (3, 3))
    return None if stress is None else -KBAR_GPA * GPA_EV_A3 * stress


def misc_complaint(misc: Mapping[str, Any]) -> str | None:
    """Return why a run that ended is not to be trusted, or None."""
    status = misc.get("run_status") or {}
    if not status.get("finished"):
        return "VASP did not reach its end"
    if not status.get("electronic_converged"):
        return f"the electronic steps did not converge within NELM = {status.get('nelm')}"
    return None


def misc_errors(misc: Mapping[str, Any]) -> list[str]:
    """Return the errors that VASP wrote to standard output, as aiida-vasp names them."""
    entries = misc.get("notifications") or []
    return [str(entry["message"]) for entry in entries if entry.get("kind") == "ERROR"]


def _array(value: Any, shape: tuple[int, int]) -> FloatArray | None:
    if value is None:
        return None
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):  # rows of different lengths
        return None
    return array if array.shape == shape and bool(np.isfinite(array).all()) else None
