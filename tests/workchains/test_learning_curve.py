"""The learning curve: real trainings of tiny models on nested sets, additions from the cache, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import engine, orm
from aiida.common.links import LinkType
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from aiida.manage.caching import enable_caching
from plumpy.process_states import ProcessState

from aiida_mlfinetune.calculations.functions.learning_curve import training_label
from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.report import collect, render
from aiida_mlfinetune.workchains.learning_curve import LearningCurveWorkChain
from aiida_mlfinetune.workchains.learning_curve_modes import MODE_INPUTS
from tests.fixtures.water import XTB, make_water_frames

TRAINING = {
    "protocol": "demo",
    "parameters": {"max_num_epochs": 2, "batch_size": 4},
    "scratch": {"num_channels": 4, "max_L": 0, "max_ell": 1, "correlation": 2, "radial_MLP": "[8]", "r_max": 3.5},
}
SPLIT = {"train": [4, 8], "valid": 4, "test": 0, "seed": 3, "min_separation": 0}


@pytest.fixture
def dataset(aiida_profile, water_frames):
    return DatasetData(frames=water_frames).store()


@pytest.fixture
def build(python_code, dataset):
    def make(modes=("scratch",), overrides=None, data=dataset, level=XTB.key, **kwargs):
        layers = {"split": SPLIT, "seeds": [1], "training": TRAINING, **(overrides or {})}
        return LearningCurveWorkChain.get_builder_from_protocol(
            python_code, data, level, modes, protocol="demo", overrides=layers, **kwargs
        )

    return make


def trainings(node) -> dict[str, orm.CalcJobNode]:
    """Return the training job of each child by the child's label."""
    links = node.base.links.get_outgoing(link_type=LinkType.CALL_WORK).all()
    found = {}
    for link in links:
        (found[link.link_label],) = [job for job in link.node.called if isinstance(job, orm.CalcJobNode)]
    return found


def computed(node) -> set[str]:
    """Return the labels of the trainings that were run and not taken from the cache."""
    return {label for label, job in trainings(node).items() if not job.base.caching.is_created_from_cache}


def test_a_curve_is_trained_and_a_size_that_is_added_later_computes_only_that(build, tiny_model):
    modes = {"scratch": {"mode": "scratch"}, "tuned": {"mode": "naive", "foundation": tiny_model.store()}}
    target = {"forces_meV_A": 1e6, "energy_kJ_mol": 1e9}
    one = {"split": {**SPLIT, "train": [8]}}
    results, node = engine.run_get_node(build(modes, one, target=target))
    assert node.is_finished_ok, node.exit_message
    labels = {training_label(mode, 8, 1) for mode in modes}
    assert set(trainings(node)) == labels == set(results["models"])
    assert {name: sets.n_frames for name, sets in results["sets"].items()} == {"train_8": 8, "valid": 4}
    assert results["models"]["tuned_n8_s1"].passport.parent_sha256 == tiny_model.sha256
    assert results["models"]["scratch_n8_s1"].passport.settings["n_train"] == 8
    curve = results["curve"]
    errors = trainings(node)["scratch_n8_s1"].outputs.errors["valid"]
    arrays = curve.arrays()
    assert arrays["scratch/forces_meV_A"].tolist() == [[errors["forces_rmse_meV_A"]]]
    assert arrays["scratch/forces_O_meV_A"].tolist() == [[errors["forces_by_element"]["O"]["rmse_meV_A"]]]
    assert arrays["tuned/energy_kJ_mol"].shape == (1, 1)
    assert arrays["scratch/forces_percent"][0, 0] == pytest.approx(errors["forces_rmse_percent"])
    assert curve.details["conclusions"]["scratch"]["smallest"] == 8
    assert curve.details["modes"] == {"scratch": "scratch", "tuned": "naive"}
    assert not [log.message for log in orm.Log.collection.get_logs_for(node) if "failed" in log.message]

    with enable_caching():
        again, rerun = engine.run_get_node(build(modes, one, target=target))
        more, added = engine.run_get_node(build(["scratch"], {"split": {**SPLIT, "train": [8, 4]}}))
    assert rerun.is_finished_ok
    assert computed(rerun) == set()
    assert again["curve"].base.caching.compute_hash() == curve.base.caching.compute_hash()
    assert added.is_finished_ok
    assert computed(added) == {"scratch_n4_s1"}
    assert set(more["sets"]["train_4"].indices) < set(more["sets"]["train_8"].indices)
    assert more["curve"].arrays()["scratch/forces_meV_A"][1, 0] == arrays["scratch/forces_meV_A"][0, 0]
    assert "Doubling 8 frames to 16 is expected" in more["curve"].details["sentence"]

    html = render(collect(node))
    assert "Learning curve" in html
    assert "tuned: 8 frames are the smallest set that meets the target" in html


