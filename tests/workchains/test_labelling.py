"""The labelling work chain: its builder, and runs of real CP2K (GFN1-xTB) and tblite on tiny frames."""

import shutil

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.calculations.cp2k_input import level_metadata
from aiida_mlfinetune.calculations.cp2k_ladder import cp2k_ladder
from aiida_mlfinetune.calculations.functions.labelling import NO_OUTPUT
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.label_results import NOT_REACHED
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain, chain
from aiida_mlfinetune.workchains.labelling.engines import ENGINES, find_level
from aiida_mlfinetune.workchains.protocols.levels import load_level
from tests.fixtures.codes import PREPEND
from tests.fixtures.waters import two_waters

KEY, TBLITE = "gfn1-xtb/cp2k", "gfn1-xtb/tblite"


def moved(*shifts):
    """Return two waters in a cell, once for each shift (angstrom) of one hydrogen."""
    images = []
    for shift in shifts:
        atoms = two_waters()
        atoms.positions[1, 1] += shift
        images.append(atoms)
    return images


def gas(shift=0.0):
    atoms = molecule("H2O")
    atoms.positions[1, 1] += shift
    return atoms


def dataset(images):
    return DatasetData(Frames.from_atoms(images, source="somewhere", steps=range(len(images))))


def build(code, images, level="gfn1-xtb", **overrides):
    data = images if isinstance(images, orm.Data) else dataset(images)
    return LabellingWorkChain.get_builder_from_protocol(code, data, level, "demo", overrides)


def jobs(node):
    """Return the jobs in the order of their submission."""
    links = node.base.links.get_outgoing(link_type=LinkType.CALL_CALC, link_label_filter="batch_%").all()
    return [link.node for link in sorted(links, key=lambda link: link.link_label)]


def steps(outputs):
    return outputs["dataset"].frames.steps.tolist()


def by_tblite(atoms):
    """Return energy and forces of GFN1-xTB by tblite itself."""
    from tblite.ase import TBLite

    atoms = atoms.copy()
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    return atoms.get_potential_energy(), atoms.get_forces()


def one_step(**scf):
    """Return overrides that leave CP2K too few steps."""
    return {"parameters": {"DFT": {"SCF": {"MAX_SCF": 2, "OUTER_SCF": {"MAX_SCF": 0}, **scf}}}}


# what comes back


def test_labels_come_back_in_the_order_asked_for_from_several_jobs_beside_other_levels(cp2k_code, python_code):
    """Crystals and molecules of several compositions, one frame twice; then a second level by another engine."""
    images = [*moved(0.2), gas(), *moved(0.0), molecule("CO2"), *moved(0.1, 0.2), gas(0.05)]
    outputs, node = run_get_node(build(cp2k_code, images, frames_per_job=2))
    assert node.is_finished_ok, node.exit_message
    assert steps(outputs) == list(range(7))
    assert outputs["failed"].get_dict() == outputs["rescued"].get_dict() == {}
    # three crystals (one twice) make two jobs, two water molecules one, and carbon dioxide another
    assert sorted(job.inputs.dataset.n_frames for job in jobs(node)) == [1, 1, 2, 2]
    frames = outputs["dataset"].frames
    np.testing.assert_array_equal(frames.positions, Frames.from_atoms(images).positions)
    assert outputs["dataset"].level_sources[KEY] == [job.uuid for job in jobs(node)]
    first = frames.labels(KEY)
    assert first.counts == {"energy": 7, "forces": 7, "stress": 4}
    assert first.energy[0] == first.energy[5]

    outputs, node = run_get_node(build(python_code, outputs["dataset"], "gfn1-xtb-tblite"))
    assert node.is_finished_ok, node.exit_message
    (job,) = jobs(node)
    assert job.inputs.dataset.n_frames == 6
    both = outputs["dataset"]
    assert set(both.levels) == {KEY, TBLITE}
    assert both.level_sources[TBLITE] == [job.uuid]
    second = both.frames.labels(TBLITE)
    assert second.counts == {"energy": 7, "forces": 7, "stress": 4}
    np.testing.assert_array_equal(both.frames.labels(KEY).forces, first.forces)
    for index, atoms in enumerate(images):
        energy, forces = by_tblite(atoms)
        assert second.energy[index] == pytest.approx(energy, abs=1e-10)
        np.testing.assert_allclose(second.forces[frames.slice(index)], forces, atol=1e-8)
    # one method, two programs: CP2K's labels are on the frames that they belong to
    for index in (1, 3, 6):
        np.testing.assert_allclose(first.forces[frames.slice(index)], second.forces[frames.slice(index)], atol=0.05)


