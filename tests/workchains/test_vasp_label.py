"""Labels by VASP, with a stand-in for the program: real energies, and all the ways in which runs fail."""

import numpy as np
import pytest
from aiida.engine import run_get_node
from ase import Atoms

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.frames import Frames
from aiida_mlfinetune.workchains.labelling.vasp import VaspLabelWorkChain
from aiida_mlfinetune.workchains.protocols.vasp_levels import load_vasp_level
from tests.fixtures.vasp import FAMILY
from tests.fixtures.waters import two_waters

KEY = "revpbe-d3/vasp"


def level(**overrides):
    return load_vasp_level("kaur2025-vasp", {"potentials": {"family": FAMILY}, **overrides})


def crystal(scale: float = 1.0) -> Atoms:
    """Two molecules, O H H O H H, in a cell of its own volume."""
    atoms = two_waters()
    atoms.set_cell(atoms.cell * scale)
    assert "".join(atoms.get_chemical_symbols()) == "OHHOHH"
    return atoms


@pytest.fixture
def label(vasp, potcars):
    """Return a function that labels images with the stand-in."""

    def label(images, spec=None, **inputs):
        dataset = images if isinstance(images, DatasetData) else DatasetData(Frames.from_atoms(images))
        builder = VaspLabelWorkChain.get_builder_from_protocol(
            vasp.code, dataset, spec or level(), "demo", overrides=inputs
        )
        return run_get_node(builder)

    return label


def exact(atoms: Atoms) -> Atoms:
    from tblite.ase import TBLite

    atoms = atoms.copy()
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    return atoms


def test_labels_are_those_of_the_potential_behind_the_stand_in(label):
    images = [crystal(), crystal(1.05)]
    outputs, node = label(images)
    assert node.is_finished_ok, node.exit_message
    frames = outputs["dataset"].frames
    labels = frames.labels(KEY)
    for index, atoms in enumerate(map(exact, images)):
        assert labels.energy[index] == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        np.testing.assert_allclose(labels.forces[frames.slice(index)], atoms.get_forces(), atol=1e-8)
        np.testing.assert_allclose(labels.stress[index], atoms.get_stress(voigt=False), atol=1e-9)
