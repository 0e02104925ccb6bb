"""The input of i-PI, and the turned frame that it is written in."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.calculations.ipi_input import (
    PATH_INTEGRAL_PROPERTIES,
    PROPERTIES,
    IpiFrame,
    bead_filenames,
    coordinates_xyz,
    own_seed,
    restart_step,
    restart_xml,
    simulation_xml,
)
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.dynamics.gle import load_matrix
from aiida_mlfinetune.science.dynamics.ipi_settings import IpiSettings
from tests.calculations.test_ipi import ice_cell

GLE = "optimal-sampling-5x5"


def piglet(n_beads: int, temperature: float = 100.0, size: int = 2) -> dict:
    """Return matrices for every normal mode that thermalise like white noise, in the layout of PIGLET."""
    drift = [(np.diag([2e-4, 1e-3][:size]) * (1 + mode)).tolist() for mode in range(n_beads)]
    covariance = [(np.eye(size) * n_beads * temperature).tolist()] * n_beads
    return {"name": "white", "drift_per_atomic_time": drift, "covariance_K": covariance}


def read_by_ipi(text: str):
    """Return the simulation, and the motion of its system, that i-PI's own reader makes of an input."""
    from ipi.inputs.simulation import InputSimulation
    from ipi.utils.io.inputs.io_xml import xml_parse_string

    simulation = InputSimulation()
    simulation.parse(xml_parse_string(text).fields[0][1])
    return simulation, next(value for name, value in simulation.extra if name == "system")


def make(**changes) -> IpiSettings:
    return IpiSettings(**{"ensemble": "npt-flexible", "temperature_K": 100.0, "n_steps": 20, "seed": 5, **changes})


def left_handed() -> Atoms:
    atoms = ice_cell()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    return atoms


@pytest.mark.parametrize("atoms", [ice_cell(), left_handed()])
def test_turned_frame_and_back(atoms):
    frame = IpiFrame.of(atoms)
    assert np.tril(frame.cell, -1).tolist() == np.zeros((3, 3)).tolist()
    assert (np.diag(frame.cell) > 0).all()
    turned = Atoms(atoms.numbers, frame.vectors_in(atoms.positions), cell=frame.cell.T, pbc=True)
    np.testing.assert_allclose(turned.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=1e-12)
    np.testing.assert_allclose(frame.vectors_out(frame.vectors_in(atoms.positions)), atoms.positions, atol=1e-12)
    np.testing.assert_allclose(frame.cells_out(frame.cell[None])[0], atoms.cell.array, atol=1e-12)
    tensor = np.diag([1.0, 2.0, 3.0])
    direction = frame.vectors_in(np.array([0.3, 0.4, 0.5]))
    back = frame.tensors_out(tensor[None])[0]
    assert direction @ tensor @ direction == pytest.approx(np.array([0.3, 0.4, 0.5]) @ back @ [0.3, 0.4, 0.5])


def test_a_molecule_is_not_turned():
    frame = IpiFrame.of(molecule("H2O"))
    assert (frame.rotation == np.eye(3)).all()
    assert not frame.cells_out(np.ones((2, 3, 3))).any()


def test_structures_and_models_have_seeds_of_their_own():
    moved = ice_cell()
    moved.positions[0] += 0.1
    again = ice_cell()
    again.positions += 1e-9
    cases = [(5, ice_cell(), "a1"), (6, ice_cell(), "a1"), (5, moved, "a1"), (5, ice_cell(), "b2")]
    seeds = [own_seed(*case) for case in cases]
    assert len(set(seeds)) == len(cases)
    assert all(0 < seed < 2**31 for seed in seeds)
    assert own_seed(5, again, "a1") == seeds[0]


@pytest.mark.parametrize("thermostat", ["langevin", "svr"])
@pytest.mark.parametrize("ensemble", list(Ensemble))
def test_ipi_reads_the_input(ensemble, thermostat):
    """i-PI's own reader takes the input, and finds our numbers in its units."""
    settings = make(ensemble=ensemble, thermostat=thermostat, timestep_fs=0.25, barostat_tau_fs=700.0)
    text = simulation_xml(settings, ice_cell(), 12.5, "driver.py", "driver.json")
    simulation, system = read_by_ipi(text)
    assert simulation.total_steps.fetch() == 20
    assert simulation.total_time.fetch() == 12.5
    assert simulation.prng.fetch().seed == 5
    motion, bath = system.motion.fetch(), system.ensemble.fetch()
    fs = 41.341373
    assert motion.enstype == {"nve": "nve", "nvt": "nvt"}.get(ensemble.value, "npt")
    assert motion.dt == pytest.approx(0.25 * fs)
    assert bath.temp == pytest.approx(100 * 3.1668116e-06)
    if ensemble.has_barostat:
        assert bath.pext == pytest.approx(1e5 / 2.9421016e13, rel=1e-5)
        assert motion.barostat.tau == pytest.approx(700 * fs)
        assert motion.barostat.thermostat.tau == pytest.approx(700 * fs)
        assert type(motion.barostat).__name__ == {"npt-isotropic": "BaroBZP", "npt-flexible": "BaroMTK"}[ensemble.value]
    if ensemble is not Ensemble.NVE:
        assert type(motion.thermostat).__name__ == {"langevin": "ThermoLangevin", "svr": "ThermoSVR"}[thermostat]
        assert motion.thermostat.tau == pytest.approx(100 * fs)
    properties, positions, checkpoint = simulation.output.fetch()
    assert tuple(properties.outlist) == PROPERTIES
    assert (properties.stride, positions.stride, checkpoint.stride) == (10, 10, 100)


