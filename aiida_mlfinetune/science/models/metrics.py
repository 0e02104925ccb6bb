"""Errors of a model against reference labels, as they are reported in the field."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from math import gcd
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from ase.formula import Formula
from numpy.typing import NDArray

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.common.units import EV_KJMOL, EV_MEV
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import BoolArray, FloatArray, IntArray, Labels


def rmse(difference: NDArray[Any]) -> float:
    """Return the root mean square of all entries."""
    return float(np.sqrt(np.mean(np.square(difference))))


def mae(difference: NDArray[Any]) -> float:
    """Return the mean absolute value of all entries."""
    return float(np.mean(np.abs(difference)))


def molecules_per_frame(frames: Frames, molecule: str | None = None) -> tuple[str, IntArray] | None:
    """Return the formula of the molecule and (n,) how many of them each frame holds.

    Args:
        frames: configurations.
        molecule: formula such as ``H2O``; by default the smallest formula unit, if all frames have the same one.

    Returns:
        None if no molecule is given and the frames have several formula units.

    Raises:
        LabelsError: a frame is no multiple of the given molecule.
    """
    counts = np.stack(
        [
            np.add.reduceat((frames.numbers == atomic_numbers[e]).astype(np.int64), frames.offsets[:-1])
            for e in frames.elements
        ],
        axis=1,
    )
    if molecule is None:
        units = {tuple((row // reduce(gcd, row.tolist())).tolist()) for row in np.unique(counts, axis=0)}
        if len(units) != 1:
            return None
        unit = np.array(units.pop())
        name = Formula.from_dict(dict(zip(frames.elements, unit.tolist(), strict=True))).format("hill")
    else:
        content = Formula(molecule).count()
        unit = np.array([content.get(element, 0) for element in frames.elements])
        name = molecule
        if set(content) - set(frames.elements):
            raise LabelsError(f"the frames hold no {sorted(set(content) - set(frames.elements))} of {molecule!r}")
    n_molecules: IntArray = counts.sum(axis=1) // int(unit.sum())
    if (wrong := np.flatnonzero((counts != n_molecules[:, None] * unit).any(axis=1))).size:
        raise LabelsError(
            f"frames {wrong[:10].tolist()} are no whole number of {name} molecules: give the formula of the molecule "
            "that all frames are made of, or none"
        )
    return name, n_molecules


def label_errors(frames: Frames, reference: Labels, predicted: Labels, molecule: str | None = None) -> dict[str, Any]:
    """Return the errors of predicted energies, forces and stress on the frames that have both.

    Energies are given per atom (meV) and per molecule (kJ/mol), forces over all components and by element (meV/A),
    the stress over its nine components (meV/A^3). Entries in ``percent`` are relative to the standard deviation of the
    reference in the same frames (Kaur et al. 2025, figure 1); that of forces is about zero force, their mean.

    Args:
        frames: n configurations.
        reference: labels to compare with.
        predicted: labels to be judged.
        molecule: formula of the molecule; see ``molecules_per_frame``.
    """
    errors: dict[str, Any] = {"n_frames": len(frames)}
    n_atoms = frames.n_atoms
    has_energy = reference.has_energy & predicted.has_energy
    errors["n_energy"] = int(has_energy.sum())
    if has_energy.any():
        difference = (predicted.energy - reference.energy)[has_energy]
        per_atom = difference / n_atoms[has_energy]
        errors["energy_rmse_meV_per_atom"] = rmse(per_atom) * EV_MEV
        errors["energy_mae_meV_per_atom"] = mae(per_atom) * EV_MEV
        errors["energy_bias_meV_per_atom"] = float(per_atom.mean()) * EV_MEV
        found = molecules_per_frame(frames, molecule)
        if found is not None:
            name, counts = found
            errors["molecule"] = name
            errors.update(_energy_per_molecule(difference, reference.energy[has_energy], counts[has_energy]))
    has_forces = reference.has_forces & predicted.has_forces
    errors["n_forces"] = int(has_forces.sum())
    if has_forces.any():
        own = np.repeat(has_forces, n_atoms)
        errors.update(
            _component_errors("forces", predicted.forces[own], reference.forces[own], "meV_A", about_zero=True)
        )
        errors["forces_by_element"] = _forces_by_element(frames, reference, predicted, own)
    has_stress = reference.has_stress & predicted.has_stress
    errors["n_stress"] = int(has_stress.sum())
    if has_stress.any():
        errors.update(_component_errors("stress", predicted.stress[has_stress], reference.stress[has_stress], "meV_A3"))
    return errors


def _energy_per_molecule(difference: FloatArray, reference: FloatArray, counts: IntArray) -> dict[str, float]:
    per_molecule = difference / counts
    spread = float(np.std(reference / counts))
    errors = {
        "energy_rmse_kJ_mol_per_molecule": rmse(per_molecule) * EV_KJMOL,
        "energy_mae_kJ_mol_per_molecule": mae(per_molecule) * EV_KJMOL,
        "energy_std_kJ_mol_per_molecule": spread * EV_KJMOL,
    }
    return errors | _percent("energy_rmse", rmse(per_molecule), spread)


def _component_errors(
    name: str, predicted: FloatArray, reference: FloatArray, unit: str, about_zero: bool = False
) -> dict[str, float]:
    difference = predicted - reference
    spread = rmse(reference) if about_zero else float(np.std(reference))
    errors = {
        f"{name}_rmse_{unit}": rmse(difference) * EV_MEV,
        f"{name}_mae_{unit}": mae(difference) * EV_MEV,
        f"{name}_std_{unit}": spread * EV_MEV,
    }
    return errors | _percent(f"{name}_rmse", rmse(difference), spread)


def _percent(name: str, error: float, spread: float) -> dict[str, float]:
    """Return an error relative to a spread, unless there is none."""
    return {f"{name}_percent": 100 * error / spread} if spread > 0 else {}


def _forces_by_element(
    frames: Frames, reference: Labels, predicted: Labels, own: BoolArray
) -> Mapping[str, Mapping[str, float]]:
    by_element = {}
    for element in frames.elements:
        atoms = own & (frames.numbers == atomic_numbers[element])
        if atoms.any():
            values = _component_errors("", predicted.forces[atoms], reference.forces[atoms], "meV_A", about_zero=True)
            by_element[element] = {key.lstrip("_"): value for key, value in values.items()}
    return by_element
