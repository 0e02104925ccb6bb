"""The section about what was measured on a run."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import calcfunction
from ase.build import make_supercell

from aiida_mlfinetune.calculations.functions import observables
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.report.sections.observables import measured_on, observables_section
from aiida_mlfinetune.science.crystals.crystals import ice_xi
from aiida_mlfinetune.science.datasets.frames import Frames

CONDITIONS = {"temperature_K": 100.0, "ensemble": "npt-flexible", "pressure_bar": 1.0, "timestep_fs": 1.0, "stride": 5}
N_FRAMES = 60


@pytest.fixture
def run(aiida_profile):
    """A finished dynamics chain whose outputs are a crystal that trembles."""
    crystal = make_supercell(ice_xi(), np.diag([2, 1, 1]))
    rng = np.random.default_rng(0)
    images = []
    for _ in range(N_FRAMES):
        image = crystal.copy()
        image.positions += 0.1 * rng.normal(size=image.positions.shape)
        images.append(image)
    steps = np.arange(N_FRAMES) * 5
    volumes = crystal.get_volume() * (1 + 0.01 * rng.normal(size=N_FRAMES))
    trajectory = DatasetData(Frames.from_atoms(images, steps=steps.tolist())).store()
    properties = orm.ArrayData(
        {
            "step": steps,
            "time_fs": steps * 1.0,
            "potential_energy_eV": rng.normal(size=N_FRAMES),
            "temperature_K": 100 + rng.normal(size=N_FRAMES),
            "volume_A3": volumes,
        }
    ).store()
    structure, conditions = orm.StructureData(ase=crystal).store(), orm.Dict(CONDITIONS).store()
    chain = orm.WorkChainNode()
    chain.set_process_label("DynamicsWorkChain")
    chain.base.links.add_incoming(structure, LinkType.INPUT_WORK, "structure")
    chain.store()
    for name, node in (("trajectory", trajectory), ("properties", properties)):
        node.base.links.add_incoming(chain, LinkType.RETURN, name)
    return chain, structure, conditions


def test_all_that_was_measured_is_shown_with_its_node(run):
    chain, structure, conditions = run
    assert not observables_section(chain).tables
    frames, table = chain.outputs.trajectory, chain.outputs.properties
    settings = orm.Dict({"pairs": [["O", "O"], ["O", "H"]], "r_max_A": 3.3, "n_bins": 40})
    curves = observables.radial_distribution(frames, table, conditions, settings)
    arrays = curves["O_O"].arrays()
    reference = orm.ArrayData({"r_A": arrays["r_A"], "g": arrays["g"] * 0.9})
    compared = observables.compare_radial_distribution(curves["O_O"], reference)
    moved = observables.mean_squared_displacement(frames, table, conditions, orm.Dict({"element": "O"}))
    neighbours = orm.Dict({"centre": "O", "neighbour": "H", "r_min_A": 1.3})
    bonds = observables.coordination_number(frames, table, conditions, neighbours)
    heavy = observables.density_histogram(table, structure, conditions)
    shown = [*curves.values(), compared, moved, bonds, heavy]
    section = observables_section(chain)
    assert {row[-1] for row in section.tables[0].rows} == {str(one.pk) for one in shown}
    quantities = [row[1] for row in section.tables[0].rows]
    assert "radial distribution O-O" in quantities
    assert "coordination number of O by H" in quantities
    assert len(section.figures) == 4  # one for both curves
    assert "reference" in section.figures[0].svg
    assert any("not linearly" in warning for warning in section.warnings)  # a solid


def test_what_was_measured_on_another_run_is_not(run):
    chain, structure, conditions = run
    other = orm.ArrayData(
        {name: chain.outputs.properties.get_array(name)[:50] for name in ("time_fs", "temperature_K")}
    )
    changed = _with_energies(other, orm.Float(1.0))
    observables.potential_energy(changed, structure, conditions)
    assert measured_on(chain) == []


@calcfunction
def _with_energies(table, spread):
    energies = np.random.default_rng(1).normal(size=50) * spread.value
    arrays = {name: table.get_array(name) for name in table.get_arraynames()}
    return orm.ArrayData({**arrays, "potential_energy_eV": energies})