# without a training ---------------------------------------------------------------------------------------------


def make_process(builder):
    return instantiate_process(get_manager().get_runner(), builder)


def ended(process, label, errors=None, model=None, exit_status=0, state=ProcessState.FINISHED, exception=None):
    """Attach a training that ended to a learning curve."""
    child = orm.WorkChainNode(process_type="aiida.workflows:mlfinetune.training")
    child.base.links.add_incoming(process.node, LinkType.CALL_WORK, label)
    child.store()
    for name, data in (("errors", errors), ("model", model)):
        if data is not None:
            data.store()
            data.base.links.add_incoming(child, LinkType.RETURN, name)
    child.set_process_state(state)
    if state is ProcessState.FINISHED:
        child.set_exit_status(exit_status)
        child.set_exit_message("" if exit_status == 0 else "the loss is not a number")
    if exception:
        child.set_exception(exception)
    return child


def errors_of(forces: float) -> orm.Dict:
    return orm.Dict({"valid": {"forces_rmse_meV_A": forces, "energy_rmse_meV_per_atom": forces / 10}})


@pytest.fixture
def started(build):
    """A curve of two sizes and two seeds with its sets made, nothing trained."""
    process = make_process(build(overrides={"seeds": [1, 2]}))
    process.make_sets()
    return process


def test_a_failed_training_loses_nothing_that_is_finished(started, make_model_data, tiny_model_file):
    def good(label, forces):
        return ended(started, label, errors_of(forces), make_model_data(tiny_model_file))

    good("scratch_n4_s1", 90.0)
    ended(started, "scratch_n4_s2", state=ProcessState.KILLED)
    ended(started, "scratch_n8_s1", exit_status=310)
    ended(started, "scratch_n8_s2", state=ProcessState.EXCEPTED, exception="ValueError: no")
    good("scratch_n8_s2", 60.0)  # submitted twice around a crash of the daemon
    code = started.collect()
    assert code.status == LearningCurveWorkChain.exit_codes.ERROR_TRAININGS_FAILED.status
    assert "2 of 4 trainings failed" in code.message
    curve = started.outputs["curve"]
    assert set(started.outputs["models"]) == {"scratch_n4_s1", "scratch_n8_s2"}
    np.testing.assert_array_equal(curve.arrays()["scratch/forces_meV_A"], [[90.0, np.nan], [np.nan, 60.0]])
    assert curve.details["failed"] == {
        "scratch_n4_s2": "its process was killed",
        "scratch_n8_s1": "[310] the loss is not a number",
    }


def test_no_training_gives_no_curve(started):
    ended(started, "scratch_n4_s1", exit_status=310)
    code = started.collect()
    assert code.status == LearningCurveWorkChain.exit_codes.ERROR_NO_TRAINING.status
    assert "the loss is not a number" in code.message
    assert "curve" not in started.outputs


