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
from aiida_mlfinetune.calculations.ipi_input import own_seed


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


def test_flexible_cell(run_ipi, tiny_model, tiny_model_file):
    from mace.calculators import MACECalculator

    atoms = ice_cell()
    results, node = run_ipi(tiny_model, atoms, print_forces=True)
    assert node.is_finished_ok, node.exit_message
    frames = results["trajectory"].frames
    assert frames.steps.tolist() == [0, 4, 8, 12, 16, 20]
    np.testing.assert_allclose(frames.positions[:6], atoms.positions, atol=1e-10)
    np.testing.assert_allclose(frames.cells[0], atoms.cell.array, atol=1e-10)
    (key,) = frames.labels_by_level
    assert key == f"{tiny_model.sha256[:8]}/mace"
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


def test_molecule(run_ipi, tiny_model):
    results, node = run_ipi(tiny_model, molecule("H2O"), ensemble="nvt", thermostat="svr")
    assert node.is_finished_ok, node.exit_message
    frames = results["trajectory"].frames
    assert not frames.pbc.any()
    assert not frames.cells.any()
    assert np.isnan(results["properties"].get_array("volume_A3")).all()
    assert not frames.labels(f"{tiny_model.sha256[:8]}/mace").has_stress.any()
    masses = np.array([15.999, 1.008, 1.008])
    centres = np.einsum("j,ijk->ik", masses, frames.positions.reshape(-1, 3, 3)) / masses.sum()
    np.testing.assert_allclose(centres, centres[:1].repeat(len(centres), 0), atol=1e-8)  # the centre of mass rests


def test_restart_without_a_thermostat_goes_on(run_ipi, tiny_model):
    """Without a thermostat, whose random numbers hide it: the same up to the last digit, which i-PI rounds."""
    whole, _ = run_ipi(tiny_model, ice_cell(), ensemble="nve")
    _, node = run_ipi(tiny_model, ice_cell(), ensemble="nve", n_steps=8)
    rest, _ = run_ipi(tiny_model, ice_cell(), ensemble="nve", parent=node.outputs.remote_folder)
    found, same = rest["trajectory"].frames, whole["trajectory"].frames.select([3, 4, 5])
    (key,) = found.labels_by_level
    assert found.steps.tolist() == same.steps.tolist()
    np.testing.assert_allclose(found.labels(key).energy, same.labels(key).energy, rtol=1e-14)
    np.testing.assert_allclose(found.positions, same.positions, rtol=0, atol=2e-15)


def test_same_seed_same_trajectory_and_restart_goes_on(run_ipi, tiny_model):
    """A run that is cut in two gives the frames of one that is not, up to rounding in i-PI's thermostats."""
    whole, _ = run_ipi(tiny_model, ice_cell())
    first, node = run_ipi(tiny_model, ice_cell(), n_steps=8)
    second, rest = run_ipi(tiny_model, ice_cell(), parent=node.outputs.remote_folder)
    assert rest.is_finished_ok, rest.exit_message
    seed = own_seed(5, ice_cell(), tiny_model.sha256)
    assert f"<seed>{seed}</seed>" in node.base.repository.get_object_content(IpiCalculation.INPUT_FILENAME)
    assert first["trajectory"].frames.steps.tolist() == [0, 4, 8]
    same = whole["trajectory"].frames.select([0, 1, 2])
    assert first["trajectory"].frames.content_hash() == same.content_hash()  # to the last bit
    assert second["trajectory"].frames.steps.tolist() == [12, 16, 20]
    joined = np.concatenate([first["trajectory"].frames.positions, second["trajectory"].frames.positions])
    np.testing.assert_allclose(joined, whole["trajectory"].frames.positions, rtol=0, atol=1e-15)
    conserved = np.concatenate(
        [first["properties"].get_array("conserved_eV"), second["properties"].get_array("conserved_eV")]
    )
    np.testing.assert_allclose(conserved, whole["properties"].get_array("conserved_eV"), atol=1e-7)
    for changes, message in (
        ({"temperature_K": 200.0}, "another \\['temperature_K'\\]"),
        ({"n_steps": 8}, "raise n_steps"),
    ):
        with pytest.raises(ValueError, match=message):
            run_ipi(tiny_model, ice_cell(), parent=node.outputs.remote_folder, **changes)
    moved = ice_cell()
    moved.positions[0] += 0.1
    with pytest.raises(ValueError, match="another structure"):
        run_ipi(tiny_model, moved, parent=node.outputs.remote_folder)


