"""From the trajectory and the properties of a run to observables with errors, as calcfunctions.

``trajectory`` and ``properties`` are outputs of ``mlfinetune.dynamics`` (or of ``mlfinetune.sampling``), ``conditions``
are the parameters of that run. Equilibration is detected in the potential energy, and what comes before is dropped;
frames are read block by block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from ase import Atoms
from numpy.typing import NDArray

from aiida_mlfinetune.calculations.functions.thermodynamics import _conditions, _run, _run_with_volumes, _temperature
from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError, MoleculesError
from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.averages import thermodynamics
from aiida_mlfinetune.science.averages.statistics import TimeAverage, detect_equilibration, time_average
from aiida_mlfinetune.science.crystals.molecules import perceive_crystal
from aiida_mlfinetune.science.observables import cell as cell_science
from aiida_mlfinetune.science.observables import coordination as coordination_science
from aiida_mlfinetune.science.observables import heat_capacity as heat_capacity_science
from aiida_mlfinetune.science.observables import histograms, msd, rdf, temperature
from aiida_mlfinetune.science.observables.trajectory import FramesTrajectory, StoredTrajectory, Trajectory, atoms_of

FS_PER_PS = 1000.0
J_PER_KJ = 1000.0
ATOMS, CELL = "atoms", "cell"


@calcfunction
def radial_distribution(
    trajectory: DatasetData, properties: orm.ArrayData, conditions: orm.Dict, settings: orm.Dict
) -> dict[str, ObservableData]:
    """Return the radial distribution function of each pair of elements, named such as ``O_H``.

    ``settings``: ``pairs`` (two elements each), ``r_max_A``, and optionally ``n_bins`` (200). The value is the position
    of the highest maximum in angstrom; arrays ``r_A``, ``g``, ``g_error``, ``coordination``, ``blocks``.

    Raises:
        MlFinetuneError: settings that are unknown or missing, absent elements, a cell too small for ``r_max_A``.
    """
    asked = _settings(settings, ("pairs", "r_max_A"), {"n_bins": 200})
    pairs = [_pair(pair) for pair in asked["pairs"]]
    with _equilibrated(trajectory, properties, conditions) as (run, interval):
        found = rdf.radial_distributions(run, pairs, float(asked["r_max_A"]), int(asked["n_bins"]))
    return {
        "_".join(one.pair): ObservableData(
            name="radial_distribution",
            value=one.peak,
            error=one.peak_error if one.peak_error > 0 else math.inf,
            unit="angstrom",
            conditions=_conditions(conditions),
            method="highest maximum of g(r), jackknife over parts of the run; band of g(r) from block averages",
            n_independent=one.n_independent,
            warnings=_with_reason(one.warnings, one.peak_error if one.peak_error > 0 else math.inf),
            arrays={
                "r_A": one.r,
                "g": one.g,
                "g_error": one.error,
                "coordination": one.coordination,
                "blocks": one.blocks,
            },
            details={
                "pair": list(one.pair),
                "correlation_time_fs": one.correlation_time * interval,
                "n_frames": one.n_frames,
            },
        )
        for one in found
    }


@calcfunction
def compare_radial_distribution(distribution: ObservableData, reference: orm.ArrayData) -> ObservableData:
    """Return the difference of a radial distribution function to a reference curve, 0 (equal) to 1.

    ``reference`` holds ``r_A``, ``g`` and, if known, ``g_error``. Details hold ``chi_squared`` per bin and the largest
    difference.
    """
    if distribution.name != "radial_distribution":
        raise MlFinetuneError(f"need a radial distribution function, got the observable {distribution.name!r}")
    names = reference.get_arraynames()
    if missing := {"r_A", "g"} - set(names):
        raise MlFinetuneError(f"the reference curve lacks the arrays {sorted(missing)}: it holds {sorted(names)}")
    arrays = distribution.arrays()
    noise = reference.get_array("g_error") if "g_error" in names else None
    result = rdf.compare_curves(
        arrays["r_A"], arrays["g"], arrays["g_error"], reference.get_array("r_A"), reference.get_array("g"), noise
    )
    return ObservableData(
        name="radial_distribution_difference",
        value=result.difference,
        error=result.error,
        conditions=distribution.conditions,
        method="sum |g - g_ref| / sum (g + g_ref) over the bins that both cover",
        n_independent=distribution.n_independent,
        warnings=distribution.warnings,
        details={
            "pair": distribution.details["pair"],
            "chi_squared": None if math.isnan(result.chi_squared) else result.chi_squared,
            "largest": result.largest,
            "largest_at_A": result.largest_at,
            "n_bins": result.n_bins,
        },
    )


@calcfunction
def mean_squared_displacement(
    trajectory: DatasetData, properties: orm.ArrayData, conditions: orm.Dict, settings: orm.Dict
) -> ObservableData:
    """Return the diffusion coefficient of an element in angstrom^2/ps; arrays ``lag_ps``, ``msd_A2``, ``msd_error_A2``.

    ``settings``: ``element``, and optionally ``max_lag_ps`` and ``fit_from`` (part of the longest lag, 0.2).
    1 angstrom^2/ps is 1e-4 cm^2/s.
    """
    asked = _settings(settings, ("element",), {"max_lag_ps": None, "fit_from": msd.FIT_FROM})
    with _equilibrated(trajectory, properties, conditions) as (run, interval):
        lag = None if asked["max_lag_ps"] is None else round(float(asked["max_lag_ps"]) * FS_PER_PS / interval)
        result = msd.diffusion(run, atoms_of(run, asked["element"]), interval, lag, float(asked["fit_from"]))
    scale = FS_PER_PS
    return ObservableData(
        name="diffusion_coefficient",
        value=result.value * scale,
        error=result.value_error * scale,
        unit="angstrom^2/ps",
        conditions=_conditions(conditions),
        method="slope / 6 of the mean squared displacement over time origins; error from the slopes of parts",
        n_independent=result.n_independent,
        warnings=_with_reason(result.warnings, result.value_error),
        arrays={"lag_ps": result.time / FS_PER_PS, "msd_A2": result.msd, "msd_error_A2": result.error},
        details={
            "element": asked["element"],
            "exponent": result.exponent,
            "fit_range_ps": [value / FS_PER_PS for value in result.fit_range],
            "correlation_time_fs": _finite(result.correlation_time * interval),
            "n_frames": result.n_frames,
        },
    )


@calcfunction
def coordination_number(
    trajectory: DatasetData, properties: orm.ArrayData, conditions: orm.Dict, settings: orm.Dict
) -> ObservableData:
    """Return the coordination number of ``centre`` by ``neighbour`` (elements), and the free energy along it.

    ``settings``: ``centre``, ``neighbour``, and either ``r_min_A`` or ``r_max_A``, up to which the first minimum of the
    radial distribution function is looked for. Arrays ``coordination``, ``probability``, ``free_energy_kJmol``, their
    errors, and ``numbers`` (frames, centres).
    """
    asked = _settings(settings, ("centre", "neighbour"), {"r_min_A": None, "r_max_A": None, "bin_width": 0.1})
    if (asked["r_min_A"] is None) == (asked["r_max_A"] is None):
        raise MlFinetuneError("give either r_min_A, or r_max_A to find it in the radial distribution function")
    with _equilibrated(trajectory, properties, conditions) as (run, interval):
        centres, neighbours = atoms_of(run, asked["centre"]), atoms_of(run, asked["neighbour"])
        if asked["r_min_A"] is None:
            curve = rdf.radial_distributions(run, [(asked["centre"], asked["neighbour"])], float(asked["r_max_A"]))[0]
            r_min = rdf.first_minimum(curve.r, curve.g, curve.error)
        else:
            r_min = float(asked["r_min_A"])
        numbers = coordination_science.coordination_numbers(run, centres, neighbours, r_min)
    result = coordination_science.coordination(numbers, _temperature(conditions), float(asked["bin_width"]))
    return _averaged(
        "coordination_number",
        result.average,
        "",
        "sum of [1 - (R/r_min)^60] / [1 - (R/r_min)^200] over the neighbours; F = -kT ln p",
        conditions,
        interval,
        arrays={
            "coordination": result.centres,
            "probability": result.probability,
            "probability_error": result.probability_error,
            "free_energy_kJmol": result.free_energy * EV_KJMOL,
            "free_energy_error_kJmol": result.free_energy_error * EV_KJMOL,
            "numbers": result.numbers,
        },
        details={
            "centre": asked["centre"],
            "neighbour": asked["neighbour"],
            "r_min_A": r_min,
            "most_stable": result.most_stable,
        },
    )


@calcfunction
def heat_capacity(properties: orm.ArrayData, structure: orm.StructureData, conditions: orm.Dict) -> ObservableData:
    """Return the heat capacity of classical nuclei in J/(mol K) from the fluctuations of an NVT or NPT run.

    Per mole of molecules, or of formula units where the structure is not made of one kind of molecule. At constant
    pressure it is that of the enthalpy.
    """
    values = _conditions(conditions)
    ensemble = str(values.get("ensemble", ""))
    if not ensemble.startswith(("nvt", "npt")):
        raise MlFinetuneError(f"a heat capacity from fluctuations needs a run in NVT or NPT, but this was {ensemble!r}")
    if values["n_beads"] != 1:
        raise MlFinetuneError(
            f"these fluctuations are those of classical nuclei, but the run has {values['n_beads']} beads: use the "
            "derivative of the enthalpy with temperature"
        )
    atoms = structure.get_ase()
    constant_pressure = ensemble.startswith("npt")
    run = _run_with_volumes(properties) if constant_pressure else _run(properties)
    result = heat_capacity_science.heat_capacity(
        run["potential_energy_eV"],
        _temperature(conditions),
        3 * len(atoms) - 3,
        run["volume_A3"] if constant_pressure else None,
        float(values.get("pressure_bar", 0.0)),
    )
    unit, units = _units(atoms)
    scale = EV_KJMOL * J_PER_KJ / units
    interval = _spacing(run["time_fs"])
    return ObservableData(
        name="heat_capacity_cp" if constant_pressure else "heat_capacity_cv",
        value=result.value * scale,
        error=result.error * scale,
        unit="J/(mol K)",
        conditions=values,
        method=f"fluctuations of the {'enthalpy' if constant_pressure else 'potential energy'}; classical nuclei, "
        "kinetic part (3N - 3) k / 2",
        n_independent=result.n_independent,
        warnings=_with_reason(result.warnings, result.error),
        details={
            "per": unit,
            "units_per_cell": units,
            "fluctuations_J_per_mol_K": result.fluctuations * scale,
            "correlation_time_fs": _finite(result.correlation_time * interval),
            "equilibration_fs": result.equilibration * interval,
            "n_samples": result.n_samples,
        },
    )


@calcfunction
def temperature_check(properties: orm.ArrayData, structure: orm.StructureData, conditions: orm.Dict) -> ObservableData:
    """Return the temperature of a run in K, warned about where mean or variance of the kinetic energy are off.

    The atoms of N beads have 3 N n_beads - 3 degrees of freedom. Where the properties hold ``cell_kinetic_energy_eV``,
    the cell (1 degree of freedom, or 6 if it is flexible) is checked too, and against the atoms.
    """
    values = _conditions(conditions)
    run = _run(properties, "kinetic_energy_eV")
    degrees = 3 * len(structure.get_ase()) * values["n_beads"] - 3
    parts: dict[str, tuple[NDArray[np.float64], int]] = {ATOMS: (run["kinetic_energy_eV"], degrees)}
    if "cell_kinetic_energy_eV" in properties.get_arraynames():
        flexible = values.get("ensemble") == "npt-flexible"
        cell = _run(properties, "cell_kinetic_energy_eV")["cell_kinetic_energy_eV"]
        parts[CELL] = (cell[np.isfinite(cell)], 6 if flexible else 1)
    constant_energy = values.get("ensemble") == "nve"
    check = temperature.check_temperature(parts, _temperature(conditions))
    atoms = check.parts[0]
    problems = () if constant_energy else check.problems
    return ObservableData(
        name="temperature",
        value=atoms.temperature,
        error=atoms.temperature_error,
        unit="K",
        conditions=values,
        method="kinetic energy against its canonical distribution, at 3.5 standard errors",
        n_independent=atoms.n_independent,
        warnings=_with_reason((*problems, *atoms.warnings), atoms.temperature_error),
        details={
            "canonical": None if constant_energy else check.passed,
            "parts": {
                part.name: {
                    "n_degrees": part.n_degrees,
                    "temperature_K": part.temperature,
                    "temperature_error_K": _finite(part.temperature_error),
                    "variance_ratio": part.variance_ratio,
                    "variance_ratio_error": _finite(part.variance_ratio_error),
                    "correlation_time_fs": _finite(part.correlation_time * _spacing(run["time_fs"])),
                }
                for part in check.parts
            },
        },
    )


@calcfunction
def cell_vectors(properties: orm.ArrayData, conditions: orm.Dict) -> dict[str, ObservableData]:
    """Return the averages of the cell's lengths a, b, c (angstrom) and angles alpha, beta, gamma (degrees)."""
    run = _run_with_volumes(properties)
    cells = np.asarray(_run(properties, "cell_A")["cell_A"])
    cells = cells[np.isfinite(cells).all(axis=(1, 2))]
    series = cell_science.cell_parameters(cells)
    return {
        name: _averaged(
            f"cell_{name}",
            time_average(values),
            "angstrom" if name in cell_science.LENGTHS else "degree",
            "time average after detected equilibration",
            conditions,
            _spacing(run["time_fs"]),
            arrays={"time_fs": run["time_fs"], name: values},
        )
        for name, values in series.items()
    }


