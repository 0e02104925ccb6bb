"""Isolated atoms by real CP2K: the lowest spin state of each, as reference energies that a training takes."""

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms

from aiida_mlfinetune.calculations.cp2k_input import level_metadata
from aiida_mlfinetune.calculations.functions.isolated_atoms import lowest_energies, spin_level
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels
from aiida_mlfinetune.science.training.inputs import e0s_problem
from aiida_mlfinetune.workchains.isolated_atoms import IsolatedAtomsWorkChain
from aiida_mlfinetune.workchains.protocols.levels import load_level


def small_level():
    """PBE in a small box, with so small a basis and cutoff that an atom takes a second."""
    spec = load_level("pbe-d3", {"key": "small-pbe/cp2k", "gas": {"padding_A": 2.5}})
    spec["kind"] = {"BASIS_SET": "SZV-GTH", "POTENTIAL": "GTH-PBE"}
    spec["parameters"]["DFT"]["MGRID"].update(CUTOFF=100, REL_CUTOFF=30)
    return spec


def builder_for(code, elements, level, **kwargs):
    return IsolatedAtomsWorkChain.get_builder_from_protocol(code, elements, level, **kwargs)


def test_atoms_by_cp2k(aiida_profile, cp2k_code):
    builder = builder_for(cp2k_code, ["H", "O"], small_level(), multiplicities={"O": [3]})
    assert builder.multiplicities.get_dict() == {"H": [2], "O": [3]}
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    energies, e0s = outputs["energies"].get_dict(), outputs["e0s"].get_dict()
    assert energies["O"]["3"] == pytest.approx(-429.93, abs=0.05)
    assert e0s == {"source": "given", "values": {"H": energies["H"]["2"], "O": energies["O"]["3"]}}
    assert e0s["values"]["H"] == pytest.approx(-13.6, abs=1.0)
    assert e0s_problem(e0s, "scratch") is None
    frames = outputs["dataset"].frames
    assert frames.elements == ["H", "O"]
    labels = frames.labels("small-pbe/cp2k")
    np.testing.assert_allclose(labels.energy, [e0s["values"]["H"], e0s["values"]["O"]], rtol=1e-12)
    assert "UKS" not in labels.level.settings["parameters"]["DFT"], "not the level of the molecules"
    jobs = {job.uuid for job in node.called if isinstance(job, orm.CalcJobNode)}
    assert len(jobs) == 2
    assert set(outputs["dataset"].level_sources["small-pbe/cp2k"]) <= jobs


def test_an_atom_that_does_not_converge_is_named(aiida_profile, cp2k_code):
    level = small_level()
    level["parameters"]["DFT"]["SCF"].update(MAX_SCF=1)
    level["parameters"]["DFT"]["SCF"]["OUTER_SCF"].update(MAX_SCF=0)
    _, node = run_get_node(builder_for(cp2k_code, ["O"], level, multiplicities={"O": [3]}))
    assert node.exit_status == IsolatedAtomsWorkChain.exit_codes.ERROR_NO_ENERGY.status
    assert "No spin state of O converged" in node.exit_message


def test_lowest_spin_state_is_taken(aiida_profile):
    level = small_level()

    def labelled(element, energy):
        frames = Frames.from_atoms([Atoms(element, positions=[[0.0, 0.0, 0.0]])])
        labels = Labels.build(level_metadata(level, "2023.1"), frames.offsets, energy=np.array([energy]))
        return DatasetData(frames.with_labels(labels), level_sources={"small-pbe/cp2k": [f"{element}{energy}"]})

    states = {"O_1": -428.0, "O_3": -430.0, "O_5": -420.0, "H_2": -13.0}
    results = lowest_energies(
        orm.Dict(level), **{f"labelled_{name}": labelled(name[0], energy) for name, energy in states.items()}
    )
    assert results["e0s"].get_dict() == {"source": "given", "values": {"H": -13.0, "O": -430.0}}
    assert results["energies"].get_dict() == {"H": {"2": -13.0}, "O": {"1": -428.0, "3": -430.0, "5": -420.0}}
    assert results["dataset"].frames.labels("small-pbe/cp2k").energy.tolist() == [-13.0, -430.0]


def test_levels_of_spin_states_differ_in_spin_and_minimiser_only():
    level = small_level()
    dft = spin_level(level, 3)["parameters"]["DFT"]
    assert (dft.pop("UKS"), dft.pop("MULTIPLICITY"), dft["SCF"]["OT"].pop("MINIMIZER")) == (True, 3, "CG")
    del level["parameters"]["DFT"]["SCF"]["OT"]["MINIMIZER"]
    assert dft == level["parameters"]["DFT"]


@pytest.mark.parametrize(
    ("elements", "level", "kwargs", "message"),
    [
        (["H"], "gfn1-xtb", {}, "no spin polarisation.*estimate"),
        (["H"], "small", {"multiplicities": {"H": [1]}}, "H has 1 electrons and cannot have multiplicity 1"),
        (["O"], "small", {"multiplicities": {"O": [2]}}, "O has 8 electrons and cannot have multiplicity 2"),
        (["H"], "small", {"multiplicities": {"O": [3]}}, r"given for \['O'\]"),
        (["Xx"], "small", {}, "no element 'Xx'"),
        (["U"], "small", {}, "no 'SZV-GTH' for U in GTH_BASIS_SETS"),
        (["H"], "pbe0-admm", {}, "radius .* is open"),
    ],
)
def test_atoms_that_cannot_be_computed_are_refused(aiida_profile, cp2k_code, elements, level, kwargs, message):
    with pytest.raises(StudyError, match=message):
        builder_for(cp2k_code, elements, small_level() if level == "small" else level, **kwargs)


def test_an_element_without_energy_ends_the_chain(aiida_profile, cp2k_code):
    level = small_level()
    level["parameters"]["DFT"]["SCF"]["OUTER_SCF"]["MAX_SCF"] = 0
    level["parameters"]["DFT"]["SCF"]["MAX_SCF"] = 2
    _, node = run_get_node(builder_for(cp2k_code, ["O"], level, multiplicities={"O": [3]}))
    assert node.exit_status == 320
    assert "No spin state of O" in node.exit_message
