"""Labels by ASE calculators: equal to the calculator itself, and what becomes of frames that fail."""

import json

import numpy as np
import pytest
from aiida import orm
from ase.build import molecule
from ase.calculators.lj import LennardJones

from aiida_mlfinetune.calculations.ase_label import AseLabelCalculation
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.ase_label import AseLabelParser
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.protocols.ase_levels import load_ase_level
from tests.fixtures.waters import two_waters

EXIT = AseLabelCalculation.exit_codes
LJ = {
    "key": "lj/ase",
    "engine": "ase",
    "method": "Lennard-Jones",
    "calculator": "ase.calculators.lj:LennardJones",
    "kwargs": {"sigma": 2.0, "rc": 6.0},
}
PICKY = "tests.calculations.test_ase_label:PickyCalculator"


class PickyCalculator(LennardJones):
    """Refuses molecules of one atom, and returns no number for those of two."""

    def calculate(self, atoms=None, *args, **kwargs):
        if len(atoms) == 1:
            raise RuntimeError("one atom is too few")
        super().calculate(atoms, *args, **kwargs)
        if len(atoms) == 2:
            self.results["energy"] = self.results["free_energy"] = float("nan")


@pytest.fixture
def label(python_code, prepare_job, run_program):
    """Return a function that labels atoms in this process; ``edit`` changes the labels file before it is parsed."""

    def label(atoms, level, model=None, edit=None):
        builder = AseLabelCalculation.get_builder()
        builder.code = python_code
        builder.dataset = DatasetData(Frames.from_atoms(atoms, source="somewhere", steps=range(len(atoms))))
        builder.level = orm.Dict(level)
        if model is not None:
            builder.model = model
        job = prepare_job(builder)
        job.code = run_program(job)
        if edit is not None:
            edit(job.folder / "labels.jsonl")
        outputs, code = job.parse(AseLabelParser)
        return outputs, code, job

    return label


def crystal_and_molecule():
    return [two_waters(), molecule("H2O"), molecule("CO2")]


def test_tblite_through_the_job_is_tblite(label):
    """Several compositions, with and without a cell, in one job: each as if the calculator were called alone."""
    from tblite.ase import TBLite

    images = crystal_and_molecule()
    outputs, code, job = label(images, load_ase_level("gfn1-xtb-tblite"))
    assert code is None
    frames = outputs["dataset"].frames
    labels = frames.labels("gfn1-xtb/tblite")
    assert labels.counts == {"energy": 3, "forces": 3, "stress": 1}
    for index, atoms in enumerate(images):
        atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
        assert labels.energy[index] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(labels.forces[frames.slice(index)], atoms.get_forces(), atol=1e-10)
    np.testing.assert_allclose(labels.stress[0], images[0].get_stress(voigt=False), atol=1e-12)
    assert (labels.level.code, labels.level.engine) == ("tblite", "ase")
    assert labels.level.code_version
    assert labels.level.settings["calculator"] == "tblite.ase:TBLite"
    assert outputs["dataset"].level_sources == {"gfn1-xtb/tblite": [job.node.uuid]}
    assert outputs["failed"].get_dict() == {}


