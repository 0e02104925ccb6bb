"""From the properties of a run to density, enthalpies and sublimation enthalpy, as calcfunctions.

``properties`` are those of ``mlfinetune.dynamics`` (or of ``mlfinetune.sampling``); ``conditions`` are the parameters
of that run, of which ``temperature_K``, ``pressure_bar``, ``ensemble`` and ``n_beads`` are used. Every time average
drops the equilibration that it detects, and says in ``details`` how much that was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from numpy.typing import NDArray

from aiida_mlfinetune.common.errors import MlFinetuneError, MoleculesError
from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.averages import thermodynamics as science
from aiida_mlfinetune.science.averages.statistics import TimeAverage, time_average
from aiida_mlfinetune.science.crystals.molecules import gas_molecule, perceive_crystal

METHOD = "time average after detected equilibration; error from the statistical inefficiency"
CLASSICAL = "classical nuclei, kinetic energy 3/2 kT per atom"
QUANTUM = "{n_beads} beads, centroid-virial kinetic energy"
KINETIC = "kinetic_cv_eV"
"""Array of the centroid-virial estimator, that path-integral runs have."""


@calcfunction
def extract_molecule(structure: orm.StructureData) -> orm.StructureData:
    """Return one whole molecule of a molecular crystal, periodic in no direction, centred at the origin."""
    perceive_crystal(structure.get_ase())
    return orm.StructureData(ase=gas_molecule(structure.get_ase()))


@calcfunction
def density(properties: orm.ArrayData, structure: orm.StructureData, conditions: orm.Dict) -> ObservableData:
    """Return the density in g/cm^3, the average over the frames; array ``density`` against ``time_fs``."""
    run = _run_with_volumes(properties)
    densities = science.density(structure.get_ase().get_masses().sum(), run["volume_A3"])
    return _observable("density", densities, "g/cm^3", METHOD, run, conditions)


@calcfunction
def crystal_enthalpy(properties: orm.ArrayData, structure: orm.StructureData, conditions: orm.Dict) -> ObservableData:
    """Return the enthalpy of a crystal in kJ/mol of molecules, on the energy scale of the model.

    Raises:
        MlFinetuneError: a run without a barostat, at no known pressure; or without volumes or energies.
        MoleculesError: a crystal that is not of molecules of one kind.
    """
    if problem := science.enthalpy_problem(conditions.get_dict().get("ensemble")):
        raise MlFinetuneError(problem)
    atoms = structure.get_ase()
    molecules = perceive_crystal(atoms)
    temperature = _temperature(conditions)
    run = _run_with_volumes(properties, *_kinetic_arrays(conditions))
    series = science.crystal_enthalpy(
        run["potential_energy_eV"],
        run["volume_A3"],
        n_atoms=len(atoms),
        n_molecules=molecules.n_molecules,
        temperature=temperature,
        pressure=float(conditions.get_dict().get("pressure_bar", 0.0)),
        kinetic_energy=run.get(KINETIC),
    )
    fixed_centre = science.fixed_centre_of_mass_energy(molecules.n_molecules, temperature) * EV_KJMOL
    details = {
        "formula": molecules.formula,
        "n_molecules": molecules.n_molecules,
        "fixed_centre_of_mass_kJmol": fixed_centre,
    }
    return _observable(
        "enthalpy_crystal", series * EV_KJMOL, "kJ/mol", f"{METHOD}; {_nuclei(conditions)}", run, conditions, details
    )


@calcfunction
def gas_enthalpy(properties: orm.ArrayData, structure: orm.StructureData, conditions: orm.Dict) -> ObservableData:
    """Return the enthalpy of the ideal gas in kJ/mol of molecules, on the energy scale of the model."""
    atoms = structure.get_ase()
    run = _run(properties, *_kinetic_arrays(conditions))
    series = science.gas_enthalpy(run["potential_energy_eV"], len(atoms), _temperature(conditions), run.get(KINETIC))
    return _observable(
        "enthalpy_gas",
        series * EV_KJMOL,
        "kJ/mol",
        f"{METHOD}; {_nuclei(conditions)}; ideal gas",
        run,
        conditions,
        {"formula": atoms.get_chemical_formula(), "n_molecules": 1},
    )


@calcfunction
def sublimation_enthalpy(enthalpy_crystal: ObservableData, enthalpy_gas: ObservableData) -> ObservableData:
    """Return H_gas - H_crystal in kJ/mol, positive for a stable crystal."""
    return compare_enthalpies(enthalpy_crystal, enthalpy_gas)


def compare_enthalpies(
    crystal: ObservableData, gas: ObservableData, details: Mapping[str, Any] | None = None
) -> ObservableData:
    """Return the sublimation enthalpy of two enthalpies of one state and one level, with further ``details``.

    Raises:
        MlFinetuneError: other observables, or different temperatures, numbers of beads or levels.
        MoleculesError: different molecules.
    """
    names = (("enthalpy_crystal", crystal), ("enthalpy_gas", gas))
    for expected, observable in names:
        if observable.name != expected or observable.unit != "kJ/mol":
            raise MlFinetuneError(
                f"need the observable {expected!r} in kJ/mol, got {observable.name!r} in {observable.unit!r}"
            )
    if crystal.details["formula"] != gas.details["formula"]:
        raise MoleculesError(
            f"the crystal is made of {crystal.details['formula']}, but the gas of {gas.details['formula']}"
        )
    temperatures = [observable.conditions["temperature_K"] for observable in (crystal, gas)]
    if abs(temperatures[0] - temperatures[1]) > 1e-9 * temperatures[0]:
        raise MlFinetuneError(f"crystal and gas were run at different temperatures: {temperatures} K")
    beads = [observable.conditions.get("n_beads", 1) for observable in (crystal, gas)]
    if beads[0] != beads[1]:
        raise MlFinetuneError(
            f"crystal and gas were run with different numbers of beads: {beads}; the errors of too few beads cancel "
            "only between equal numbers"
        )
    levels = [observable.conditions.get("level") for observable in (crystal, gas)]
    if levels[0] != levels[1]:
        raise MlFinetuneError(f"crystal and gas were averaged at different levels: {levels}")
    result = science.sublimation_enthalpy(
        science.Estimate(gas.value, gas.error), science.Estimate(crystal.value, crystal.error)
    )
    independent = [value for value in (crystal.n_independent, gas.n_independent) if value is not None]
    return ObservableData(
        name="sublimation_enthalpy",
        value=result.value,
        error=result.error,
        unit="kJ/mol",
        conditions=crystal.conditions,
        method=f"H_gas - H_crystal, positive for a stable crystal; {_of_beads(beads[0])}; ideal gas; errors added in "
        "quadrature",
        n_independent=min(independent) if independent else None,
        warnings=[f"{name}: {warning}" for name, observable in names for warning in observable.warnings],
        details={
            "formula": crystal.details["formula"],
            "n_molecules": crystal.details["n_molecules"],
            "error_crystal_kJmol": crystal.base.attributes.get("error"),
            "error_gas_kJmol": gas.base.attributes.get("error"),
            **(details or {}),
        },
    )


def _observable(
    name: str,
    series: NDArray[np.float64],
    unit: str,
    method: str,
    run: dict[str, NDArray[np.float64]],
    parameters: orm.Dict,
    details: dict[str, Any] | None = None,
) -> ObservableData:
    """Average a series (n,) given in ``unit`` and describe how it was obtained."""
    average = time_average(series)
    times = run["time_fs"]
    conditions = _conditions(parameters)
    warnings = list(average.warnings)
    temperatures = run["temperature_K"][average.equilibration :]
    if (warning := science.temperature_warning(temperatures, conditions["temperature_K"])) is not None:
        warnings.append(warning)
    return ObservableData(
        name=name,
        value=average.mean,
        error=average.error,
        unit=unit,
        conditions=conditions,
        method=method,
        n_independent=average.n_independent,
        warnings=warnings,
        arrays={"time_fs": times, name: series},
        details={**_describe(average, times), **(details or {})},
    )


def _describe(average: TimeAverage, times: NDArray[np.float64]) -> dict[str, Any]:
    """Return what tells how long a run was, against how long it remembers; JSON types, so no infinities."""
    interval = float(times[1] - times[0]) if len(times) > 1 else 0.0
    finite = np.isfinite([average.correlation_time, average.block_error])
    return {
        "n_samples": average.n_samples,
        "equilibration_fs": average.equilibration * interval,
        "correlation_time_fs": average.correlation_time * interval if finite[0] else None,
        "block_error": average.block_error if finite[1] else None,
        "standard_deviation": average.standard_deviation,
    }


def _run(properties: orm.ArrayData, *names: str) -> dict[str, NDArray[np.float64]]:
    """Return the arrays that every average needs, and those of ``names``."""
    arrays = {}
    for name in ("time_fs", "temperature_K", "potential_energy_eV", *names):
        if name not in properties.get_arraynames():
            raise MlFinetuneError(
                f"the properties of the run lack the array {name!r}: they hold {sorted(properties.get_arraynames())}"
            )
        arrays[name] = np.asarray(properties.get_array(name), dtype=np.float64)
    return arrays


def _kinetic_arrays(conditions: orm.Dict) -> tuple[str, ...]:
    """Return the array of the kinetic energy that a run under ``conditions`` has to have, if any."""
    return (KINETIC,) if _conditions(conditions)["n_beads"] > 1 else ()


def _nuclei(conditions: orm.Dict) -> str:
    return _of_beads(_conditions(conditions)["n_beads"])


def _of_beads(n_beads: int) -> str:
    return CLASSICAL if n_beads == 1 else QUANTUM.format(n_beads=n_beads)


def _run_with_volumes(properties: orm.ArrayData, *names: str) -> dict[str, NDArray[np.float64]]:
    """Return a run at the steps whose volume was printed; the others hold NaN."""
    arrays = _run(properties, "volume_A3", *names)
    printed = np.isfinite(arrays["volume_A3"])
    if not printed.any():
        raise MlFinetuneError("the run has no volumes: a crystal needs a run of a periodic cell")
    return {name: values[printed] for name, values in arrays.items()}


def _temperature(parameters: orm.Dict) -> float:
    if "temperature_K" not in parameters.get_dict():
        raise MlFinetuneError("the conditions lack 'temperature_K': pass the parameters of the run")
    return float(parameters["temperature_K"])


def _conditions(parameters: orm.Dict) -> dict[str, Any]:
    values = parameters.get_dict()
    conditions: dict[str, Any] = {"temperature_K": _temperature(parameters), "n_beads": int(values.get("n_beads", 1))}
    for key in ("pressure_bar", "ensemble"):
        if key in values:
            conditions[key] = values[key]
    return conditions
