"""The input of i-PI, and the turned frame that it is written in."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.calculations.ipi_input import (
    PROPERTIES,
    IpiFrame,
    coordinates_xyz,
    restart_step,
    restart_xml,
    simulation_xml,
)
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.ipi_settings import IpiSettings
from tests.calculations.test_ipi import ice_cell


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


@pytest.mark.parametrize("thermostat", ["langevin", "svr"])
@pytest.mark.parametrize("ensemble", list(Ensemble))
def test_ipi_reads_the_input(ensemble, thermostat):
    """i-PI's own reader takes the input, and finds our numbers in its units."""
    from ipi.inputs.simulation import InputSimulation
    from ipi.utils.io.inputs.io_xml import xml_parse_string

    settings = make(ensemble=ensemble, thermostat=thermostat, timestep_fs=0.25, barostat_tau_fs=700.0)
    text = simulation_xml(settings, ice_cell(), 12.5, "driver.py", "driver.json")
    simulation = InputSimulation()
    simulation.parse(xml_parse_string(text).fields[0][1])
    assert simulation.total_steps.fetch() == 20
    assert simulation.total_time.fetch() == 12.5
    assert simulation.prng.fetch().seed == 5
    system = next(value for name, value in simulation.extra if name == "system")
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
        ({"n_steps": 0}, "n_steps is 0"),
        ({"timestep_fs": 0}, "timestep_fs is 0"),
        ({"seed": 0}, "seed is 0"),
        ({"stride": 40}, "no frame would be kept"),
        ({"ensemble": "npt"}, "unknown ensemble 'npt'"),
        ({"thermostat": "nose"}, "unknown thermostat 'nose'"),
        ({"n_beads": 8}, "n_beads is 8"),
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