@calcfunction
def potential_energy(properties: orm.ArrayData, structure: orm.StructureData, conditions: orm.Dict) -> ObservableData:
    """Return the mean potential energy in kJ/mol of molecules (or formula units), and its histogram.

    Arrays ``energy_kJmol`` (centres of the bins), ``probability_density`` and ``probability_density_error``.
    """
    unit, units = _units(structure.get_ase())
    run = _run(properties)
    series = run["potential_energy_eV"] * EV_KJMOL / units
    return _histogram("potential_energy", "energy_kJmol", "kJ/mol", series, run, conditions, {"per": unit})


@calcfunction
def density_histogram(properties: orm.ArrayData, structure: orm.StructureData, conditions: orm.Dict) -> ObservableData:
    """Return the mean density in g/cm^3 and its histogram.

    Arrays ``density_g_cm3`` (centres of the bins), ``probability_density`` and ``probability_density_error``.
    """
    run = _run_with_volumes(properties)
    series = thermodynamics.density(structure.get_ase().get_masses().sum(), run["volume_A3"])
    return _histogram("density_histogram", "density_g_cm3", "g/cm^3", series, run, conditions, {})


def _histogram(
    name: str,
    axis: str,
    unit: str,
    series: NDArray[np.float64],
    run: Mapping[str, NDArray[np.float64]],
    conditions: orm.Dict,
    details: Mapping[str, Any],
) -> ObservableData:
    found = histograms.histogram(series)
    return _averaged(
        name,
        found.average,
        unit,
        "time average after detected equilibration; errors of the bins from their own statistical inefficiencies",
        conditions,
        _spacing(run["time_fs"]),
        arrays={
            axis: found.centres,
            "probability_density": found.density,
            "probability_density_error": found.error,
        },
        details=details,
    )


