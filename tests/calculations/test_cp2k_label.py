"""Labels by real CP2K: equal to a direct run, consistent with each other, and what becomes of frames that fail."""

from dataclasses import dataclass

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.calculations.cp2k_checks import settle_for
from aiida_mlfinetune.calculations.cp2k_label import Cp2kLabelCalculation
from aiida_mlfinetune.common.units import GPA_EV_A3, HARTREE_BOHR_EV_ANGSTROM, HARTREE_EV
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.protocols.levels import load_level
from tests.fixtures.direct_cp2k import run_directly
from tests.fixtures.finite_differences import check_finite_differences, displaced, finite_difference_frames
from tests.fixtures.waters import two_waters


def xtb(max_scf=50):
    scf = {"MAX_SCF": max_scf, "OUTER_SCF": {"MAX_SCF": 0}}
    return load_level("gfn1-xtb", {"parameters": {"DFT": {"SCF": scf}}})


def tiny_dft():
    """PBE with so small a basis that it takes a second a frame."""
    spec = load_level(
        "revpbe-d3-demo", {"key": "tiny/cp2k", "method": "PBE", "kind": {"BASIS_SET": "SZV-MOLOPT-SR-GTH"}}
    )
    dft = spec["parameters"]["DFT"]
    dft["MGRID"].update(CUTOFF=100, REL_CUTOFF=40)
    dft["XC"] = {"XC_FUNCTIONAL": {"_": "PBE"}}
    dft["QS"]["EPS_DEFAULT"] = 1e-12
    dft["SCF"]["EPS_SCF"] = dft["SCF"]["OUTER_SCF"]["EPS_SCF"] = 1e-8
    return spec


def argon():
    return Atoms("Ar2", positions=[[0.9, 1.1, 1.2], [1.8, 2.0, 3.3]], cell=np.diag([4.4, 4.6, 4.8]), pbc=True)


def check_against_direct(labels, frames, index, direct):
    """Compare with the digits that CP2K prints."""
    assert labels.energy[index] / HARTREE_EV == pytest.approx(direct.energy, abs=1e-12)
    own = labels.forces[frames.slice(index)] / HARTREE_BOHR_EV_ANGSTROM
    np.testing.assert_allclose(own, direct.forces, rtol=0, atol=0.51e-8)
    if direct.stress is not None:
        np.testing.assert_allclose(-labels.stress[index] / GPA_EV_A3, direct.stress, rtol=1e-11)


@dataclass
class Result:
    node: orm.CalcJobNode
    outputs: dict

    def labels(self, key):
        return self.outputs["dataset"].frames.labels(key)


def label(code, atoms, level, **options):
    builder = Cp2kLabelCalculation.get_builder()
    builder.code = code
    builder.dataset = DatasetData(Frames.from_atoms(atoms))
    builder.level = orm.Dict(settle_for(level, builder.dataset.frames))
    builder.metadata.options = {"resources": {"num_machines": 1}, "withmpi": False, **options}
    outputs, node = run_get_node(builder)
    return Result(node, outputs)


def test_xtb_crystal(aiida_profile, cp2k_code, tmp_path):
    """One job: equal to a direct run, order kept, an unconverged frame left out, forces and stress consistent."""
    coordinates, strains = [(0, 2), (4, 0)], [(0, 0), (1, 2)]
    base = two_waters()
    stretched = displaced(base, 1, 1, 1.1)
    others = finite_difference_frames(base, coordinates, strains)
    level = xtb(max_scf=15)
    result = label(cp2k_code, [others[0], stretched, *others[1:]], level)
    assert result.node.is_finished_ok, result.node.exit_message
    assert result.outputs["failed"].get_dict() == {
        "1": {"reason": "the SCF cycle did not converge", "retry": False, "climb": True}
    }
    frames = result.outputs["dataset"].frames
    np.testing.assert_array_equal(frames.positions, Frames.from_atoms(others).positions)
    labels = result.labels("gfn1-xtb/cp2k")
    assert labels.counts == {"energy": 9, "forces": 9, "stress": 9}
    assert (labels.level.code_version, labels.level.method) == ("2023.1", "GFN1-xTB")
    assert result.outputs["dataset"].level_sources == {"gfn1-xtb/cp2k": [result.node.uuid]}
    check_against_direct(labels, frames, 0, run_directly(level, base, tmp_path))
    # CP2K sums the electrostatics of GFN1-xTB on a grid: its forces are exact to half a meV/A, whatever EPS_SCF.
    check_finite_differences(frames, labels, 0, coordinates, strains, 1e-3, 1e-5)
    # The net force of a crystal is zero, and the frame after the one that failed is as good as any.
    assert np.abs(labels.forces[frames.slice(1)].sum(axis=0)).max() < 1e-6
    steps = result.outputs["output_parameters"]["scf_steps"]
    assert len(steps) == 10
    assert max(steps[3:]) < steps[0], "the wavefunction of the frame before was not used"