def test_a_mace_model_as_calculator(label, tiny_model, tiny_model_file):
    from mace.calculators import MACECalculator

    atoms = two_waters()
    outputs, code, job = label([atoms], load_ase_level("mace", {"key": "tiny/mace"}), tiny_model)
    assert code is None
    labels = outputs["dataset"].frames.labels("tiny/mace")
    atoms.calc = MACECalculator(str(tiny_model_file), device="cpu", default_dtype="float64")
    assert labels.energy[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(labels.forces, atoms.get_forces(), atol=1e-10)
    np.testing.assert_allclose(labels.stress[0], atoms.get_stress(voigt=False), atol=1e-10)
    assert labels.level.settings["sha256"] == tiny_model.sha256
    assert "model.model" in job.info.provenance_exclude_list


def test_a_frame_that_fails_is_named_and_the_others_are_kept(label):
    atoms = molecule("H2O")
    outputs, code, _ = label([atoms[:1], atoms, atoms[:2]], {**LJ, "calculator": PICKY})
    assert code is None
    assert outputs["dataset"].frames.steps.tolist() == [1]
    failed = outputs["failed"].get_dict()
    assert failed["0"] == {"reason": "RuntimeError: one atom is too few", "retry": False}
    assert "not all numbers" in failed["2"]["reason"]


def test_every_frame_fails(label):
    outputs, code, _ = label([molecule("H2O")[:1]], {**LJ, "calculator": PICKY})
    assert code.status == EXIT.ERROR_NO_FRAME_LABELLED.status
    assert "one atom is too few" in code.message
    assert "dataset" not in outputs


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_killed_half_way(label, kept):
    """Lines that were written whole count, a line that was cut off does not."""

    def cut(path):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[: kept + 1]) + lines[kept + 1][:-7])

    outputs, code, _ = label(crystal_and_molecule(), LJ, edit=cut)
    assert [int(i) for i, entry in outputs["failed"].get_dict().items() if entry["retry"]] == list(range(kept, 3))
    if kept:
        assert code.status == EXIT.ERROR_INTERRUPTED.status
        assert f"after {kept} of 3 frames" in code.message
        assert outputs["dataset"].n_frames == kept
    else:
        assert code.status == EXIT.ERROR_NO_FRAME_FINISHED.status
        assert "dataset" not in outputs


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ({**LJ, "calculator": "no_such_package.ase:Calculator"}, "No module named 'no_such_package'"),
        ({**LJ, "calculator": "ase.calculators.lj:Lennard"}, "has no attribute 'Lennard'"),
    ],
)
def test_a_calculator_that_cannot_be_made(label, level, message):
    outputs, code, job = label([molecule("H2O")], level)
    assert job.code == 1
    assert code.status == EXIT.ERROR_CALCULATOR_REFUSED.status
    assert message in code.message
    assert not any(entry["retry"] for entry in outputs["failed"].get_dict().values())


def test_no_output(label):
    def lose(path):
        path.unlink()
        path.with_name("label.log").write_text("first\nSegmentation fault\n")

    outputs, code, _ = label([molecule("H2O")], LJ, edit=lose)
    assert code.status == EXIT.ERROR_OUTPUT_MISSING.status
    assert "Segmentation fault" in code.message
    assert outputs == {}


def test_labels_are_written_as_they_come(label):
    """A job that is killed must keep what it had: one line a frame, each flushed."""
    seen = []

    def look(path):
        seen.extend(json.loads(line) for line in path.read_text().splitlines())

    label(crystal_and_molecule(), LJ, edit=look)
    assert list(seen[0]) == ["code", "code_version"]
    assert [len(line["forces"]) for line in seen[1:]] == [6, 3, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"functional": "PBE"}, r"unknown entries \['functional'\]"),
        ({"engine": "cp2k"}, "for engine 'cp2k'"),
        ({"calculator": "tblite.ase.TBLite"}, "not of the form"),
        ({"calculator": "os; os:system"}, "not of the form"),
        ({"kwargs": [1]}, "must be a dictionary"),
        ({"kwargs": {"model_paths": "/home/me/model"}}, "input `model`"),
        ({"key": "a b"}, "white space"),
    ],
)
def test_levels_that_cannot_be_are_refused(aiida_profile, changes, message):
    builder = AseLabelCalculation.get_builder()
    with pytest.raises(ValueError, match=message):
        builder.level = orm.Dict({**LJ, **changes})


def test_inputs_that_do_not_fit_together_are_refused(python_code, ipi_code, tiny_model, prepare_job):
    def build(level, atoms, model=None, code=python_code):
        builder = AseLabelCalculation.get_builder()
        builder.code = code
        builder.dataset = DatasetData(Frames.from_atoms([atoms]))
        builder.level = orm.Dict(level)
        if model is not None:
            builder.model = model
        prepare_job(builder)

    mace = load_ase_level("mace")
    with pytest.raises(ValueError, match="reads a model"):
        build(mace, molecule("H2O"))
    with pytest.raises(ValueError, match="reads no model"):
        build(LJ, molecule("H2O"), tiny_model)
    with pytest.raises(ValueError, match="C"):
        build(mace, molecule("CH4"), tiny_model)
    with pytest.raises(ValueError, match="not the right program"):
        build(LJ, molecule("H2O"), code=ipi_code)
    close = molecule("H2O")
    close.positions[1] = close.positions[0] + [0.3, 0, 0]
    with pytest.raises(ValueError, match=r"closer than 0\.5"):
        build(LJ, close)
