r"""Density, enthalpies and sublimation enthalpy of a crystal of N molecules and of its gas (Kaur et al. 2025).

.. math::

    H_\mathrm{crystal} = \langle V + p \Omega \rangle / N + K, \qquad
    H_\mathrm{gas} = \langle V_\mathrm{gas} \rangle + K + k T, \qquad
    \Delta H_\mathrm{sub} = H_\mathrm{gas} - H_\mathrm{crystal}

==================  ==============================================================  =============================
symbol              meaning                                                         here
==================  ==============================================================  =============================
:math:`V`           potential energy, eV                                            ``potential_energy``
:math:`\Omega`      volume of the cell, cubic angstrom                              ``volume``
:math:`p`           pressure, bar                                                   ``pressure``
:math:`T`           temperature, K                                                  ``temperature``
:math:`N`           molecules in the cell                                           ``n_molecules``
:math:`K`           classical kinetic energy per molecule, 3/2 k T per atom, eV     ``classical_kinetic_energy``
==================  ==============================================================  =============================

``delta H_sub`` is positive for a stable crystal; the table of Kaur et al. lists its negative.

Kinetic energy: that of classical nuclei is known, so it is not sampled. It is the same in crystal and gas and cancels.
A simulation holds the centre of mass still and so lacks 3/2 k T per cell; crystal and gas are given it back, because
a macroscopic crystal and a free molecule have it. The momenta do not act on the sampled positions, so <V> needs no such
correction; ``fixed_centre_of_mass_energy`` tells how much it is, as one measure of how small the cell is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.common.units import AMU_A3_G_CM3, BAR_EV_A3, KB_EV
from aiida_mlfinetune.science.averages.statistics import time_average
from aiida_mlfinetune.science.datasets.levels import FloatArray


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error, in the same unit; the error is infinite if unknown."""

    value: float
    error: float


def density(mass: float, volume: ArrayLike) -> FloatArray:
    """Return the density (n,) in g/cm^3 of cells of ``mass`` atomic mass units and ``volume`` (n,) cubic angstrom.

    Raises:
        MlFinetuneError: a volume that is not positive, as of a run without a cell.
    """
    volumes = np.asarray(volume, dtype=np.float64)
    if not (volumes > 0).all():
        raise MlFinetuneError("a density needs positive volumes: the run has none, or they are not finite")
    return np.asarray(mass * AMU_A3_G_CM3 / volumes)


def classical_kinetic_energy(n_atoms: int, temperature: float) -> float:
    """Return 3/2 k T per atom in eV, for ``n_atoms`` atoms at ``temperature`` kelvin."""
    return 1.5 * KB_EV * _temperature(temperature) * n_atoms


def fixed_centre_of_mass_energy(n_molecules: int, temperature: float) -> float:
    """Return the kinetic energy per molecule, in eV, that a cell of ``n_molecules`` lacks with its centre held."""
    return 1.5 * KB_EV * _temperature(temperature) / n_molecules


def enthalpy_problem(ensemble: Ensemble | str | None) -> str | None:
    """Return why a run of a crystal has no enthalpy, or None: without a barostat nothing holds the pressure."""
    if ensemble is None or Ensemble(ensemble).has_barostat:
        return None
    return (
        f"the crystal is run in {Ensemble(ensemble).value!r}, where its pressure is what the cell makes it, so that "
        f"there is no enthalpy at pressure_bar: use {Ensemble.NPT_FLEXIBLE.value!r} or {Ensemble.NPT_ISOTROPIC.value!r}"
    )


def crystal_enthalpy(
    potential_energy: ArrayLike,
    volume: ArrayLike,
    n_atoms: int,
    n_molecules: int,
    temperature: float,
    pressure: float,
    kinetic_energy: ArrayLike | None = None,
) -> FloatArray:
    """Return the enthalpy per molecule (n,) in eV, frame by frame; its time average is the crystal's enthalpy.

    Args:
        potential_energy: (n,) eV per cell.
        volume: (n,) cubic angstrom.
        n_atoms: atoms in the cell.
        n_molecules: molecules in the cell.
        temperature: K, of the thermostat.
        pressure: bar, of the barostat.
        kinetic_energy: (n,) eV per cell, the centroid-virial estimator of a path-integral run; by default that of
            classical nuclei.

    Raises:
        MlFinetuneError: arrays of different length, a temperature that is not positive, no molecules.
    """
    energies, volumes = np.asarray(potential_energy, np.float64), np.asarray(volume, np.float64)
    if energies.shape != volumes.shape:
        raise MlFinetuneError(f"{energies.size} energies do not go with {volumes.size} volumes")
    if n_molecules < 1:
        raise MlFinetuneError(f"an enthalpy per molecule needs molecules, got {n_molecules}")
    kinetic = _kinetic(kinetic_energy, energies, n_atoms, temperature)
    return np.asarray((energies + kinetic + pressure * BAR_EV_A3 * volumes) / n_molecules)


def gas_enthalpy(
    potential_energy: ArrayLike, n_atoms: int, temperature: float, kinetic_energy: ArrayLike | None = None
) -> FloatArray:
    """Return the enthalpy (n,) in eV of one molecule of an ideal gas, frame by frame: p V = k T.

    Args:
        potential_energy: (n,) eV of the molecule.
        n_atoms: atoms of the molecule.
        temperature: K, of the thermostat.
        kinetic_energy: (n,) eV, the centroid-virial estimator of a path-integral run; by default that of classical
            nuclei.
    """
    energies = np.asarray(potential_energy, np.float64)
    kinetic = _kinetic(kinetic_energy, energies, n_atoms, temperature)
    return np.asarray(energies + kinetic + KB_EV * temperature)


def sublimation_enthalpy(gas: Estimate, crystal: Estimate) -> Estimate:
    """Return H_gas - H_crystal, positive for a stable crystal; the errors of independent runs add in quadrature."""
    return Estimate(gas.value - crystal.value, math.hypot(gas.error, crystal.error))


def temperature_warning(temperatures: ArrayLike, target: float, n_sigma: float = 3.0) -> str | None:
    """Say so if the mean of ``temperatures`` (n,) is off ``target`` (K) by more than ``n_sigma`` standard errors."""
    average = time_average(temperatures)
    shift = abs(average.mean - target)
    if math.isinf(average.error) or shift <= n_sigma * average.error:
        return None
    return (
        f"the mean temperature is {average.mean:.1f} +- {average.error:.1f} K, off the {target:g} K asked for by "
        f"{shift / average.error if average.error > 0 else math.inf:.1f} standard errors"
    )


def _kinetic(given: ArrayLike | None, energies: FloatArray, n_atoms: int, temperature: float) -> FloatArray:
    """Return the kinetic energy (n,) or () in eV."""
    if given is None:
        return np.asarray(classical_kinetic_energy(n_atoms, temperature))
    kinetic = np.asarray(given, np.float64)
    if kinetic.shape != energies.shape:
        raise MlFinetuneError(f"{kinetic.size} kinetic energies do not go with {energies.size} potential energies")
    return kinetic


def _temperature(temperature: float) -> float:
    if not temperature > 0:
        raise MlFinetuneError(f"the temperature must be positive, got {temperature} K")
    return temperature
