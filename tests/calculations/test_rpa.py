"""RPA labels by real CP2K: forces against differences of the energy, of one molecule and of a crystal."""

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.common.units import EV_MEV
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.crystals import ice_xi
from aiida_mlfinetune.science.frames import Frames
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain

KEY = "rpa-pbe0/cp2k"
STEP_A = 0.005
GRID_MEV_A = 3.0
"""Agreement of forces and energy differences that the grids and the SCF cycle's convergence allow, in meV/A."""


def distorted_water() -> Atoms:
    """A water molecule without symmetry, in a periodic cube of 6 angstrom."""
    atoms = molecule("H2O", cell=[6.0, 6.0, 6.0], pbc=True)
    atoms.positions += 3.0
    atoms.positions[1] += [0.0, 0.11, 0.03]
    return atoms


def distorted_ice() -> Atoms:
    """Ice XI in its primitive cell of 4 molecules, its atoms moved at random."""
    whole = ice_xi()
    a, b, c = whole.cell.lengths()
    atoms = Atoms(cell=[[a / 2, -b / 2, 0.0], [a / 2, b / 2, 0.0], [0.0, 0.0, c]], pbc=True)
    for atom in whole:
        atoms.append(atom)
        distances = atoms.get_distances(-1, range(len(atoms) - 1), mic=True) if len(atoms) > 1 else np.array([9.0])
        if distances.min() < 0.1:
            del atoms[-1]
    atoms.rattle(0.03, seed=7)
    return atoms


def labelled(code, atoms, threads):
    """Return labels of a frame and of two that are moved along a direction, forwards and back, and the direction."""
    direction = np.random.default_rng(3).normal(size=atoms.positions.shape)
    direction /= np.linalg.norm(direction)
    images = [atoms.copy() for _ in range(3)]
    images[1].positions += STEP_A * direction
    images[2].positions -= STEP_A * direction
    builder = LabellingWorkChain.get_builder_from_protocol(
        code,
        DatasetData(Frames.from_atoms(images)).store(),
        level="rpa-pbe0",
        protocol="demo",
        overrides={"frames_per_job": 3},
        options={
            "resources": {"num_machines": 1, "num_mpiprocs_per_machine": 1},
            "withmpi": False,
            "prepend_text": f"export OMP_NUM_THREADS={threads}",
        },
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    (job,) = (child for child in node.called if isinstance(child, orm.CalcJobNode))
    return outputs["dataset"].frames, direction, job


def check(frames, direction):
    """Check that forces are the slope of the energy along the direction, and return forces of the first frame."""
    labels = frames.labels(KEY)
    slope = -(labels.energy[1] - labels.energy[2]) / (2 * STEP_A)
    forces = labels.forces[frames.slice(0)]
    assert abs((forces * direction).sum() - slope) * EV_MEV < GRID_MEV_A
    assert abs(slope) * EV_MEV > 100 * GRID_MEV_A
    return forces


def test_forces_of_a_distorted_molecule_are_those_of_the_rpa_energy(aiida_profile, cp2k_code):
    frames, direction, job = labelled(cp2k_code, distorted_water(), threads=1)
    check(frames, direction)
    labels = frames.labels(KEY)
    assert labels.stress is None or np.isnan(labels.stress).all()
    text = job.outputs.retrieved.base.repository.get_object_content("aiida.out")
    assert text.count("RI-RPA energy") == 3
    # The energy is RPA's, not that of the PBE0 orbitals: 0.7 eV lower for water in this basis.
    assert labels.energy[0] / 27.211386 == pytest.approx(-17.227, abs=0.01)


@pytest.mark.long
def test_forces_of_a_crystal_are_those_of_the_rpa_energy(aiida_profile, cp2k_code):
    frames, direction, _ = labelled(cp2k_code, distorted_ice(), threads=2)
    check(frames, direction)
