"""The CalcJob ``mlfinetune.ipi`` with real i-PI and tiny models."""

from __future__ import annotations

import json

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.calculations.ipi import IpiCalculation


def ice_cell() -> Atoms:
    """Two water molecules in a small skewed cell."""
    water = molecule("H2O")
    other = water.copy()
    other.rotate(90, "x")
    other.positions += [2.2, 2.1, 2.0]
    atoms = water + other
    atoms.set_cell([[4.1, 0.3, 0.2], [-0.5, 4.2, 0.1], [0.2, 0.4, 4.3]])
    atoms.pbc = True
    return atoms


def settings(**changes):
    base = {"ensemble": "npt-flexible", "temperature_K": 100.0, "n_steps": 20, "seed": 5, "stride": 4}
    return {**base, "timestep_fs": 0.5, "properties_stride": 2, **changes}


@pytest.fixture
def model(aiida_profile, tiny_model_file, make_model_data):
    return make_model_data(tiny_model_file)


@pytest.fixture
def run_ipi(ipi_code):
    def run(model, atoms, parent=None, options=None, **changes):
        inputs = {
            "code": ipi_code,
            "model": model,
            "structure": orm.StructureData(ase=atoms),
            "parameters": settings(**changes),
            "metadata": {"options": options or {}},
        }
        if parent is not None:
            inputs["parent_folder"] = parent
        return run_get_node(IpiCalculation, **inputs)

    return run


def test_flexible_cell(run_ipi, model, tiny_model_file):
    from mace.calculators import MACECalculator

    atoms = ice_cell()
    results, node = run_ipi(model, atoms, print_forces=True)
    assert node.is_finished_ok, node.exit_message
    frames = results["trajectory"].frames
    assert frames.steps.tolist() == [0, 4, 8, 12, 16, 20]
    np.testing.assert_allclose(frames.positions[:6], atoms.positions, atol=1e-10)
    np.testing.assert_allclose(frames.cells[0], atoms.cell.array, atol=1e-10)
    (key,) = frames.labels_by_level
    assert key == f"{model.sha256[:8]}/mace"
    calculator = MACECalculator(tiny_model_file, device="cpu", default_dtype="float64")
    for image, reference in zip(frames.to_atoms(), frames.to_atoms(key), strict=True):
        image.calc = calculator
        assert image.get_potential_energy() == pytest.approx(reference.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(image.get_forces(), reference.get_forces(), atol=1e-9)
        np.testing.assert_allclose(image.get_stress(), reference.get_stress(), atol=1e-9)
    properties = {name: results["properties"].get_array(name) for name in results["properties"].get_arraynames()}
    assert properties["step"].tolist() == list(range(0, 21, 2))
    np.testing.assert_allclose(properties["time_fs"], 0.5 * properties["step"])
    np.testing.assert_allclose(np.abs(np.linalg.det(properties["cell_A"])), properties["volume_A3"])
    np.testing.assert_allclose(properties["cell_A"][::2], frames.cells)
    assert np.ptp(properties["volume_A3"]) > 0
    assert json.loads(node.base.repository.get_object_content("driver.json"))["head"] == "Default"
    assert "model.model" not in node.base.repository.list_object_names()


def test_molecule(run_ipi, model):
    results, node = run_ipi(model, molecule("H2O"), ensemble="nvt", thermostat="svr")
    assert node.is_finished_ok, node.exit_message
    frames = results["trajectory"].frames
    assert not frames.pbc.any()
    assert not frames.cells.any()
    assert np.isnan(results["properties"].get_array("volume_A3")).all()
    assert not frames.labels(f"{model.sha256[:8]}/mace").has_stress.any()
    masses = np.array([15.999, 1.008, 1.008])
    centres = np.einsum("j,ijk->ik", masses, frames.positions.reshape(-1, 3, 3)) / masses.sum()
    np.testing.assert_allclose(centres, centres[:1].repeat(len(centres), 0), atol=1e-8)  # the centre of mass rests


def test_same_seed_same_trajectory_and_restart_goes_on(run_ipi, model):
    """A run that is cut in two gives the steps, and to rounding the frames, of one that is not."""
    whole, _ = run_ipi(model, ice_cell())
    again, _ = run_ipi(model, ice_cell())
    assert again["trajectory"].content_hash == whole["trajectory"].content_hash
    first, node = run_ipi(model, ice_cell(), n_steps=8)
    second, rest = run_ipi(model, ice_cell(), parent=node.outputs.remote_folder)
    assert rest.is_finished_ok, rest.exit_message
    assert first["trajectory"].frames.steps.tolist() == [0, 4, 8]
    assert second["trajectory"].frames.steps.tolist() == [12, 16, 20]
    joined = np.concatenate([first["trajectory"].frames.positions, second["trajectory"].frames.positions])
    np.testing.assert_allclose(joined, whole["trajectory"].frames.positions, atol=1e-9)
    conserved = np.concatenate(
        [first["properties"].get_array("conserved_eV"), second["properties"].get_array("conserved_eV")]
    )
    np.testing.assert_allclose(conserved, whole["properties"].get_array("conserved_eV"), atol=1e-7)
    with pytest.raises(ValueError, match="another \\['temperature_K'\\]"):
        run_ipi(model, ice_cell(), parent=node.outputs.remote_folder, temperature_K=200.0)


def test_explosion_stops_the_run_and_keeps_the_sane_frames(run_ipi, model):
    results, node = run_ipi(model, ice_cell(), ensemble="nve", temperature_K=30000.0, n_steps=2000, min_distance_A=0.6)
    assert node.exit_status == IpiCalculation.exit_codes.ERROR_EXPLODED.status
    assert results["output_parameters"]["last_step"] < 2000
    assert len(results["trajectory"].frames) >= 1
    assert np.isfinite(results["trajectory"].frames.positions).all()


def test_wall_time_is_over(run_ipi, model):
    results, node = run_ipi(model, ice_cell(), n_steps=10**6, stride=10, options={"max_wallclock_seconds": 4})
    assert node.exit_status == IpiCalculation.exit_codes.ERROR_OUT_OF_WALLTIME.status
    reached = results["output_parameters"]["restart_step"]
    assert results["properties"].get_array("step")[-1] <= reached
    assert results["output_parameters"]["last_step"] > reached - 2