def test_a_second_run_is_answered_from_the_cache(cp2k_code):
    from aiida.manage.caching import enable_caching

    images = moved(0.0, 0.03)
    outputs, first = run_get_node(build(cp2k_code, images))
    with enable_caching():
        again, second = run_get_node(build(cp2k_code, images))
    assert [job.base.caching.is_created_from_cache for job in jobs(second)] == [True]
    assert jobs(second)[0].base.caching.get_cache_source() in {job.uuid for job in jobs(first)}
    assert again["dataset"].base.caching.compute_hash() == outputs["dataset"].base.caching.compute_hash()


def test_what_depends_on_all_cells_is_settled_when_they_are_known(cp2k_code):
    """A work chain that makes its frames first cannot know the k-points of a level when its builder is made."""
    level = load_level(
        "revpbe-d3-demo",
        {"key": "open/cp2k", "kpoints": {"spacing_per_A": 1.3}, "kind": {"BASIS_SET": "SZV-MOLOPT-SR-GTH"}},
    )
    builder = LabellingWorkChain.get_builder_from_protocol(cp2k_code, None, level=level, protocol="demo")
    builder.dataset = dataset(
        [Atoms("Ar", cell=[3.0, 3.4, 5.0], pbc=True), Atoms("Ar", cell=[3.5, 3.4, 5.0], pbc=True)]
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    (job,) = jobs(node)
    assert job.inputs.level["kpoints"] == {"mesh": [2, 2, 1]}
    assert job.inputs.level.creator.caller == node
    assert "KPOINTS" in job.inputs.level["parameters"]["DFT"]
    warnings = [log.message for log in orm.Log.collection.get_logs_for(node) if "narrowest cell is" in log.message]
    assert len(warnings) == 1
    assert outputs["dataset"].levels["open/cp2k"]["counts"]["forces"] == 2


# jobs that end early

KILLED = """#!/bin/bash
# CP2K that dies of SIGPIPE in the frame after number {after}, as long as the file below is there
if [ ! -e {flag} ]; then exec {cp2k} "$@"; fi
{once}
{cp2k} "$@" | awk '/ENERGY. Total FORCE_EVAL/ && ++n > {after} {{exit}} {{print}}'
"""


@pytest.fixture
def killed_code(aiida_code_installed, aiida_localhost, tmp_path):
    """Return a function that makes a CP2K which is killed after ``after`` frames, ``once`` or as long as a file is."""

    def make(after, *, once):
        flag, script = tmp_path / "flag", tmp_path / "cp2k.sh"
        flag.touch()
        text = KILLED.format(flag=flag, cp2k=shutil.which("cp2k.psmp"), after=after, once=f"rm {flag}" if once else "")
        script.write_text(text)
        script.chmod(0o755)
        code = aiida_code_installed(
            label=f"killed-{tmp_path.name}",
            computer=aiida_localhost,
            default_calc_job_plugin="cp2k",
            filepath_executable=str(script),
            prepend_text=PREPEND,
        )
        return code, flag

    return make


def test_frames_finished_before_a_kill_are_kept_and_the_others_get_another_job(cp2k_code, killed_code):
    images = moved(*np.linspace(0.0, 0.4, 8))
    code, _ = killed_code(5, once=True)
    outputs, node = run_get_node(build(code, images))
    assert node.is_finished_ok, node.exit_message
    first, second = jobs(node)
    assert (first.exit_status, second.exit_status) == (410, 0)
    assert first.outputs.dataset.n_frames == 5
    assert second.inputs.dataset.n_frames == 3
    assert steps(outputs) == list(range(8))
    assert outputs["dataset"].level_sources[KEY] == [first.uuid, second.uuid]
    undisturbed, _ = run_get_node(build(cp2k_code, images))
    expected, labels = undisturbed["dataset"].frames.labels(KEY), outputs["dataset"].frames.labels(KEY)
    np.testing.assert_allclose(labels.energy, expected.energy, atol=1e-6)
    np.testing.assert_allclose(labels.forces, expected.forces, atol=1e-4)


def test_jobs_that_get_one_frame_further_each_are_enough_and_a_rerun_repeats_none_of_them(killed_code):
    from aiida.manage.caching import enable_caching

    images = moved(0.0, 0.1, 0.2)
    code, flag = killed_code(1, once=False)
    outputs, node = run_get_node(build(code, images, max_attempts=1))
    assert [job.exit_status for job in jobs(node)] == [410, 410, 0]
    assert steps(outputs) == [0, 1, 2]
    flag.unlink()
    with enable_caching():
        outputs, node = run_get_node(build(code, images, max_attempts=1))
    assert [job.base.caching.is_created_from_cache for job in jobs(node)] == [True, True, True]
    assert steps(outputs) == [0, 1, 2]


def test_jobs_that_finish_no_frame_are_given_up_and_the_second_begins_elsewhere(killed_code):
    code, _ = killed_code(0, once=False)
    outputs, node = run_get_node(build(code, moved(0.0, 0.1)))
    assert node.exit_status == LabellingWorkChain.exit_codes.ERROR_NO_LABELS.status
    assert [job.exit_status for job in jobs(node)] == [311, 311]
    assert {entry["reason"] for entry in outputs["failed"].get_dict().values()} == {NOT_REACHED.reason}
    first, second = (job.inputs.dataset.frames.steps.tolist() for job in jobs(node))
    assert second == first[::-1]


# the ladder of frames that do not converge


def test_unconverged_frames_climb_the_ladder_and_keep_their_level(cp2k_code):
    images = [*moved(0.0, 0.05), gas()]
    builder = build(cp2k_code, images, level_overrides=one_step())
    assert [rung["name"] for rung in builder.ladder] == ["more-steps", "other-minimiser", "fresh-start"]
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    assert [job.exit_status for job in jobs(node)] == [312, 312, 0, 0]
    assert [job.outputs.output_parameters["rung"] for job in jobs(node)] == ["", "", "more-steps", "more-steps"]
    assert steps(outputs) == [0, 1, 2]
    assert outputs["failed"].get_dict() == {}
    hashes = outputs["dataset"].frames.content_hashes()
    assert outputs["rescued"].get_dict() == {
        str(index): {"content_hash": digest, "rung": "more-steps"} for index, digest in enumerate(hashes)
    }
    labels = outputs["dataset"].frames.labels(KEY)
    assert labels.level == level_metadata(builder.level.get_dict(), "2023.1")
    plain, _ = run_get_node(build(cp2k_code, images))
    expected = plain["dataset"].frames.labels(KEY)
    assert plain["rescued"].get_dict() == {}
    np.testing.assert_allclose(labels.energy, expected.energy, atol=1e-6)
    np.testing.assert_allclose(labels.forces, expected.forces, atol=1e-4)


@pytest.mark.parametrize("rung", [1, pytest.param(2, marks=pytest.mark.long)])
def test_the_higher_rungs_give_the_same_labels(cp2k_code, rung):
    images = moved(0.0, 0.05)
    ladder = cp2k_ladder(load_level("gfn1-xtb"))[rung : rung + 1]
    outputs, node = run_get_node(build(cp2k_code, images, level_overrides=one_step(), ladder=ladder))
    assert node.is_finished_ok, node.exit_message
    assert {entry["rung"] for entry in outputs["rescued"].get_dict().values()} == {ladder[0]["name"]}
    plain, _ = run_get_node(build(cp2k_code, images))
    labels, expected = outputs["dataset"].frames.labels(KEY), plain["dataset"].frames.labels(KEY)
    np.testing.assert_allclose(labels.energy, expected.energy, atol=1e-6)
    np.testing.assert_allclose(labels.forces, expected.forces, atol=1e-4)
    scf = jobs(node)[-1].outputs.output_parameters["scf_steps"]
    if rung == 2:
        assert scf[1] >= scf[0] - 2, "the second frame did not start from nothing"


def test_a_frame_that_no_rung_helps_is_named_and_the_others_are_kept(cp2k_code):
    """A threshold that nothing meets for two waters torn apart, and that the whole ones meet."""
    images = moved(0.0, 1.1, 0.02)
    ladder = [{"name": name, "parameters": {"DFT": {"SCF": {"MAX_SCF": 15}}}} for name in ("hope", "despair")]
    overrides = {"parameters": {"DFT": {"SCF": {"MAX_SCF": 15, "OUTER_SCF": {"MAX_SCF": 0}}}}}
    outputs, node = run_get_node(build(cp2k_code, images, level_overrides=overrides, ladder=ladder))
    assert node.is_finished_ok, node.exit_message
    assert steps(outputs) == [0, 2]
    assert outputs["failed"].get_dict() == {
        "1": {
            "content_hash": Frames.from_atoms(images).content_hashes()[1],
            "reason": "the SCF cycle did not converge",
            "rungs": ["hope", "despair"],
        }
    }
    assert [job.inputs.dataset.n_frames for job in jobs(node)] == [3, 1, 1]


def test_nothing_labelled_is_an_error_and_each_rung_was_tried(cp2k_code):
    overrides = one_step(EPS_SCF=1e-30)
    overrides["parameters"]["DFT"]["SCF"]["OUTER_SCF"]["EPS_SCF"] = 1e-30
    outputs, node = run_get_node(build(cp2k_code, [gas()], level_overrides=overrides))
    assert node.exit_status == LabellingWorkChain.exit_codes.ERROR_NO_LABELS.status == 320
    assert node.exit_message == "None of 1 frames was labelled: the SCF cycle did not converge"
    assert outputs["failed"]["0"]["rungs"] == ["more-steps", "other-minimiser", "fresh-start"]
    assert "dataset" not in outputs


def test_without_a_ladder_a_frame_gets_one_try(cp2k_code):
    builder = build(cp2k_code, [gas()], level_overrides=one_step(), ladder=[])
    assert "ladder" not in builder
    _, node = run_get_node(builder)
    assert node.exit_status == 320
    assert len(jobs(node)) == 1


def test_an_input_that_cp2k_refuses_is_told(cp2k_code):
    overrides = {"parameters": {"DFT": {"SCF": {"NO_SUCH_KEYWORD": 1}}}}
    _, node = run_get_node(build(cp2k_code, [gas()], level_overrides=overrides))
    assert node.exit_status == 320
    assert "NO_SUCH_KEYWORD" in node.exit_message
    assert [job.exit_status for job in jobs(node)] == [210]


def test_a_job_without_any_output_is_tried_again_and_named(cp2k_code, aiida_code_installed, aiida_localhost):
    code = aiida_code_installed(
        label="nothing",
        computer=aiida_localhost,
        default_calc_job_plugin="cp2k",
        filepath_executable="/bin/true",
        prepend_text="exec > /dev/null; trap 'rm -f aiida.out' EXIT",
    )
    outputs, node = run_get_node(build(code, [gas()]))
    assert [job.exit_status for job in jobs(node)] == [310, 310]
    assert outputs["failed"]["0"]["reason"] == NO_OUTPUT


# builders


@pytest.mark.parametrize("engine", [name for name, engine in ENGINES.items() if engine.ladder])
def test_every_level_has_a_ladder_that_its_engine_takes(engine):
    for name in ENGINES[engine].available():
        spec = find_level(name)
        rungs = ENGINES[engine].ladder(spec)
        ENGINES[engine].check_ladder(rungs)
        assert len(rungs) == 3


def test_a_level_that_diagonalises_gets_a_ladder_without_orbital_transformation():
    spec = load_level("gfn1-xtb")
    del spec["parameters"]["DFT"]["SCF"]["OT"]
    for rung in cp2k_ladder(spec):
        assert "OT" not in rung["parameters"]["DFT"]["SCF"]
    assert cp2k_ladder(spec)[1]["parameters"]["DFT"]["SCF"]["MIXING"]["METHOD"] == "BROYDEN_MIXING"


@pytest.mark.parametrize("protocol", ["demo", "fast", "balanced", "kaur2025"])
def test_every_protocol_builds(cp2k_code, protocol):
    builder = LabellingWorkChain.get_builder_from_protocol(cp2k_code, dataset([gas()]), protocol=protocol)
    expected = "revpbe-d3/cp2k" if protocol in ("balanced", "kaur2025") else "revpbe-d3-demo/cp2k"
    assert builder.level["key"] == expected
    assert builder.cp2k.metadata.options["withmpi"] is False


def rung(parameters):
    return [{"name": "one", "parameters": parameters}]


def close():
    return [Atoms("H2", [[0, 0, 0], [0, 0, 0.3]])]


def flat():
    return [Atoms("Ar", cell=[[5, 0, 0], [0, 5, 0], [5, 5, 0]], pbc=True)]


@pytest.mark.parametrize(
    ("level", "images", "overrides", "match"),
    [
        ("pbe", [gas()], {}, "unknown level 'pbe': choose from"),
        ({**load_level("gfn1-xtb"), "engine": "gaussian"}, [gas()], {}, "names the engine 'gaussian'"),
        ({**load_level("gfn1-xtb"), "functional": "PBE"}, [gas()], {}, "unknown entries"),
        ("gfn1-xtb", close(), {}, r"frame 0: atoms 0 \(H\) and 1 \(H\) are 0\.300 angstrom apart"),
        ("gfn1-xtb", flat(), {}, "no volume"),
        ("gfn1-xtb", [gas()], {"frames_per_jobs": 5}, "unknown input 'frames_per_jobs'"),
        ("gfn1-xtb", [gas()], {"level_overrides": {"parameters": {"DFT": {"SCF": {"EPS_SFC": 1}}}}}, "did you mean"),
        ("gfn1-xtb-tblite", [gas()], {"ladder": rung({})}, "engine 'ase' has no ladder"),
        ("gfn1-xtb", [gas()], {"ladder": rung({}) * 2}, "names of their own"),
        ("gfn1-xtb", [gas()], {"ladder": [{"parameters": {}}]}, "needs `name` and `parameters`"),
        ("gfn1-xtb", [gas()], {"ladder": rung({"DFT": {"SCF": {"EPS_SCF": 1e-3}}})}, "DFT/SCF/EPS_SCF, which is not"),
        ("gfn1-xtb", [gas()], {"ladder": rung({"DFT": {"QS": {"EPS_DEFAULT": 1e-3}}})}, "DFT/QS/EPS_DEFAULT"),
        ("gfn1-xtb", [gas()], {"ladder": rung({"DFT": {"SCF": {"MAX_SFC": 9}}})}, "did you mean 'MAX_SCF'"),
    ],
)
def test_bad_input_is_refused_when_the_builder_is_made(cp2k_code, level, images, overrides, match):
    with pytest.raises((MlFinetuneError, ValueError), match=match):
        build(cp2k_code, images, level, **overrides)


def test_frames_that_have_labels_at_this_level_are_refused(python_code, water_frames):
    with pytest.raises(MlFinetuneError, match="labels at level 'gfn1-xtb/tblite' already"):
        build(python_code, DatasetData(water_frames), "gfn1-xtb-tblite")


def test_narrow_cells_at_the_gamma_point_are_warned_about(cp2k_code, monkeypatch):
    said = []
    monkeypatch.setattr(chain.AIIDA_LOGGER, "warning", said.append)
    build(cp2k_code, [two_waters().repeat(2), gas()])
    assert said == []
    build(cp2k_code, [two_waters().repeat(2), two_waters()])
    (warning,) = said
    assert "take a supercell (2 x 2 x 2)" in warning


def test_codes_of_other_programs_are_refused(cp2k_code, python_code, ipi_code):
    with pytest.raises(ValueError, match="not the right program"):
        build(python_code, [gas()], "gfn1-xtb")
    with pytest.raises(ValueError, match="not the right program"):
        build(ipi_code, [gas()], "gfn1-xtb-tblite")


def test_a_hand_made_builder_is_checked_when_it_is_run(cp2k_code, python_code):
    def create(builder):
        instantiate_process(get_manager().get_runner(), builder)

    builder = build(cp2k_code, [gas()])
    builder.python.code = python_code
    with pytest.raises(ValueError, match=r"leave `python\.code` out"):
        create(builder)
    builder = build(cp2k_code, [gas()])
    builder.level = orm.Dict(find_level("gfn1-xtb-tblite"))
    with pytest.raises(ValueError, match=r"set `python\.code`"):
        create(builder)
    builder = build(cp2k_code, [gas()])
    builder.ladder = orm.List(rung({"DFT": {"SCF": {"EPS_SCF": 1e-3}}}))
    with pytest.raises(ValueError, match="not one of the aids to convergence"):
        create(builder)
    for name in ("frames_per_job", "max_concurrent", "max_attempts"):
        with pytest.raises(ValueError, match="at least 1"):
            builder[name] = orm.Int(0)
    with pytest.raises(AttributeError):
        builder.datasett = dataset([gas()])
    with pytest.raises((AttributeError, ValueError)):
        builder.cp2k.codes = cp2k_code
