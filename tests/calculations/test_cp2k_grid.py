"""The grid of CP2K: energies of a crystal whose cell changes are smooth, and the stress is their slope."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import molecule

from aiida_mlfinetune.calculations.cp2k_cells import with_grid_cells
from aiida_mlfinetune.calculations.cp2k_label import Cp2kLabelCalculation, cp2k_inputs_problem, validate_inputs
from aiida_mlfinetune.calculations.cp2k_md import Cp2kMdCalculation, md_parameters
from aiida_mlfinetune.calculations.functions.labelling import make_batches
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.dynamics.md_settings import MdSettings
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.protocols.levels import load_level
from tests.fixtures.codes import PREPEND

LEVEL = "revpbe-d3-demo"
EDGES_A = (4.738, 4.761, 4.784, 4.807)
"""CP2K takes more points from the third on; the energy falls by 30 meV there."""


def box(edge):
    """Return a water molecule in a cube, with all distances in the ratio of the edges."""
    atoms = molecule("H2O", cell=[4.6] * 3, pbc=True)
    atoms.center()
    atoms.set_cell([edge] * 3, scale_atoms=True)
    return atoms


def labels(code, images, level, **more):
    data = DatasetData(Frames.from_atoms(images))
    builder = LabellingWorkChain.get_builder_from_protocol(code, data, level, "demo", **more)
    builder.cp2k.metadata.options.prepend_text = PREPEND
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    return outputs["dataset"].frames.labels(builder.level["key"])


def test_energies_are_smooth_and_have_the_stress_as_slope(aiida_profile, cp2k_code):
    """Left to itself, CP2K has another number of points for each cell, which no stress tells of."""
    images = [box(edge) for edge in EDGES_A]
    shared = labels(cp2k_code, images, load_level(LEVEL))
    assert shared.level.settings["grid_cells"] == {"H2O": [images[0].cell.tolist()]}
    volumes = np.array(EDGES_A) ** 3
    pressure = -np.trace(shared.stress, axis1=1, axis2=2) / 3
    work = -np.diff(volumes) * (pressure[1:] + pressure[:-1]) / 2
    np.testing.assert_allclose(np.diff(shared.energy), work, atol=5e-4)
    own = [labels(cp2k_code, [image], load_level(LEVEL)).energy[0] for image in images[1:3]]
    assert np.diff(own)[0] - work[1] < -0.02, "this pair of cells has one number of points, and tests nothing"
    # a later labelling has the grid of the first where the crystal is named
    crystal = orm.StructureData(ase=images[0])
    later = labels(cp2k_code, images[2:3], load_level(LEVEL), crystals=[crystal])
    assert later.energy[0] == pytest.approx(shared.energy[2], abs=2e-4)


def test_a_job_has_one_grid(aiida_profile, cp2k_code):
    """Frames of crystals with reference cells of their own are sorted into jobs."""
    images = [box(4.6), box(6.4), box(4.65)]
    level = orm.Dict(with_grid_cells(load_level(LEVEL), Frames.from_atoms(images)))
    data = DatasetData(Frames.from_atoms(images))
    problem = validate_inputs({"level": level, "dataset": data}, None)
    assert "one CP2K job has one grid" in problem
    assert cp2k_inputs_problem({"level": level, "dataset": data}) is None  # nor does the labelling, which sorts them
    batches = make_batches(data, orm.Int(10), orm.Bool(False), level)
    edges = sorted(sorted(batch.frames.cells[:, 0, 0].round(2)) for batch in batches.values())
    assert edges == [[4.6, 4.65], [6.4]]
    open_level = orm.Dict(load_level(LEVEL))
    builder = Cp2kLabelCalculation.get_builder()
    builder.code, builder.level = cp2k_code, open_level
    assert "energies would jump" in cp2k_inputs_problem({"level": open_level, "dataset": data})


def test_energy_is_conserved_where_the_cell_passes_a_change_of_the_grid(aiida_profile, cp2k_code):
    """Without a reference cell the conserved quantity falls by 13 meV at the sixth step, as CP2K takes more points."""
    settings = {"n_steps": 7, "ensemble": "npt-flexible", "temperature_K": 300.0, "pressure_bar": -6e4, "seed": 1}
    start = box(4.765)
    level = with_grid_cells(load_level(LEVEL), Frames.from_atoms([start]))

    def drift(parameters):
        builder = Cp2kMdCalculation.get_builder()
        builder.code, builder.level, builder.structure = cp2k_code, orm.Dict(level), orm.StructureData(ase=start)
        builder.parameters = orm.Dict(parameters)
        builder.metadata.options = {"resources": {"num_machines": 1}, "prepend_text": PREPEND}
        outputs, node = run_get_node(builder)
        assert node.is_finished_ok, node.exit_message
        return np.ptp(outputs["properties"].get_array("conserved_eV"))

    parameters = md_parameters(level, MdSettings.from_dict({**settings, "stride": 1}), start)
    assert drift(parameters) < 3e-3
    del parameters["FORCE_EVAL"]["SUBSYS"]["CELL"]["CELL_REF"]
    assert drift(parameters) > 1e-2, "this run does not pass a change of the grid, and tests nothing"


@pytest.mark.parametrize("ensemble", ["npt-flexible", "nvt"])
def test_a_run_has_the_grid_that_its_level_names(ensemble):
    settings = MdSettings.from_dict({"n_steps": 10, "ensemble": ensemble, "temperature_K": 100.0, "seed": 1})
    level = with_grid_cells(load_level(LEVEL), Frames.from_atoms([box(4.8)]))
    cell = md_parameters(level, settings, box(4.6))["FORCE_EVAL"]["SUBSYS"]["CELL"]
    assert cell["CELL_REF"]["A"] == "4.8 0.0 0.0"