def test_no_more_than_max_concurrent_run_at_once_and_one_that_is_refused_is_named(started, monkeypatch):
    submitted = []

    def submit(_, **inputs):
        label = inputs["metadata"]["call_link_label"]
        if label == "scratch_n4_s2":
            raise ValueError("the frames are no good")
        submitted.append(label)
        return ended(started, label, state=ProcessState.RUNNING)

    monkeypatch.setattr(started, "submit", submit)
    monkeypatch.setattr(started, "to_context", lambda **_: None)
    assert started.inputs.max_concurrent == 2
    started.submit_trainings()
    assert submitted == ["scratch_n4_s1", "scratch_n8_s1"]
    assert started.ctx.refused == {"scratch_n4_s2": "the frames are no good"}
    started.submit_trainings()
    assert len(submitted) == 2
    first = orm.load_node(started.ctx.active["scratch_n4_s1"])
    first.set_process_state(ProcessState.FINISHED)
    first.set_exit_status(0)
    started.submit_trainings()
    assert submitted[2:] == ["scratch_n8_s2"]
    assert started.has_trainings()
    for pk in started.ctx.active.values():
        orm.load_node(pk).set_process_state(ProcessState.KILLED)
    started.submit_trainings()
    assert not started.has_trainings()


def test_each_training_gets_its_set_its_seed_and_its_mode(build, tiny_model):
    builder = build(["scratch", "naive"], {"seeds": [5, 7]}, foundation=tiny_model)
    process = make_process(builder)
    process.make_sets()
    inputs = process._training_inputs("naive", 4, 7)
    assert inputs.parameters.get_dict() == {**builder.modes["naive"]["parameters"].get_dict(), "seed": 7}
    assert inputs.train.uuid == process.outputs["sets"]["train_4"].uuid
    assert inputs.foundation.uuid == tiny_model.uuid
    assert inputs.level.value == XTB.key
    assert "foundation" not in process._training_inputs("scratch", 8, 5)
    assert len(process.ctx.queue) == 8
    assert [size for _, size, _ in process.ctx.queue] == [4] * 4 + [8] * 4


def test_what_a_mode_needs_reaches_its_trainings(build, tiny_model):
    replay = DatasetData(make_water_frames(4, 1, seed=9))
    modes = {
        "replay": {"mode": "multihead-replay", "foundation": tiny_model, "replay": replay},
        "delta": {"mode": "delta", "baseline": tiny_model},
    }
    process = make_process(build(modes))
    process.make_sets()
    inputs = {name: process._training_inputs(name, 8, 1) for name in modes}
    assert inputs["replay"].replay.uuid == replay.uuid
    assert inputs["replay"].foundation.uuid == inputs["delta"].baseline.uuid == tiny_model.uuid
    assert "foundation" not in inputs["delta"]
    with pytest.raises(StudyError, match="replay"):
        build({"replay": {"mode": "multihead-replay", "foundation": tiny_model}})


def test_frames_of_a_known_run_are_separated_by_its_correlation_time(build, python_code, water_frames):
    run = orm.CalcJobNode(computer=python_code.computer)
    run.store()
    properties = orm.ArrayData()
    properties.set_array("step", np.arange(400))
    energies = np.convolve(np.random.default_rng(0).normal(size=403), np.ones(4), "valid")
    properties.set_array("potential_energy_eV", energies)
    properties.base.links.add_incoming(run, LinkType.CREATE, "properties")
    properties.store()
    data = DatasetData(water_frames.with_source(run.uuid)).store()
    builder = build(data=data, overrides={"split": {**SPLIT, "train": [4], "min_separation": None}})
    assert set(builder.runs) == {"run_00"}
    process = make_process(builder)
    process.make_sets()
    correlation = process.outputs["correlation_time"]
    assert isinstance(correlation, ObservableData)
    sizes = process.outputs["sizes"].get_dict()
    assert sizes["separation"] == "correlation time"
    assert sizes["min_separation_steps"] == correlation.details["separation"] >= 1