def _averaged(
    name: str,
    average: TimeAverage,
    unit: str,
    method: str,
    conditions: orm.Dict,
    interval: float,
    arrays: Mapping[str, NDArray[Any]],
    details: Mapping[str, Any] | None = None,
) -> ObservableData:
    return ObservableData(
        name=name,
        value=average.mean,
        error=average.error,
        unit=unit,
        conditions=_conditions(conditions),
        method=method,
        n_independent=average.n_independent,
        warnings=_with_reason(average.warnings, average.error),
        arrays=arrays,
        details={
            "n_samples": average.n_samples,
            "equilibration_fs": average.equilibration * interval,
            "correlation_time_fs": _finite(average.correlation_time * interval),
            "block_error": _finite(average.block_error),
            "standard_deviation": average.standard_deviation,
            **(details or {}),
        },
    )


@contextmanager
def _equilibrated(
    trajectory: DatasetData, properties: orm.ArrayData, conditions: orm.Dict
) -> Iterator[tuple[Trajectory, float]]:
    """Open the frames after the equilibration of the potential energy, and give the time between two of them in fs."""
    run = _run(properties)
    beads = _conditions(conditions)["n_beads"]
    row = detect_equilibration(run["potential_energy_eV"])
    if trajectory.is_subset:
        steps = trajectory.frames.steps
    else:
        with trajectory.base.repository.open(DatasetData.FRAMES_FILENAME, "rb") as handle, np.load(handle) as arrays:
            steps = arrays["steps"]
    if "step" in properties.get_arraynames() and (steps >= 0).all():
        dropped = int(np.searchsorted(steps, properties.get_array("step")[row]))
    else:
        dropped = beads * math.ceil(row * (len(steps) // beads) / len(run["time_fs"]))
    interval = _interval(steps[::beads], conditions)
    if trajectory.is_subset:
        yield FramesTrajectory(trajectory.frames, dropped, beads), interval
        return
    with trajectory.base.repository.open(DatasetData.FRAMES_FILENAME, "rb") as handle:
        yield StoredTrajectory(handle, dropped, beads), interval


def _interval(steps: NDArray[np.int64], conditions: orm.Dict) -> float:
    """Return the time between frames in fs, from their steps if they are known."""
    values = conditions.get_dict()
    known = len(steps) > 1 and bool((steps >= 0).all())
    needed = ("timestep_fs",) if known else ("timestep_fs", "stride")
    if missing := [name for name in needed if name not in values]:
        raise MlFinetuneError(f"the conditions lack {missing}: pass the parameters of the run")
    stride = int(steps[1] - steps[0]) if known else values["stride"]
    return float(values["timestep_fs"]) * float(stride)


def _settings(settings: orm.Dict, required: Sequence[str], optional: Mapping[str, Any]) -> dict[str, Any]:
    values = settings.get_dict()
    if unknown := sorted(set(values) - {*required, *optional}):
        raise MlFinetuneError(f"unknown settings {unknown}: known are {sorted({*required, *optional})}")
    if missing := [name for name in required if name not in values]:
        raise MlFinetuneError(f"the settings lack {missing}")
    return {**optional, **values}


def _pair(value: Any) -> tuple[str, str]:
    if isinstance(value, str) or len(value) != 2:
        raise FramesError(f"a pair of elements is a list such as ['O', 'H'], got {value!r}")
    return str(value[0]), str(value[1])


def _units(atoms: Atoms) -> tuple[str, int]:
    """Return what a quantity is given per, and how many of them the cell holds."""
    if not atoms.pbc.any():
        return atoms.get_chemical_formula(), 1
    try:
        molecules = perceive_crystal(atoms)
    except MoleculesError:
        formula, units = atoms.symbols.formula.reduce()
        return format(formula, "hill"), units
    return molecules.formula, molecules.n_molecules


def _spacing(times: NDArray[np.float64]) -> float:
    return float(times[1] - times[0]) if len(times) > 1 else 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _with_reason(warnings: Sequence[str], error: float) -> list[str]:
    """Return the warnings, one at least where the error is unknown."""
    return list(warnings) or (["the run is too short for an error"] if math.isinf(error) else [])