def test_wall_time_is_over(run_ipi, tiny_model, monkeypatch):
    monkeypatch.setattr("aiida_mlfinetune.calculations.ipi.WALL_MARGIN", (0.0, 0.0))
    settings = {"n_steps": 10**6, "stride": 10, "timestep_fs": 0.01}  # no machine melts it in two seconds
    results, node = run_ipi(tiny_model, ice_cell(), **settings, options={"max_wallclock_seconds": 2})
    assert node.exit_status == IpiCalculation.exit_codes.ERROR_OUT_OF_WALLTIME.status
    reached = results["output_parameters"]["restart_step"]
    assert reached - 2 < results["output_parameters"]["last_step"] <= reached


def test_energy_is_conserved(run_ipi, tiny_model):
    results, node = run_ipi(tiny_model, ice_cell(), ensemble="nve", temperature_K=300.0, n_steps=60, timestep_fs=0.5)
    assert node.is_finished_ok, node.exit_message
    columns = {name: results["properties"].get_array(name) for name in results["properties"].get_arraynames()}
    conserved, potential = columns["conserved_eV"], columns["potential_energy_eV"]
    total = potential + columns["kinetic_energy_eV"]
    assert np.ptp(conserved - total) < 1e-9  # a constant: the energy taken from the centre of mass at the start
    assert np.ptp(total) < 0.01 * np.ptp(potential)


def test_mean_temperature_and_pressure_work(run_ipi, tiny_model):
    """With strong thermostats the mean temperature is within four standard errors of the one asked for.

    The model hardly attracts: the pressure is that of an ideal gas of its density, so that the volume stays in bounds.
    """
    results, node = run_ipi(
        tiny_model,
        ice_cell(),
        ensemble="npt-isotropic",
        thermostat_tau_fs=4.0,
        barostat_tau_fs=200.0,
        n_steps=300,
        pressure_bar=1100.0,
    )
    assert node.is_finished_ok, node.exit_message
    temperatures = results["properties"].get_array("temperature_K")[20:]
    independent = len(temperatures) * 2 * 0.5 / (2 * 4.0)
    error = 100.0 * np.sqrt(2 / 15 / independent)  # 15 degrees of freedom move
    assert abs(temperatures.mean() - 100.0) < 4 * error
    cells = results["properties"].get_array("cell_A")
    shape = cells / np.cbrt(results["properties"].get_array("volume_A3"))[:, None, None]
    np.testing.assert_allclose(shape, shape[:1].repeat(len(shape), 0), atol=1e-9)  # isotropic: the shape stays
    assert np.ptp(results["properties"].get_array("volume_A3")) > 0


@pytest.fixture
def inputs(ipi_code, tiny_model):
    return {
        "code": ipi_code,
        "model": tiny_model,
        "structure": orm.StructureData(ase=ice_cell()),
        "parameters": orm.Dict(settings()),
    }


def bad(name):
    if name == "overlap":
        atoms = ice_cell()
        atoms.positions[1] = atoms.positions[0] + [0, 0, 0.4]
        return atoms
    atoms = ice_cell() if name != "element" else Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])
    if name == "flat":
        atoms.cell[2] = atoms.cell[0]
    elif name == "slab":
        atoms.pbc = [True, True, False]
    elif name == "molecule":
        atoms = molecule("H2O")
    return atoms


@pytest.mark.parametrize(
    ("atoms", "changes", "message"),
    [
        ("overlap", {}, "0.400 angstrom apart"),
        ("flat", {}, "no volume"),
        ("slab", {}, "periodic in some directions only"),
        ("element", {"ensemble": "nvt"}, "does not know the elements \\['C'\\]"),
        ("molecule", {}, "moves the cell"),
        ("good", {"temperature_K": -5}, "temperature_K is -5"),
        ("good", {"n_steps": 0}, "n_steps is 0"),
        ("good", {"timestep_fs": 3.0}, "over 2.0 fs"),
        ("good", {"tempreature_K": 3}, "unknown entries \\['tempreature_K'\\]"),
        ("good", {"head": "pbe"}, "head is 'pbe'"),
    ],
)
def test_bad_input_is_refused_when_it_is_given(inputs, atoms, changes, message):
    with pytest.raises(ValueError, match=message):
        run_get_node(
            IpiCalculation,
            **{
                **inputs,
                "structure": orm.StructureData(ase=bad(atoms)),
                "parameters": orm.Dict(settings(**changes)),
            },
        )


def test_other_program_and_misspelt_input_are_refused(inputs, python_code):
    with pytest.raises(ValueError, match="not the right program"):
        run_get_node(IpiCalculation, **{**inputs, "code": python_code})
    with pytest.raises(ValueError, match=r"Unexpected ports.*structre"):
        run_get_node(IpiCalculation, **inputs, structre=inputs["structure"])
    with pytest.raises(ValueError, match="remote_folder"):
        run_get_node(
            IpiCalculation, **inputs, parent_folder=orm.RemoteData("/tmp", computer=inputs["code"].computer).store()
        )
