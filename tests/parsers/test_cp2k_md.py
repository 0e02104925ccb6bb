"""The parser of CP2K molecular dynamics on recorded folders: what it attaches, and every exit code."""

import re
from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from ase.build import molecule

from aiida_mlfinetune.calculations.cp2k_md import Cp2kMdCalculation, md_parameters
from aiida_mlfinetune.common.units import HARTREE_EV
from aiida_mlfinetune.parsers.cp2k_md import Cp2kMdParser
from aiida_mlfinetune.science.dynamics.md_settings import MdSettings
from aiida_mlfinetune.workchains.protocols.levels import load_level
from tests.fixtures.waters import two_waters

RECORDED = Path(__file__).parent / "recorded"
LEVEL = "gfn1-xtb/cp2k"
EXIT = Cp2kMdCalculation.exit_codes


@pytest.fixture
def parse(aiida_profile, aiida_localhost, tmp_path):
    """Return a function that parses the files of a recorded run, changed by ``edit``."""

    def parse(case, edit=None, ensemble="npt-flexible", gas=False):
        atoms = molecule("H2O") if gas else two_waters()
        structure = orm.StructureData(ase=atoms)
        settings = MdSettings.from_dict(
            {"ensemble": ensemble, "temperature_K": 100.0, "n_steps": 6, "stride": 2, "seed": 7}
        )
        level = load_level("gfn1-xtb")
        node = orm.CalcJobNode(process_type="aiida.calculations:mlfinetune.cp2k_md", computer=aiida_localhost)
        node.set_options({"output_filename": "aiida.out", "resources": {"num_machines": 1}})
        inputs = {
            "structure": structure,
            "level": orm.Dict(level),
            "parameters": orm.Dict(md_parameters(level, settings, atoms)),
        }
        for name, value in inputs.items():
            node.base.links.add_incoming(value.store(), LinkType.INPUT_CALC, name)
        node.store()
        files = {path.name: path.read_text() for path in (RECORDED / f"cp2k_md_{case}").iterdir()}
        if edit:
            edit(files)
        retrieved = orm.FolderData()
        for name, text in files.items():
            retrieved.base.repository.put_object_from_bytes(text.encode(), name)
        retrieved.base.links.add_incoming(node, LinkType.CREATE, "retrieved")
        retrieved.store()
        parser = Cp2kMdParser(node)
        code = parser.parse()
        return parser.outputs, code, node

    return parse


