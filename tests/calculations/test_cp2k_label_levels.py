"""Labels by real CP2K with k-points."""

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms

from aiida_mlfinetune.calculations.cp2k_checks import settle_for
from aiida_mlfinetune.calculations.cp2k_label import Cp2kLabelCalculation
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.protocols.levels import load_level


def hydrogen(stretch=1.0):
    """Two hydrogen molecules in a cell so small that the point Gamma does not do."""
    positions = [[0.2, 0.3, 0.1], [0.9, 0.5, 0.3], [1.5, 1.8, 1.9], [1.7, 2.5, 2.1]]
    atoms = Atoms("H4", positions=positions, cell=[[3.2, 0.0, 0.0], [0.2, 3.4, 0.0], [0.0, 0.1, 3.6]], pbc=True)
    atoms.set_cell(atoms.cell.array * stretch, scale_atoms=True)
    return atoms


def small_pbe(key, **overrides):
    spec = load_level("pbe-d3", {"key": key, **overrides})
    spec["kind"] = {"BASIS_SET": "DZVP-GTH", "POTENTIAL": "GTH-PBE"}
    spec["parameters"]["DFT"]["MGRID"].update(CUTOFF=500, NGRIDS=4)  # so fine that both cells have the same grid
    spec["parameters"]["DFT"]["SCF"]["EPS_SCF"] = 1e-7
    return spec


def label(code, atoms, level):
    builder = Cp2kLabelCalculation.get_builder()
    builder.code = code
    builder.dataset = DatasetData(Frames.from_atoms(atoms))
    builder.level = orm.Dict(settle_for(level, builder.dataset.frames))
    builder.metadata.options = {"resources": {"num_machines": 1}, "withmpi": False}
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    frames = outputs["dataset"].frames
    return frames, frames.labels(level["key"])


def test_kpoints_equal_a_supercell(aiida_profile, cp2k_code):
    """Energy, forces and stress of a mesh are those of the supercell, whatever frame was before in the job."""
    images = [hydrogen(), hydrogen(1.02), hydrogen()]
    frames, fine = label(cp2k_code, images, small_pbe("k/cp2k", kpoints={"mesh": [2, 1, 1]}))
    doubled, large = label(cp2k_code, [hydrogen().repeat((2, 1, 1))], small_pbe("supercell/cp2k"))
    assert 2 * fine.energy[0] == pytest.approx(large.energy[0], abs=1e-5)
    np.testing.assert_allclose(fine.forces[frames.slice(0)], large.forces[doubled.slice(0)][:4], rtol=0, atol=1e-4)
    np.testing.assert_allclose(fine.stress[0], large.stress[0], rtol=0, atol=1e-5)
    assert fine.energy[2] == pytest.approx(fine.energy[0], abs=1e-5)
    np.testing.assert_allclose(fine.forces[frames.slice(2)], fine.forces[frames.slice(0)], rtol=0, atol=1e-4)
