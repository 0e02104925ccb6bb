"""A study of two tiny crystals: what each stage takes from the others, what is refused, and the page that it makes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from aiida import orm
from aiida.common.exceptions import NotExistent
from aiida.engine.utils import instantiate_process
from aiida.tools.archive import create_archive

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.report import collect, render
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.reference_cells import with_references
from aiida_mlfinetune.science.plans.study import label_cost
from aiida_mlfinetune.workchains.protocols import load_yaml
from aiida_mlfinetune.workchains.study import StudyWorkChain
from aiida_mlfinetune.workchains.study_plan import study_plan
from tests.fixtures.study import (
    BEADS,
    BINDING,
    CRYSTALS,
    OVERRIDES,
    RUN,
    made_up_model,
    make_study_builder,
    run_study,
)

FROM_ARCHIVE = """
import sys
from aiida import load_profile, orm
from aiida.storage.sqlite_zip.backend import SqliteZipBackend
load_profile(SqliteZipBackend.create_profile(sys.argv[1]))
from aiida_mlfinetune.report import collect, render
open(sys.argv[3], "w", encoding="utf-8").write(render(collect(orm.load_node(uuid=sys.argv[2]))))
"""
LOST = "dynamics_all_naive_n10_s1_first"
_DONE: dict[str, str] = {}
SPLIT = OVERRIDES["learning_curve"]["split"]
WITHOUT_STRESS = {"protocol": "demo", "parameters": {"stress_weight": 0.0}}


def curve(**changes):
    return {**OVERRIDES["learning_curve"], **changes}


def run_with(**parameters):
    return {"protocol": "demo", "parameters": {**RUN, **parameters}}


def reweighted(**settings):
    return {"protocol": "demo", "settings": {**OVERRIDES["reweighting"]["settings"], **settings}}


@pytest.fixture
def codes(cp2k_code, python_code, ipi_code):
    return {"cp2k": cp2k_code, "python": python_code, "i-pi": ipi_code}


@pytest.fixture
def study(codes, monkeypatch):
    """A study whose runs are made up, one of which fails; run once."""
    try:
        return orm.load_node(uuid=_DONE["study"])
    except (KeyError, NotExistent):
        node = run_study(monkeypatch, make_study_builder(codes), (LOST,))
        _DONE["study"] = node.uuid
        return node


def test_a_study_gives_averages_reference_budget_and_order(study):
    outputs = study.outputs
    assert list(outputs.failed.get_dict()) == [LOST], study.exit_message
    assert set(outputs.averages.second) == {"naive_n10_s1", "naive_n20_s1"}
    for crystal in CRYSTALS:
        own = outputs.averages[crystal]
        moved = outputs.reference[crystal]
        for name in ("potential_energy", "density", "sublimation_enthalpy"):
            assert abs(moved[name].details["run"]["value"] - own["naive_n20_s1"][name].value) < 1e-9
        shift = moved["enthalpy_crystal"].details["shift"]
        assert shift["value"] == pytest.approx(-0.002 * 96.485, abs=6 * shift["error"])
        assert outputs.convergence[crystal].details["reference_model"] == "naive_n20_s1"
        kinds = outputs.budget[crystal].details["kinds"]
        assert set(kinds) == {"statistics", "model", "nuclei", "cell"}
        assert outputs.production_runs.path_integral[crystal]["enthalpy_crystal"].conditions["n_beads"] == 4
        large = outputs.production_runs.large[crystal]
        assert large["enthalpy_crystal"].details["n_molecules"] == 4
        assert "O_H" in outputs.structure.classical[crystal]
        curve = outputs.structure.reference[crystal]["O_H"]
        assert curve.conditions["level"] == "revpbe-d3-demo/cp2k"
        assert curve.arrays()["reweighted"].shape == curve.arrays()["r_A"].shape == (20,)
    assert outputs.upgraded.first["density"].value > 0
    assert list(outputs.upgraded) == ["first"]
    labelled = child_of(study, "upgrade_labelling_frames").outputs.dataset
    assert {"gfn1-xtb/tblite", "revpbe-d3-demo/cp2k"} <= set(labelled.levels)
    assert origins(study, labelled) == {"first": 5, "gas": 3}
    # the gas that both crystals share is averaged once
    gases = {outputs.averages[crystal]["naive_n20_s1"]["enthalpy_gas"].uuid for crystal in CRYSTALS}
    assert len(gases) == 1
    ranking = outputs.ranking.model
    assert ranking.details["order"] == ["first", "second"]
    gap = 96.485 * (BINDING["first"] - BINDING["second"])
    assert ranking.value == pytest.approx(gap, abs=4 * ranking.error)


def child_of(study: orm.WorkChainNode, label: str) -> orm.ProcessNode:
    return study.base.links.get_outgoing(link_label_filter=label).one().node


def origins(study: orm.WorkChainNode, dataset: DatasetData) -> Counter[str]:
    """Count the frames by what was sampled, each frame once."""
    known = {
        digest: phase
        for phase in (*CRYSTALS, "gas")
        for digest in child_of(study, f"sampling_{phase}").outputs.dataset.frames.content_hashes()
    }
    return Counter(known[digest] for digest in set(dataset.frames.content_hashes()))


@pytest.mark.parametrize(
    ("pool", "upgrade", "found"),
    [
        (True, {"n_frames": 6, "n_gas": 0}, {"first": 3, "second": 3}),
        (False, {"n_frames": 4}, {"first": 2, "second": 2, "gas": 12}),
        (False, {"crystals": ["second"], "n_frames": 50, "n_gas": 2}, {"second": 8, "gas": 2}),
    ],
)
def test_an_upgrade_counts_frames_of_crystals_and_of_the_molecule_apart(codes, monkeypatch, pool, upgrade, found):
    study = run_study(monkeypatch, make_study_builder(codes, {"pool": pool, "runs": {}, "upgrade": upgrade}))
    assert study.is_finished_ok, study.exit_message
    labelled = child_of(study, "upgrade_labelling_frames").outputs.dataset
    assert origins(study, labelled) == found
    assert labelled.n_frames == sum(found.values())
    upgraded = study.outputs.upgraded
    assert set(upgraded) == set(found) - {"gas"}
    assert all(("sublimation_enthalpy" in own) == ("gas" in found) for own in upgraded.values())
    told = "takes all 8 frames of crystals that there are, not 50"
    fewer = any(told in log.message for log in orm.Log.collection.get_logs_for(study))
    assert fewer == (upgrade["n_frames"] == 50)


def test_an_upgrade_without_a_frame_of_its_crystals_leaves_the_rest_of_the_study(codes, monkeypatch):
    monkeypatch.setattr(StudyWorkChain, "_sufficient_set", lambda chain, sets: chain.ctx.sampled["gas"])
    study = run_study(monkeypatch, make_study_builder(codes, {"runs": {}}))
    assert study.outputs.failed.get_dict() == {
        "upgrade_labelling_frames": "the smallest sufficient set has no frame of ['first']"
    }
    assert "upgraded" not in study.outputs
    assert "model" in study.outputs.ranking


def test_the_plan_prices_labels_of_crystals_and_of_the_molecule_apart(codes):
    def stages(**upgrade):
        builder = make_study_builder(codes, {"upgrade": {"crystals": ["first"], **upgrade}})
        return {stage.name: stage for stage in study_plan(builder).stages}

    costs = load_yaml("study_costs.yaml")
    crystal, gas = (
        label_cost(costs, "gfn1-xtb/tblite", atoms, periodic=periodic) for atoms, periodic in ((6, True), (3, False))
    )
    stage = stages(n_frames=5, n_gas=3)["upgrade labels"]
    assert (stage.labels, stage.core_seconds) == (8, pytest.approx(5 * crystal + 3 * gas + costs["job"]))
    assert "5 frames of first, 3 frames of gas, at gfn1-xtb/tblite" in stage.what
    whole = stages()["upgrade labels"]  # of 20 frames of 36, a third each
    assert "7 frames of first, 7 frames of gas" in whole.what
    alone = stages(n_frames=5, n_gas=0)
    assert alone["upgrade labels"].labels == 5
    assert (alone["upgrade runs"].processes, alone["upgrade runs"].what) == (1, "of first")


def test_failed_runs_are_named_and_the_rest_is_kept(study):
    assert study.exit_status == StudyWorkChain.exit_codes.ERROR_RUNS_FAILED.status
    assert set(study.outputs.averages.first) == {"naive_n20_s1"}
    sizes = {name: study.outputs.convergence[name].arrays()["sizes"].tolist() for name in CRYSTALS}
    assert sizes == {"first": [20], "second": [10, 20]}
    assert list(study.outputs.convergence.first.details["failed"]) == [LOST]
    assert "the run exploded" in render(collect(study))


def test_the_page_shows_figures_and_table_with_every_number_linked(study):
    page = render(collect(study))
    titles = ("Table I", *(f"Figure {number}" for number in (1, 2, 3, 4)), "Order of the polymorphs", "Error budget")
    for title in (*titles, "Upgrade"):
        assert title in page
    targets = set(re.findall(r'href="#(node-[0-9a-f-]+)"', page))
    assert targets
    assert targets <= set(re.findall(r'id="(node-[0-9a-f-]+)"', page))
    figure = page[page.index('id="figure-4') : page.index('id="error-budget')]
    assert f"node-{study.outputs.structure.reference.first.O_H.uuid}" in figure
    density = study.outputs.reference.first.density
    assert f"node-{density.uuid}" in targets
    table = page[page.index('id="table-i"') : page.index('id="order-of-the-polymorphs"')]
    numbers = re.findall(r"<td[^>]*>(.*?)</td>", table)
    assert all(cell.startswith("<a") for cell in numbers if "±" in cell)


def test_an_archive_alone_gives_the_same_page(study, tmp_path: Path):
    create_archive([study], filename=tmp_path / "study.aiida")
    place = {**os.environ, "AIIDA_PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [str(tmp_path / "study.aiida"), study.uuid, str(tmp_path / "page.html")]
    done = subprocess.run([sys.executable, "-c", FROM_ARCHIVE, *arguments], env=place, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == render(collect(study))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"production": {"mode": "scratch"}}, "asks for mode 'scratch', but trained are"),
        ({"production": {"mode": "naive", "size": 15}}, "a training set of 15 frames"),
        ({"runs": {"a": {"crystal": {"n_bead": 2}}}}, "run 'a', crystal"),
        ({"runs": {"a": {"gas": BEADS}}}, "says nothing of the 'crystal'"),
        ({"runs": {"a": {"crystal": {}, "repeat": [1, 0, 1]}}}, "repeats the cells"),
        ({"runs": {"A b": {"crystal": {}}}}, "a run is called 'A b'"),
        ({"runs": {"classical": {"crystal": {}}}}, "a run is called 'classical', which the study calls"),
        ({"runs": {"a": {"crystal": BEADS, "gas": {}}}}, "run 'a': crystal and gas must be run at one n_beads"),
        (
            {"runs": {"a": {"crystal": {}, "gas": {"temperature_K": 50.0}}}},
            "run 'a': crystal and gas must be run at one temperature_K",
        ),
        ({"runs": {"a": {"crystal": {"timestep_fs": 5.0}}}}, "run 'a', crystal: timestep_fs"),
        ({"distributions": {"pairs": [["O", "C"]], "r_max_A": 2.0}}, "'distributions' of first: .*'C'"),
        ({"distributions": {"pairs": [["O", "H"]], "r_max_A": 50.0}}, "'distributions' of first: .*50"),
        ({"distributions": {"pairs": [["O", "H"]], "r_max_A": 2.0, "n_bins": -3}}, "'n_bins' of 'distributions' is -3"),
        (
            {"modes": ["multihead-replay"], "production": {"mode": "multihead_replay"}, "upgrade": None},
            "mode 'multihead_replay' replays frames of the foundation's own data, which a study is not given",
        ),
        (
            {"learning_curve": curve(split={**SPLIT, "train": [2000]})},
            "the split wants 2004 frames.*are sampled for the",
        ),
        ({"sampling_gas": {"protocol": "demo", "selection": {"n_frames": 5000}}}, "sampling of gas: 5000 frames"),
        ({"dynamics_crystal": run_with(ensemble="nvt")}, "no enthalpy at pressure_bar"),
        (
            {"dynamics_crystal": run_with(require_stress=True), "learning_curve": curve(training=WITHOUT_STRESS)},
            "naive: the loss leaves out the stress, by which npt-flexible moves the cell: train on stress",
        ),
        ({"reweighting": reweighted(n_frames=5000)}, "reweighting of first: 5000 frames are wanted"),
        ({"reweighting": reweighted(n_frames=None, stride=100)}, "reweighting of first: a stride of 100 leaves"),
        ({"distributions": {"pairs": [["O", "H"]]}}, "'r_max_A' of 'distributions'"),
        ({"dynamics_crystal": {"protocol": "demo", "parameters": BEADS}}, "put path integrals under `runs`"),
        ({"labelling": {"protocol": "demo", "level": "kaur2025-vasp"}}, "needs vasp, of which no code is given"),
        ({"labelling": {"protocol": "demo", "level": "b3lyp"}}, "unknown level 'b3lyp'"),
        ({"poll": True}, "unknown input 'poll'"),
        ({"upgrade": {"crystals": ["third"]}}, r"'upgrade' names crystals \['third'\]"),
        ({"upgrade": {"n_frames": 2, "n_gas": 0}}, "leaves none to train on"),
        ({"upgrade": {"crystals": ["first"], "n_frames": 1}}, "'n_frames' of 'upgrade' is 1, but must be a number"),
        ({"upgrade": {"n_gas": -1}}, "'n_gas' of 'upgrade' is -1, but must be a number of at least 0"),
        ({"upgrade": {"n_gass": 1}}, r"unknown entries of 'upgrade': \['n_gass'\]"),
    ],
)
def test_what_cannot_be_is_refused_when_the_builder_is_made(codes, overrides, message):
    with pytest.raises((MlFinetuneError, ValueError), match=message):
        make_study_builder(codes, overrides)


@pytest.mark.parametrize(
    ("lost", "label"),
    [
        ("sampling_first", "ERROR_SAMPLING_FAILED"),
        ("labelling_frames", "ERROR_LABELLING_FAILED"),
        ("learning_curve_all", "ERROR_NO_MODEL"),
    ],
)
def test_a_stage_that_all_others_need_ends_the_study(codes, monkeypatch, lost, label):
    node = run_study(monkeypatch, make_study_builder(codes), (lost,))
    assert node.exit_status == StudyWorkChain.exit_codes[label].status
    assert f"{lost}: <" in node.exit_message
    assert "the run exploded" in node.exit_message
    assert "averages" not in node.outputs


def test_a_crystal_whose_frames_have_no_labels_is_an_error(codes, monkeypatch):
    builder = make_study_builder(codes, {"pool": False})
    node = run_study(monkeypatch, builder, n_labelled=12)  # those of the first crystal
    assert node.exit_status == StudyWorkChain.exit_codes.ERROR_FRAMES_DIFFER.status
    assert "none of the frames asked for has a label" in node.exit_message


def test_sampling_may_be_hotter_than_the_runs(codes):
    hot = {"sampling_crystal": {"protocol": "demo", "md": {"temperature_K": 300.0}}}
    builder = make_study_builder(codes, hot, temperature_K=77.0)
    assert builder.sampling_crystal.md["temperature_K"] == 300.0
    assert builder.sampling_gas.md["temperature_K"] == builder.dynamics_crystal.parameters["temperature_K"] == 77.0
    fixed = {"sampling_crystal": {"protocol": "demo", "md": {"ensemble": "nvt"}}}
    assert make_study_builder(codes, fixed, pressure_bar=77.0).sampling_crystal.md["pressure_bar"] != 77.0  # not used
    twice = {"dynamics_gas": {"protocol": "demo", "parameters": {"temperature_K": 7.0}}}
    with pytest.raises(MlFinetuneError, match=r"given twice, as 77\.0 and, in the overrides, as 7\.0"):
        make_study_builder(codes, twice, temperature_K=77.0)


def test_labels_of_a_crystal_have_one_grid_throughout_a_study(codes):
    """Those of the frames, of the runs that are reweighted, and of the sampling where it is at the same level."""
    same = {"protocol": "demo", "level": "revpbe-d3-demo"}
    builder = make_study_builder(codes, {"labelling": same, "sampling_crystal": same})
    levels = [builder.labelling.level, builder.reweighting["labelling"]["level"], builder.sampling_crystal.level]
    assert levels[0].get_dict() == levels[1].get_dict() == levels[2].get_dict()
    crystals = Frames.from_atoms([crystal.get_ase() for crystal in dict(builder.crystals).values()])
    assert levels[0]["grid_cells"] == with_references({}, crystals.formulas, crystals.cells)


def test_frames_may_come_from_dynamics_with_a_model(codes, monkeypatch):
    own = {"protocol": "demo", "dynamics": {"parameters": {"n_beads": 2, "thermostat": "pile-l"}}}
    overrides = {"sampling_crystal": {**own, "selection": {"n_frames": 9}}, "sampling_gas": {"protocol": "demo"}}
    del (without := dict(codes))["cp2k"]
    overrides |= {"labelling": {"protocol": "demo", "level": "gfn1-xtb-tblite"}, "upgrade": {}}
    builder = make_study_builder(without, overrides, sampling_model=made_up_model())
    assert "with the sampling model, 2 beads; 9 frames of first" in StudyWorkChain.describe(builder)
    node = run_study(monkeypatch, builder, ("labelling_frames",))
    assert node.exit_status == StudyWorkChain.exit_codes.ERROR_LABELLING_FAILED.status
    called = [child for child in node.called if isinstance(child, orm.WorkChainNode)]
    assert {child.process_label for child in called} == {"ModelSamplingWorkChain", "LabellingWorkChain"}
    frames = [child.outputs.dataset.n_frames for child in called if "dataset" in child.outputs]
    assert sorted(frames) == [9, 9, 20]
    assert "model with sha256" in render(collect(node))


def test_inputs_of_the_sampling_that_does_not_run_are_refused(codes, aiida_manager):
    builder = make_study_builder(codes, {"upgrade": {}, "runs": {}})
    builder.sampling_model = made_up_model()
    with pytest.raises(ValueError, match=r"there are inputs of sampling_crystal, which does not run: leave them out"):
        instantiate_process(aiida_manager.get_runner(), builder)