def test_frames_and_properties_of_a_crystal(parse):
    outputs, code, node = parse("npt_flexible")
    assert code is None
    frames = outputs["frames"].frames
    assert frames.steps.tolist() == [0, 2, 4, 6]
    assert frames.sources == (node.uuid,)
    assert outputs["frames"].level_sources == {LEVEL: [node.uuid]}
    assert frames.pbc.all()
    labels = frames.labels(LEVEL)
    assert labels.level.code_version == "2023.1"
    assert labels.counts == {"energy": 4, "forces": 4, "stress": 4}
    assert labels.energy[0] == pytest.approx(-11.5434200215 * HARTREE_EV, abs=1e-9)
    np.testing.assert_allclose(frames.cells[0], two_waters().cell.array, atol=1e-9)
    properties = outputs["properties"]
    assert set(properties.get_arraynames()) == {
        "step",
        "time_fs",
        "potential_energy_eV",
        "kinetic_energy_eV",
        "temperature_K",
        "conserved_eV",
        "volume_A3",
    }
    assert properties.get_array("step").tolist() == [0, 1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(properties.get_array("volume_A3")[::2], frames.volumes)
    assert np.isnan(properties.get_array("volume_A3")[1::2]).all()
    assert outputs["output_parameters"]["last_step"] == 6
    assert outputs["output_parameters"]["restart_step"] == 6


def test_frames_of_a_molecule_have_no_cell_and_no_stress(parse):
    outputs, code, _ = parse("gas", ensemble="nvt", gas=True)
    assert code is None
    frames = outputs["frames"].frames
    assert not frames.pbc.any()
    assert not frames.cells.any()
    assert frames.labels(LEVEL).counts == {"energy": 4, "forces": 4, "stress": 0}
    assert np.isnan(outputs["properties"].get_array("volume_A3")).all()


def test_frames_before_the_wall_clock_limit_are_kept(parse):
    outputs, code, _ = parse("walltime")
    assert code == EXIT.ERROR_OUT_OF_WALLTIME
    assert outputs["frames"].frames.steps.tolist() == list(range(0, 15, 2))
    assert outputs["output_parameters"]["restart_step"] == 14


def test_a_run_that_was_killed_keeps_its_complete_frames(parse):
    def kill(files):
        files["aiida.out"] = files["aiida.out"][:-6000]
        files["aiida-pos-1.xyz"] = files["aiida-pos-1.xyz"][:-100]

    outputs, code, _ = parse("npt_flexible", kill)
    assert code == EXIT.ERROR_INTERRUPTED
    assert outputs["frames"].frames.steps.tolist() == [0, 2, 4]


def test_a_run_that_was_killed_without_a_restart_file_cannot_go_on(parse):
    def kill(files):
        files["aiida.out"] = files["aiida.out"][:-6000]
        del files["aiida-1.restart"]

    assert parse("npt_flexible", kill)[1] == EXIT.ERROR_OUTPUT_INCOMPLETE


def test_unconverged_frames_are_left_out_and_many_are_an_error(parse):
    outputs, code, _ = parse("unconverged", ensemble="nvt")
    assert code.status == EXIT.ERROR_UNCONVERGED.status
    assert "at 2 of 7 steps" in code.message
    assert outputs["output_parameters"]["unconverged_steps"] == [0, 1]
    assert outputs["frames"].frames.steps.tolist() == [2, 4, 6]


def test_one_unconverged_step_of_many_is_no_error(parse):
    def edit(files):
        text = files["aiida.out"].replace("exceeded requested execution time", "").replace("SCF run terminated", "")
        at = text.rindex("*** SCF run converged", 0, re.search(r"MD. Step number +10\n", text).start())
        files["aiida.out"] = text[:at] + text[at:].replace("SCF run converged", "SCF run NOT converged", 1)

    outputs, code, _ = parse("walltime", edit)
    assert code is None
    assert outputs["output_parameters"]["unconverged_steps"] == [10]
    assert outputs["frames"].frames.steps.tolist() == [0, 2, 4, 6, 8, 12, 14]


def test_an_exploding_run_is_reported_with_the_step_and_its_frames_before(parse):
    outputs, code, _ = parse("exploded", ensemble="nvt", gas=True)
    assert code.status == EXIT.ERROR_EXPLODED.status
    assert "from step 1 on" in code.message
    assert outputs["frames"].frames.steps.tolist() == [0]


def test_a_refused_input_is_quoted(parse):
    outputs, code, _ = parse("refused")
    assert code.status == EXIT.ERROR_INPUT_REFUSED.status
    assert "unknown keyword SCF_GUES" in code.message
    assert "SCF_GUES" in outputs["output_parameters"]["abort_message"]


def test_an_abort_in_the_middle_of_the_run(parse):
    box = "\n *******\n * [ABORT]\n *  \\___/      Cholesky decomposition failed      *\n" + " " + "*" * 79 + "\n"

    def abort(files):
        files["aiida.out"] = files["aiida.out"][:-6000] + box

    outputs, code, _ = parse("npt_flexible", abort)
    assert code == EXIT.ERROR_OUTPUT_CONTAINS_ABORT
    assert outputs["output_parameters"]["abort_message"] == "Cholesky decomposition failed"


def test_newer_releases_abort_where_the_self_consistency_fails(parse):
    box = (
        "\n *******\n * [ABORT]\n *  \\___/   SCF run NOT converged. To continue the calculation    *\n "
        + "*" * 79
        + "\n"
    )

    def abort(files):
        files["aiida.out"] = files["aiida.out"][:-6000] + box

    _, code, _ = parse("npt_flexible", abort)
    assert code.status == EXIT.ERROR_UNCONVERGED.status


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("aiida.out", "ERROR_OUTPUT_MISSING"),
        ("aiida-1.ener", "ERROR_ENERGIES_READ"),
        ("aiida-1.cell", "ERROR_CELLS_TRAJECTORY_READ"),
        ("aiida-pos-1.xyz", "ERROR_COORDINATES_TRAJECTORY_READ"),
        ("aiida-frc-1.xyz", "ERROR_FORCES_TRAJECTORY_READ"),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_missing_and_unreadable_files(parse, name, label, broken):
    def edit(files):
        if broken and name != "aiida.out":
            files[name] = "garbage\n" * 3
        else:
            del files[name]

    assert parse("npt_flexible", edit)[1] == getattr(EXIT, label)
