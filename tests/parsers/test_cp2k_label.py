"""The parser of CP2K labels on recorded output: frames that finished are kept, and every exit code."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from ase import Atoms

from aiida_mlfinetune.calculations.cp2k_label import Cp2kLabelCalculation
from aiida_mlfinetune.common.units import GPA_EV_A3, HARTREE_BOHR_EV_ANGSTROM, HARTREE_EV
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.cp2k_label import Cp2kLabelParser
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.protocols.levels import load_level
from tests.fixtures.waters import two_waters

RECORDED = Path(__file__).parent / "recorded"
EXIT = Cp2kLabelCalculation.exit_codes
KEY = "gfn1-xtb/cp2k"
WHOLE = (RECORDED / "cp2k_label_whole" / "aiida.out").read_text()
UNCONVERGED = " *** WARNING in qs_scf.F:601 :: SCF run NOT converged ***\n"
ABORT = """
 *******************************************************************************
 *   ___                                                                       *
 *  /   \\                                                                      *
 * [ABORT]                                                                     *
 *  \\___/  {:<67}*
 *    |                                                                        *
 *  O/|                                                                        *
 * /| |                                                                        *
 * / \\                                                        some_file.F:1509 *
 *******************************************************************************
"""


def pieces():
    """Return what was printed before the first frame, and for each of the three."""
    starts = [i for i in range(len(WHOLE)) if WHOLE.startswith("  *** SCF run converged", i)]
    end = WHOLE.index(" CP2K        ")
    edges = [*starts, end]
    return WHOLE[: starts[0]], [WHOLE[a:b] for a, b in itertools.pairwise(edges)], WHOLE[end:]


@pytest.fixture
def parse(cp2k_code, prepare_job):
    """Return a function that parses ``text`` as the output of a job of ``n`` frames."""

    numbers = itertools.count()

    def parse(text, n=3):
        frames = [two_waters() for _ in range(n)]
        for index, atoms in enumerate(frames):
            atoms.positions[0, 0] += 0.05 * index
        builder = Cp2kLabelCalculation.get_builder()
        builder.code = cp2k_code
        builder.dataset = DatasetData(Frames.from_atoms(frames, source="somewhere", steps=range(5, 5 + n)))
        builder.level = orm.Dict(load_level("gfn1-xtb"))
        builder.metadata.options = {"resources": {"num_machines": 1}}
        job = prepare_job(builder, f"job{next(numbers)}")
        if text is not None:
            (job.folder / "aiida.out").write_text(text)
        outputs, code = job.parse(Cp2kLabelParser)
        return outputs, code, job.node

    return parse


def reasons(outputs):
    return {int(index): entry["reason"] for index, entry in outputs["failed"].get_dict().items()}


def retried(outputs):
    return [int(index) for index, entry in outputs["failed"].get_dict().items() if entry["retry"]]


def test_a_whole_run(parse):
    outputs, code, node = parse(WHOLE)
    assert code is None
    frames = outputs["dataset"].frames
    labels = frames.labels(KEY)
    assert labels.energy[2] == pytest.approx(-11.543721130732527 * HARTREE_EV, rel=1e-15)
    assert labels.forces[0] == pytest.approx(
        np.array([0.0031725577558495, -0.0008472156785464, -0.0140424593050156]) * HARTREE_BOHR_EV_ANGSTROM, rel=1e-14
    )
    assert labels.stress[0, 0, 1] == pytest.approx(1.75487661051e-01 * GPA_EV_A3, rel=1e-14)
    assert frames.steps.tolist() == [5, 6, 7]
    assert frames.sources == ("somewhere",)
    assert outputs["dataset"].level_sources == {KEY: [node.uuid]}
    assert outputs["failed"].get_dict() == {}
    parameters = outputs["output_parameters"].get_dict()
    assert parameters["scf_steps"] == [11, 10, 10]
    assert (parameters["n_labelled"], parameters["code_version"]) == (3, "2023.1")
    assert parameters["wall_time_s"] > 0


@pytest.mark.parametrize(
    "marker",
    ["SUM OF ATOMIC FORCES", "STRESS|      z", "ENERGY| Total FORCE_EVAL", "energy [a.u.]:              -11.5"],
)
def test_a_frame_that_was_cut_off_is_dropped(parse, marker):
    """Wherever the third frame was when CP2K was killed, two frames are kept and the third may be tried again."""
    head, frames, _ = pieces()
    cut = frames[2].index(marker) + len(marker)
    outputs, code, _ = parse(head + frames[0] + frames[1] + frames[2][:cut])
    assert code.status == EXIT.ERROR_INTERRUPTED.status
    assert "after 2 of 3 frames" in code.message
    assert outputs["dataset"].n_frames == 2
    assert retried(outputs) == [2]


def test_an_unconverged_frame_does_not_shift_the_others(parse):
    head, frames, tail = pieces()
    bad = UNCONVERGED + frames[1][frames[1].index("\n", frames[1].index("outer SCF loop")) :]
    outputs, code, _ = parse(head + frames[0] + bad + frames[2] + tail)
    assert code is None
    assert reasons(outputs) == {1: "the SCF cycle did not converge"}
    assert retried(outputs) == []
    np.testing.assert_allclose(outputs["dataset"].frames.positions[6, 0], 0.1, atol=1e-12)
    assert outputs["dataset"].frames.labels(KEY).energy[1] == pytest.approx(-11.543721130732527 * HARTREE_EV)


def test_no_frame_converged(parse):
    head, frames, tail = pieces()
    bad = UNCONVERGED + frames[1][frames[1].index("\n", frames[1].index("outer SCF loop")) :]
    outputs, code, _ = parse(head + bad + bad + tail, n=2)
    assert code.status == EXIT.ERROR_NO_FRAME_CONVERGED.status
    assert "dataset" not in outputs
    assert not code.invalidates_cache


def test_a_release_that_stops_at_an_unconverged_frame(parse):
    """Later releases abort: the frame is named, and those after it may be tried again."""
    head, frames, _ = pieces()
    text = head + frames[0] + ABORT.format("SCF run NOT converged. To continue the calculation regardless,")
    outputs, code, _ = parse(text)
    assert code.status == EXIT.ERROR_INTERRUPTED.status
    assert reasons(outputs)[1] == "the SCF cycle did not converge"
    assert retried(outputs) == [2]
    outputs, code, _ = parse(head + ABORT.format("SCF run NOT converged. To continue the calculation regardless,"))
    assert code.status == EXIT.ERROR_INTERRUPTED.status
    assert retried(outputs) == [1, 2]


def test_an_abort_half_way_names_the_frame(parse):
    head, frames, _ = pieces()
    outputs, code, _ = parse(head + frames[0] + ABORT.format("Cholesky decomposition failed"))
    assert code.status == EXIT.ERROR_INTERRUPTED.status
    assert reasons(outputs)[1].startswith("CP2K aborted: Cholesky decomposition failed")
    assert retried(outputs) == [2]


def test_out_of_walltime(parse):
    """The SCF cycle that CP2K broke off at its limit is not held against the frame."""
    text = (RECORDED / "cp2k_label_walltime" / "aiida.out").read_text()
    outputs, code, _ = parse(text)
    assert code.status == EXIT.ERROR_NO_FRAME_FINISHED.status
    assert retried(outputs) == [0, 1, 2]
    head, frames, _ = pieces()
    outputs, code, _ = parse(head + frames[0] + text[text.index(" *** SCF run terminated") :])
    assert code.status == EXIT.ERROR_OUT_OF_WALLTIME.status
    assert retried(outputs) == [1, 2]
    assert outputs["dataset"].n_frames == 1


def test_input_refused(parse):
    outputs, code, _ = parse((RECORDED / "cp2k_label_refused" / "aiida.out").read_text())
    assert code.status == EXIT.ERROR_INPUT_REFUSED.status
    assert "The requested basis set <NOPE> for element <O> was not found" in code.message
    assert retried(outputs) == []
    assert len(reasons(outputs)) == 3


def test_killed_before_the_first_frame(parse):
    outputs, code, _ = parse(pieces()[0])
    assert code.status == EXIT.ERROR_NO_FRAME_FINISHED.status
    assert retried(outputs) == [0, 1, 2]
    assert code.invalidates_cache


def test_no_output_at_all(parse):
    outputs, code, _ = parse(None)
    assert code.status == EXIT.ERROR_OUTPUT_MISSING.status
    assert outputs == {}


def test_numbers_that_are_none(parse):
    head, frames, tail = pieces()
    bad = frames[1].replace(frames[1].split("energy [a.u.]:")[1].split()[0], "NaN")
    outputs, code, _ = parse(head + frames[0] + bad + frames[2] + tail)
    assert code is None
    assert list(reasons(outputs)) == [1]
    assert "not all numbers" in reasons(outputs)[1]


def test_molecules_have_no_stress(cp2k_code, prepare_job):
    builder = Cp2kLabelCalculation.get_builder()
    builder.code = cp2k_code
    builder.dataset = DatasetData(Frames.from_atoms([Atoms(two_waters(), pbc=False, cell=None)]))
    builder.level = orm.Dict(load_level("gfn1-xtb"))
    builder.metadata.options = {"resources": {"num_machines": 1}}
    job = prepare_job(builder)
    head, frames, tail = pieces()
    (job.folder / "aiida.out").write_text(head + frames[0][: frames[0].index(" STRESS|")] + tail)
    outputs, code = job.parse(Cp2kLabelParser)
    assert code is None
    assert outputs["dataset"].frames.labels(KEY).counts == {"energy": 1, "forces": 1, "stress": 0}