def test_published_sizes_are_a_choice(build):
    with pytest.raises(MlFinetuneError, match="wants 150 frames"):
        build(sizes="kaur2025")


@pytest.mark.parametrize("protocol", ["demo", "fast", "balanced", "kaur2025"])
def test_every_protocol_names_sizes_and_a_training(protocol):
    inputs = LearningCurveWorkChain.get_protocol_inputs(protocol)
    assert inputs["split"]["train"]
    assert inputs["training"]["protocol"] == protocol
    assert len(set(inputs["seeds"])) == len(inputs["seeds"]) >= 2


def test_kaur2025_has_the_published_sizes():
    split = LearningCurveWorkChain.get_protocol_inputs("kaur2025")["split"]
    assert (split["train"], split["valid"], split["test"]) == ([50, 100, 160, 200, 320, 400], 100, 0)


def test_what_makes_a_mode_follows_the_training():
    assert {"parameters", "e0s", "foundation"} <= set(MODE_INPUTS)
    assert not {"dataset", "train", "valid", "level", "python", "metadata", "max_iterations"} & set(MODE_INPUTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 2, 1]}, r"seeds \[1\] are used twice"),
        ({"seeds": []}, "'seeds' is empty"),
        ({"seeds": [1.5]}, "whole numbers"),
        ({"sizes": [4, 4]}, "each size"),
        ({"sizes": [4, 13]}, "wants 17 frames"),
        ({"sizes": [2, 8]}, "'batch_size' 4 is larger than the training set of 2 frames"),
        ({"sizes": "kaur"}, "no choice 'kaur'"),
        ({"target": {"forces": 3.0}}, "unknown quantity 'forces'"),
        ({"target": {"forces_C_meV_A": 3.0}}, r"names \['forces_C_meV_A'\], which the labels"),
        ({"modes": []}, "must list at least one"),
        ({"modes": ["finetune"]}, "unknown training mode 'finetune'"),
        ({"modes": ["scratch", "scratch"]}, r"\['scratch'\] are given twice"),
        ({"modes": {"My mode": {"mode": "scratch"}}}, "name of a mode must be"),
        ({"modes": {"a": {"mode": "scratch", "fundation": 3}}}, "fundation"),
        ({"modes": ["naive"]}, "foundation"),
        ({"level": "dft"}, "no labels at level 'dft'"),
        ({"overrides": {"splits": {}}}, "unknown input 'splits'"),
        ({"overrides": {"training": {"protocol": "demo", "parameter": {}}}}, "unknown input 'parameter'"),
    ],
)
def test_bad_builders_are_refused(changes, message, build):
    with pytest.raises((StudyError, MlFinetuneError), match=message):
        build(**changes)


def test_inputs_that_are_no_training_are_refused_at_the_ports(build):
    builder = build()
    parameters = builder.modes["scratch"]["parameters"]
    for modes, message in (
        ({}, "no training mode"),
        ({"a": {"e0s": orm.Dict({})}}, "needs 'parameters'"),
        ({"a": {"parameters": parameters, "split": orm.Dict({})}}, r"unknown inputs \['split'\]"),
        ({"a": {"parameters": orm.Dict({"mode": "scratch", "epochs": 3})}}, "unknown parameter 'epochs'"),
    ):
        builder.modes = modes
        with pytest.raises(ValueError, match=message):
            make_process(builder)
    with pytest.raises(AttributeError):
        builder.sedes = orm.List([1])


def test_a_builder_says_what_it_will_do(build, tiny_model):
    builder = build(["scratch", "naive"], {"seeds": [1, 2]}, foundation=tiny_model)
    text = LearningCurveWorkChain.describe(builder)
    assert text.startswith(f"8 trainings at {XTB.key}: naive, scratch; on 4, 8 frames; seeds 1, 2\n4 frames for valid")
    assert "naive: mode naive, from the model with sha256" in text
    assert "scratch: mode scratch, from nothing, at most 2 epochs" in text