def test_tiny_density_functional(aiida_profile, cp2k_code, tmp_path):
    """The same for a density functional with plane waves."""
    coordinates, strains = [(0, 2)], [(0, 0)]
    level = tiny_dft()
    result = label(cp2k_code, finite_difference_frames(argon(), coordinates, strains), level)
    assert result.node.is_finished_ok, result.node.exit_message
    frames, labels = result.outputs["dataset"].frames, result.labels("tiny/cp2k")
    check_against_direct(labels, frames, 0, run_directly(level, argon(), tmp_path))
    check_finite_differences(frames, labels, 0, coordinates, strains, 2e-4, 1e-5)


def test_molecules_without_a_cell(aiida_profile, cp2k_code, tmp_path):
    """A molecule has no stress, wherever it is, and the label is that of CP2K in its cube."""
    gas = molecule("H2O")
    far = gas.copy()
    far.translate([100.0, -50.0, 3.0])
    result = label(cp2k_code, [gas, far], xtb())
    assert result.node.is_finished_ok, result.node.exit_message
    frames, labels = result.outputs["dataset"].frames, result.labels("gfn1-xtb/cp2k")
    assert labels.counts == {"energy": 2, "forces": 2, "stress": 0}
    check_against_direct(labels, frames, 0, run_directly(xtb(), gas, tmp_path))
    assert labels.energy[1] == pytest.approx(labels.energy[0], abs=1e-6)
    assert frames.positions[3, 0] > 99


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([two_waters(), two_waters()[:3]], "differ in composition"),
        ([two_waters(), two_waters()[[3, 4, 5, 0, 2, 1]]], None),
        ([two_waters(), two_waters()[[1, 0, 2, 3, 4, 5]]], "order of atoms"),
        ([two_waters(), Atoms(two_waters(), pbc=False)], "all without periodicity"),
        ([Atoms(two_waters(), pbc=(True, True, False))], "all without periodicity"),
        ([Atoms(two_waters(), cell=np.zeros((3, 3)))], "volume"),
        ([displaced(two_waters()[[0, 0]], 0, 1, 0.4)], "closer than 0.5"),
    ],
)
def test_frames_that_do_not_fit_one_job_are_refused(aiida_profile, images, message):
    builder = Cp2kLabelCalculation.get_builder()
    dataset = DatasetData(Frames.from_atoms(images))
    if message is None:
        builder.dataset = dataset
        return
    with pytest.raises(ValueError, match=message):
        builder.dataset = dataset


def test_other_bad_inputs_are_refused(aiida_profile, cp2k_code, python_code):
    builder = Cp2kLabelCalculation.get_builder()
    with pytest.raises(ValueError, match="not the right program"):
        builder.code = python_code
    with pytest.raises(ValueError, match="for engine 'ase'"):
        builder.level = orm.Dict({**xtb(), "engine": "ase"})
    with pytest.raises(ValueError, match=r"unknown entries \['functional'\]"):
        builder.level = orm.Dict({**xtb(), "functional": "PBE"})
    with pytest.raises((AttributeError, ValueError), match="structure"):
        builder.structure = orm.StructureData(ase=two_waters())


def test_input_of_a_remote_machine_is_whole(aiida_profile, cp2k_code, prepare_job):
    """Snapshots count from 1, numbers have all their digits, and CP2K stops itself before the scheduler does."""
    builder = Cp2kLabelCalculation.get_builder()
    builder.code = cp2k_code
    frames = Frames.from_atoms([two_waters(), displaced(two_waters(), 0, 0, 1e-9 / 3)])
    builder.dataset = DatasetData(frames)
    builder.level = orm.Dict(xtb())
    builder.metadata.options = {"resources": {"num_machines": 1}, "max_wallclock_seconds": 1000}
    job = prepare_job(builder)
    text = (job.folder / "aiida.inp").read_text()
    assert "WALLTIME 950" in text
    for section in ("RESTART", "RESTART_HISTORY", "TRAJECTORY"):
        assert f"&{section} OFF" in text
    lines = (job.folder / "frames.xyz").read_text().splitlines()
    assert [line for line in lines if "time" in line] == [" i = 1 , time = 1.0", " i = 2 , time = 2.0"]
    assert float(lines[10].split()[1]) == frames.positions[6, 0]
    cells = np.loadtxt(job.folder / "frames.cell")
    np.testing.assert_array_equal(cells[:, 0], [1, 2])
    np.testing.assert_array_equal(cells[:, 2:11].reshape(2, 3, 3), frames.cells)
    assert {"frames.xyz", "frames.cell"} == set(job.info.provenance_exclude_list)