@pytest.mark.parametrize("ensemble", ["nvt", "npt-isotropic", "npt-flexible"])
@pytest.mark.parametrize(
    ("thermostat", "n_beads", "expected"),
    [
        ("gle", 1, "ThermoGLE"),
        ("gle", 4, "ThermoGLE"),
        ("langevin", 4, "ThermoLangevin"),
        ("pile-l", 4, "ThermoPILE_L"),
        ("pile-g", 16, "ThermoPILE_G"),
        ("piglet", 4, "ThermoNMGLE"),
    ],
)
def test_ipi_reads_every_thermostat(ensemble, thermostat, n_beads, expected):
    matrix = piglet(n_beads) if thermostat == "piglet" else GLE
    settings = make(
        ensemble=ensemble, thermostat=thermostat, gle=matrix, cell_thermostat="gle", cell_gle=GLE, n_beads=n_beads
    )
    simulation, system = read_by_ipi(simulation_xml(settings, ice_cell(), 0.0, "driver.py", "driver.json"))
    motion = system.motion.fetch()
    assert type(motion.thermostat).__name__ == expected
    drift = np.array(load_matrix(GLE)["drift_per_atomic_time"])
    if thermostat == "gle":
        np.testing.assert_array_equal(motion.thermostat.A, drift)
    elif thermostat == "piglet":
        np.testing.assert_array_equal(motion.thermostat.A, matrix["drift_per_atomic_time"])
        kelvin = np.array(matrix["covariance_K"]) * 3.1668116e-06
        np.testing.assert_allclose(motion.thermostat.C, kelvin, rtol=1e-6)
    else:
        assert motion.thermostat.tau == pytest.approx(100 * 41.341373)
    if ensemble != "nvt":
        np.testing.assert_array_equal(motion.barostat.thermostat.A, drift)
        assert motion.barostat.tau == pytest.approx(1000 * 41.341373)
    assert system.initialize.fetch().nbeads == n_beads
    forcefield = next(value for name, value in simulation.extra if name == "ffdirect")
    assert forcefield.batch_size.fetch() == n_beads
    further = PATH_INTEGRAL_PROPERTIES if n_beads > 1 else ()
    assert tuple(simulation.output.fetch()[0].outlist) == (*PROPERTIES, *further)


def test_the_cell_takes_the_matrix_of_the_atoms_where_it_has_none_of_its_own():
    settings = make(thermostat="gle", gle=GLE, cell_thermostat="gle")
    assert (settings.cell_matrix.drift == settings.matrix.drift).all()
    assert settings.to_dict()["gle"] == load_matrix(GLE)  # the node holds the numbers, not a name alone
    assert IpiSettings.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({"gle": GLE}, ("gle",)),
        ({"gle": GLE, "cell_gle": GLE}, ("gle", "cell_gle")),
        ({"gle": GLE, "thermostat": "gle"}, ()),
        ({"gle": GLE, "thermostat": "gle", "ensemble": "nve"}, ("gle",)),
        ({"gle": GLE, "cell_thermostat": "gle"}, ()),
        ({"gle": GLE, "cell_thermostat": "gle", "ensemble": "nvt"}, ("gle",)),
        ({"gle": GLE, "cell_thermostat": "gle", "cell_gle": GLE}, ("gle",)),
        ({"gle": GLE, "thermostat": "gle", "cell_gle": GLE, "ensemble": "nvt"}, ("cell_gle",)),
        ({"gle": piglet(4), "thermostat": "piglet", "n_beads": 4}, ()),
        ({}, ()),
    ],
)
def test_matrices_that_no_thermostat_uses_are_known(changes, unused):
    settings = make(**changes)
    assert settings.unused_matrices == unused
    settings.check_use({"n_steps": 20, "gle": None})
    if unused:
        with pytest.raises(StudyError, match=f"{unused[0]} is given, but nothing uses it: .* cell_thermostat 'gle'"):
            settings.check_use(changes)
    else:
        settings.check_use(changes)


@pytest.mark.parametrize(("n_beads", "last"), [(1, "0"), (9, "8"), (10, "09"), (32, "31")])
def test_files_of_the_beads_are_named_as_by_ipi(n_beads, last):
    names = bead_filenames("positions", n_beads)
    assert len(names) == n_beads
    assert names[-1] == f"simulation.positions_{last}.bin"


def test_coordinates_keep_their_digits():
    atoms = molecule("H2O")
    atoms.positions += 1 / 3
    rows = [line.split() for line in coordinates_xyz(atoms).splitlines()[2:]]
    assert [row[0] for row in rows] == ["O", "H", "H"]
    assert (np.array([row[1:] for row in rows], dtype=float) == atoms.positions).all()


def test_restart_file_gets_new_limits():
    text = "<simulation><step> 8 </step><total_steps>10</total_steps><total_time>3</total_time></simulation>"
    changed = restart_xml(text, 20, 7.5)
    assert "<total_steps>20</total_steps><total_time>7.5</total_time>" in changed
    assert restart_step(changed) == 8
    assert "<total_time>7.5</total_time>" in restart_xml("<simulation><step>8</step></simulation>", 20, 7.5)
    with pytest.raises(ValueError, match="raise n_steps"):
        restart_xml(text, 8, 0)
    with pytest.raises(ValueError, match="not complete"):
        restart_xml(text[:-5], 20, 0)
    assert restart_step(text[:-5]) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature_K": -1.0}, "temperature_K is -1.0"),
        ({"temperature_K": float("nan")}, "temperature_K is nan"),
        ({"pressure_bar": float("nan")}, "pressure_bar is nan, but must be a finite number"),
        ({"pressure_bar": float("inf")}, "pressure_bar is inf"),
        ({"allow_large_timestep": "no"}, "allow_large_timestep is 'no', but must be true or false"),
        ({"print_forces": "no"}, "print_forces is 'no', but must be true or false"),
        ({"require_stress": 0}, "require_stress is 0, but must be true or false"),
        ({"max_force_eV_A": float("inf")}, "max_force_eV_A is inf"),
        ({"volume_factor_limits": [0.5, float("inf")]}, "volume_factor_limits are"),
        ({"volume_factor_limits": ["0.5", 2]}, "volume_factor_limits are"),
        ({"n_steps": 0}, "n_steps is 0"),
        ({"timestep_fs": 0}, "timestep_fs is 0"),
        ({"seed": 0}, "seed is 0"),
        ({"stride": 40}, "no frame would be kept"),
        ({"ensemble": "npt"}, "unknown ensemble 'npt'"),
        ({"thermostat": "nose"}, "unknown thermostat 'nose'"),
        ({"n_beads": 0}, "n_beads is 0"),
        ({"n_beads": 2.0}, "n_beads is 2.0"),
        ({"n_beads": 8, "batch_size": 3}, "batch_size is 3, but must divide n_beads"),
        ({"n_beads": 8, "thermostat": "svr"}, "'svr' does not sample path integrals"),
        ({"thermostat": "gle"}, "'gle' needs a matrix"),
        ({"thermostat": "gle", "gle": "smart"}, "no matrix 'smart' is shipped: choose from .*optimal-sampling-5x5"),
        ({"thermostat": "piglet", "gle": GLE, "n_beads": 4}, "wants a drift of the shape \\(4, n, n\\)"),
        ({"gle": {"drift": [[1.0]]}}, "unknown entries \\['drift'\\] in gle"),
        ({"gle": 3}, "gle is 3"),
        ({"cell_gle": {"drift_per_atomic_time": [[1.0, 0.0]]}}, "drift of cell_gle has the shape \\(1, 2\\)"),
        ({"cell_thermostat": "gle"}, "give cell_gle, or gle"),
        ({"cell_thermostat": "pile-l"}, "cell_thermostat is 'pile-l', which acts on the normal modes"),
        ({"cell_thermostat": "piglet"}, "cell_thermostat is 'piglet'"),
        ({"cell_thermostat": "none"}, "unknown cell_thermostat 'none'"),
        ({"max_temperature_K": 0}, "max_temperature_K is 0"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"properties_stride": 3}, "must divide stride"),
        ({"checkpoint_stride": 15}, "multiple of properties_stride"),
        ({"min_distance_A": 0}, "min_distance_A is 0"),
        ({"max_force_eV_A": True}, "max_force_eV_A is True"),
        ({"max_displacement_A": -1}, "max_displacement_A is -1"),
        ({"volume_factor_limits": [1.2, 2]}, "volume_factor_limits"),
    ],
)
def test_bad_settings_name_the_offender(changes, message):
    with pytest.raises(StudyError, match=message):
        make(**changes)


def test_settings_come_back_from_plain_values():
    settings = make(stride=20, thermostat="svr")
    assert IpiSettings.from_dict(settings.to_dict()) == settings
    assert settings.properties_stride == 10
    with pytest.raises(StudyError, match="unknown entries \\['temprature_K'\\]"):
        IpiSettings.from_dict({**settings.to_dict(), "temprature_K": 3})
