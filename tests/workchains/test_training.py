import numpy as np
import pytest
from aiida import engine, orm
from aiida.common.links import LinkType
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from mace.calculators import MACECalculator
from plumpy.process_states import ProcessState

from aiida_mlfinetune.calculations.mace_evaluate import MaceEvaluateCalculation
from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation
from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.mace_train import baseline_of
from aiida_mlfinetune.science.datasets.levels import Labels
from aiida_mlfinetune.science.models.levels import model_level
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.training import TrainingWorkChain
from tests.fixtures.training import HIGHER
from tests.fixtures.water import XTB

TINY = {
    "split": {"valid": 3, "test": 3},
    "parameters": {"max_num_epochs": 2, "batch_size": 4},
    "scratch": {"num_channels": 4, "max_L": 0, "max_ell": 1, "correlation": 2, "radial_MLP": "[8]", "r_max": 3.5},
    "python": {"metadata": {"options": {"max_wallclock_seconds": 600}}},
}


@pytest.fixture
def dataset(aiida_profile, water_frames):
    return DatasetData(frames=water_frames)


@pytest.fixture
def build(python_code, dataset):
    def make(level=XTB.key, data=dataset, **kwargs):
        return TrainingWorkChain.get_builder_from_protocol(
            python_code, data, level, **{"protocol": "demo", "overrides": TINY, **kwargs}
        )

    return make


def test_dataset_is_split_and_a_foundation_is_fine_tuned(build, tiny_model, dataset):
    results, node = engine.run_get_node(build(foundation=tiny_model))
    assert node.is_finished_ok, node.exit_message
    messages = [log.message for log in orm.Log.collection.get_logs_for(node)]
    assert any("work chain completed" in message for message in messages)
    assert not [message for message in messages if "was not an output of" in message]
    sizes = {name: results[name].n_frames for name in ("train", "valid", "test")}
    assert sizes == {"train": 10, "valid": 3, "test": 3}
    hashes = [digest for name in sizes for digest in results[name].frames.content_hashes()]
    assert sorted(hashes) == sorted(dataset.frames.content_hashes())
    assert all(any(results[name].frames.pbc.all(axis=1)) for name in sizes)  # crystal and gas in every set
    passport = results["model"].passport
    assert passport.parent_sha256 == tiny_model.sha256
    assert passport.levels == {"Default": XTB.key}
    assert set(results["errors"].get_dict()) == {"valid", "test"}
    assert results["parity"].n_frames == 6
    assert results["loss_curve"].get_array("epoch")[-1] == 1


def test_a_replay_set_is_labelled_by_the_foundation_first(build, tiny_model, two_level_sets, replay_set):
    own = {"lr": 0.0, "loss": "universal", "ema": False, "ema_decay": None, "default_dtype": "float64"}
    overrides = {**TINY, "multihead-replay": own}
    builder = build(
        HIGHER.key, None, foundation=tiny_model, mode="multihead-replay", replay=replay_set, overrides=overrides
    )
    for name in ("train", "valid"):
        builder[name] = two_level_sets[name]
    results, node = engine.run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    passport = results["model"].passport
    assert passport.heads == ["pt_head", "Default"]
    assert passport.levels == {"pt_head": tiny_model.passport.levels["Default"], "Default": HIGHER.key}
    curve = results["loss_curve"]  # the head begins as the foundation, and a rate of zero leaves it there
    assert curve.get_array("pt_head_valid_rmse_forces_eV_A").max() < 1e-6
    assert curve.get_array("pt_head_valid_rmse_energy_eV_per_atom").max() < 1e-6
    assert curve.get_array("valid_rmse_forces_eV_A").min() > 1e-3
    assert results["errors"]["heads"]["pt_head"]["valid"]["forces_rmse_meV_A"] < 1e-3
    (training,) = [child for child in node.called if child.process_label == "MaceTrainCalculation"]
    assert training.inputs.replay.frames.content_hashes() == replay_set.frames.content_hashes()


def test_a_delta_model_is_trained_on_the_difference_to_its_baseline(build, tiny_model, two_level_sets, python_code):
    builder = build(HIGHER.key, None, mode="delta", baseline=tiny_model)
    for name in ("train", "valid"):
        builder[name] = two_level_sets[name]
    process = make_process(builder)
    process.setup()
    process.make_sets()
    assert process.should_predict()
    (given,) = process.ctx.to_predict.values()
    assert given["model"].uuid == builder.baseline.uuid
    frames = given["dataset"].frames
    assert len(frames) == sum(two_level_sets[name].n_frames for name in ("train", "valid"))
    level = model_level(tiny_model.sha256, "Default", "float64")
    predicted = frames.labels(HIGHER.key).energy - np.arange(len(frames))
    labels = Labels.build(level, frames.offsets, predicted, 0.5 * frames.labels(HIGHER.key).forces)
    process.ctx.predict_sets = finished(None, code=python_code, dataset=DatasetData(frames.with_labels(labels)))
    assert process.inspect_predictions() is None
    process.subtract_baseline()
    inputs = process.ctx.inputs
    assert inputs.level == f"{HIGHER.key}-minus-{level.key}"
    differences = dict(zip(frames.content_hashes(), range(len(frames)), strict=True))
    for name in ("train", "valid"):
        difference = inputs[name].frames.labels(inputs.level.value)
        assert inputs[name].frames.content_hashes() == two_level_sets[name].frames.content_hashes()
        wanted = [differences[digest] for digest in two_level_sets[name].frames.content_hashes()]
        np.testing.assert_allclose(difference.energy, wanted, atol=1e-9)
        whole = two_level_sets[name].frames.labels(HIGHER.key).forces
        np.testing.assert_allclose(difference.forces, 0.5 * whole, atol=1e-12)
        assert process.outputs[name].uuid == builder[name].uuid
    assert baseline_of(difference.level) == {"sha256": tiny_model.sha256, "head": "Default", "level": level.key}


def test_a_difference_that_was_trained_runs_with_its_baseline(build, tiny_model, two_level_sets, ipi_code, tmp_path):
    overrides = {**TINY, "delta": {"default_dtype": "float64", "loss": "universal"}}
    builder = build(HIGHER.key, None, mode="delta", baseline=tiny_model, overrides=overrides)
    for name in ("train", "valid"):
        builder[name] = two_level_sets[name]
    results, node = engine.run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    model = results["model"]
    cell = next(atoms for atoms in two_level_sets["train"].frames.to_atoms() if atoms.pbc.all())
    run = DynamicsWorkChain.get_builder_from_protocol(
        ipi_code,
        orm.StructureData(ase=cell),
        model,
        "demo",
        {"parameters": {"n_steps": 4, "stride": 2}},
        baseline=tiny_model,
    )
    outputs, node = engine.run_get_node(run)
    assert node.is_finished_ok, node.exit_message
    frames = outputs["trajectory"].frames
    (labels,) = frames.labels_by_level.values()
    parts = []
    for name, part in (("difference", model), ("baseline", tiny_model)):
        (tmp_path / name).write_bytes(part.content())
        calculator = MACECalculator(tmp_path / name, device="cpu", default_dtype="float64")
        parts.append([calculator.get_potential_energy(atoms) for atoms in frames.to_atoms()])
    np.testing.assert_allclose(labels.energy, np.sum(parts, axis=0), atol=1e-6)
    assert np.abs(parts[0]).min() > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "delta"}, "got neither"),
        ({"mode": "delta", "overrides": {**TINY, "delta": {"baseline_level": "pbe"}}}, "no labels at level 'pbe'"),
        ({"mode": "multi-level"}, "needs the input 'heads'"),
        ({"mode": "multi-level", "heads": {"lower": XTB.key}}, "on already: remove it"),
        ({"heads": {"lower": "pbe"}}, "no effect in mode 'scratch'"),
        ({"overrides": {**TINY, "split": {"valid": 1, "test": 3}}}, "validation set has 1 frames"),
    ],
)
def test_bad_modes_are_refused(changes, message, build):
    with pytest.raises(MlFinetuneError, match=message):
        build(**changes)


def test_inputs_of_other_modes_are_refused(build, tiny_model, replay_set):
    with pytest.raises(MlFinetuneError, match="needs the input 'replay'"):
        build(mode="multihead-replay", foundation=tiny_model)
    with pytest.raises(MlFinetuneError, match="'replay' has no effect in mode 'naive'"):
        build(foundation=tiny_model, replay=replay_set)
    with pytest.raises(MlFinetuneError, match="'baseline' has no effect in mode 'scratch'"):
        build(baseline=tiny_model)
    with pytest.raises(MlFinetuneError, match="got both"):
        build(mode="delta", baseline=tiny_model, overrides={**TINY, "delta": {"baseline_level": XTB.key}})


def test_frames_that_cannot_be_labelled_end_the_chain(build, tiny_model, two_level_sets, python_code):
    builder = build(HIGHER.key, None, mode="delta", baseline=tiny_model)
    for name in ("train", "valid"):
        builder[name] = two_level_sets[name]
    process = make_process(builder)
    process.setup()
    process.make_sets()
    assert process.should_predict()
    process.ctx.predict_sets = finished(MaceEvaluateCalculation.exit_codes.ERROR_NO_LABELS, code=python_code)
    code = process.inspect_predictions()
    assert code.status == TrainingWorkChain.exit_codes.ERROR_PREDICTIONS_FAILED.status
    assert "exit status 300" in code.message


def test_given_sets_are_used_as_they_are(build, water_sets):
    builder = build(data=None)
    for name, values in water_sets.items():
        setattr(builder, name, values)
    process = make_process(builder)
    process.setup()
    process.make_sets()
    assert {name: process.ctx.inputs[name].uuid for name in water_sets} == {
        name: values.uuid for name, values in water_sets.items()
    }


def make_process(builder):
    return instantiate_process(get_manager().get_runner(), builder)


def finished(exit_code, epoch=None, code=None, dataset=None):
    """Return a job that ended with ``exit_code`` after ``epoch``, or well, with ``dataset``."""

    node = orm.CalcJobNode(computer=code.computer, process_type="aiida.calculations:mlfinetune.mace_train")
    node.store()
    remote = orm.RemoteData(remote_path="/nowhere", computer=code.computer)
    remote.base.links.add_incoming(node, LinkType.CREATE, "remote_folder")
    remote.store()
    if epoch is not None:
        curve = orm.ArrayData()
        curve.set_array("epoch", np.arange(-1, epoch + 1))
        curve.base.links.add_incoming(node, LinkType.CREATE, "loss_curve")
        curve.store()
    if dataset is not None:
        dataset.base.links.add_incoming(node, LinkType.CREATE, "dataset")
        dataset.store()
    node.set_process_state(ProcessState.FINISHED)
    node.set_exit_status(0 if exit_code is None else exit_code.status)
    return node


def test_stopped_trainings_are_resumed_as_long_as_they_get_further(build, python_code):
    codes = MaceTrainCalculation.exit_codes
    process = make_process(build())
    process.setup()
    process.make_sets()

    def inspect(node):
        process.ctx.children = [node]
        process.ctx.iteration = 1
        return process.inspect_process()

    first = finished(codes.ERROR_OUT_OF_WALLTIME, 5, python_code)
    assert inspect(first).status == 0
    assert process.ctx.inputs.parent_folder.uuid == first.outputs.remote_folder.uuid
    assert not process.ctx.is_finished
    second = finished(codes.ERROR_INTERRUPTED, 9, python_code)
    assert inspect(second).status == 0
    assert process.ctx.inputs.parent_folder.uuid == second.outputs.remote_folder.uuid
    stuck = inspect(finished(codes.ERROR_OUT_OF_WALLTIME, 9, python_code))
    assert stuck.status == TrainingWorkChain.exit_codes.ERROR_NO_PROGRESS.status


@pytest.mark.parametrize(
    ("name", "end"),
    [("ERROR_NO_MODEL", "ERROR_UNHANDLED_FAILURE"), ("ERROR_INTERRUPTED", "ERROR_NO_PROGRESS")],
)
def test_a_training_that_was_killed_before_its_first_epoch_is_made_once_more(inspect, python_code, name, end):
    code = MaceTrainCalculation.exit_codes[name]
    assert inspect(finished(code, code=python_code)).status == 0
    assert "parent_folder" not in inspect.process.ctx.inputs
    assert inspect.process.ctx.inputs.metadata.disable_cache  # else the killed job would be the answer
    assert not inspect.process.ctx.is_finished
    assert inspect(finished(code, code=python_code)).status == TrainingWorkChain.exit_codes[end].status


@pytest.mark.parametrize(("progress", "epoch"), [('{"epoch": 4}', 4), ('{"epoch": null}', -1), ('{"epo', -1)])
def test_a_killed_training_goes_on_by_what_it_last_said(inspect, python_code, progress, epoch):
    killed = finished(MaceTrainCalculation.exit_codes.ERROR_INTERRUPTED, code=python_code)
    retrieved = orm.FolderData()
    retrieved.base.repository.put_object_from_bytes(progress.encode(), "progress.json")
    retrieved.base.links.add_incoming(killed, LinkType.CREATE, "retrieved")
    retrieved.store()
    assert inspect(killed).status == 0
    context = inspect.process.ctx
    assert context.get("last_epoch", -1) == epoch
    assert ("parent_folder" in context.inputs) == ("lost" not in context) == (epoch >= 0)


@pytest.fixture
def inspect(build):
    """Return a function that hands the chain a training that ended, and returns what it makes of it, and the chain."""
    process = make_process(build())
    process.setup()
    process.make_sets()

    def after(node):
        process.ctx.children = [node]
        process.ctx.iteration = 1
        return process.inspect_process()

    after.process = process
    return after


@pytest.mark.parametrize("name", ["ERROR_LOSS_NAN", "ERROR_LOSS_EXPLODED"])
def test_a_training_that_diverges_is_made_again_at_a_lower_rate(name, inspect, python_code):
    code, inputs = MaceTrainCalculation.exit_codes[name], inspect.process.ctx.inputs
    rate, start = inputs.parameters["lr"], inputs.parameters
    inputs.parent_folder = orm.RemoteData(remote_path="/nowhere", computer=python_code.computer)
    for factor in (0.3, 0.09):
        assert inspect(finished(code, 3, python_code)).status == 0
        assert inputs.parameters["lr"] == pytest.approx(factor * rate)
        assert inputs.parameters.get_dict() == {**start.get_dict(), "lr": inputs.parameters["lr"]}
        assert "parent_folder" not in inputs
    last = inspect(finished(code, 3, python_code))
    assert last.status == TrainingWorkChain.exit_codes.ERROR_STILL_DIVERGES.status
    assert str(pytest.approx(rate)).split(" ")[0] in last.message


def test_a_training_short_of_memory_is_made_again_with_smaller_batches(inspect, python_code):
    code, inputs = MaceTrainCalculation.exit_codes.ERROR_OUT_OF_MEMORY, inspect.process.ctx.inputs
    sizes = []
    for _ in range(4):
        assert inspect(finished(code, None, python_code)).status == 0
        sizes.append((inputs.parameters["batch_size"], inputs.parameters["valid_batch_size"]))
    assert sizes == [(2, 8), (1, 4), (1, 2), (1, 1)]
    last = inspect(finished(code, None, python_code))
    assert last.status == TrainingWorkChain.exit_codes.ERROR_STILL_OUT_OF_MEMORY.status


@pytest.mark.parametrize("name", ["ERROR_TRAINING_MISMATCH", "ERROR_RESTART_FAILED", "ERROR_E0_MISMATCH"])
def test_hopeless_trainings_are_not_repeated(name, build, python_code):
    process = make_process(build())
    process.setup()
    process.make_sets()
    process.ctx.children = [finished(MaceTrainCalculation.exit_codes[name], 1, python_code)]
    process.ctx.iteration = 1
    assert process.inspect_process().status == TrainingWorkChain.exit_codes.ERROR_UNHANDLED_FAILURE.status


@pytest.mark.parametrize("protocol", ["demo", "fast", "balanced", "kaur2025"])
@pytest.mark.parametrize("mode", list(TrainingMode))
def test_every_protocol_makes_valid_inputs(protocol, mode, build, tiny_model):
    builder = build(
        data=None,
        protocol=protocol,
        overrides={},
        mode=mode,
        foundation=tiny_model if mode.needs_foundation else None,
        heads={"lower": "pbe"} if mode in (TrainingMode.MULTI_LEVEL, TrainingMode.MULTI_FIDELITY) else None,
    )
    make_process(builder)
    assert builder.parameters["mode"] == mode
    assert "seed" in builder.parameters.get_dict()


def test_kaur2025_is_the_published_training(build, tiny_model):
    scratch = build(data=None, protocol="kaur2025", overrides={})
    network = {
        "num_interactions": 2,
        "max_ell": 3,
        "correlation": 3,
        "num_channels": 128,
        "max_L": 2,
        "r_max": 6.0,
        "num_radial_basis": 8,
        "radial_MLP": "[64, 64, 64]",
    }
    recipe = {
        "loss": "stress",
        "energy_weight": 10000.0,
        "forces_weight": 550.0,
        "batch_size": 2,
        "max_num_epochs": 2000,
        "swa": True,
        "start_swa": 1000,
        "swa_lr": 2.5e-4,
        "swa_energy_weight": 10000.0,
        "swa_forces_weight": 550.0,
        "swa_stress_weight": 5.0,
        "ema": True,
        "ema_decay": 0.99,
        "default_dtype": "float32",
    }
    parameters = scratch.parameters.get_dict()
    assert {**parameters, **network, **recipe, "scaling": "rms_forces_scaling", "gate": "silu"} == parameters
    assert scratch.split["valid"] == 100
    naive = build(data=None, protocol="kaur2025", overrides={}, foundation=tiny_model).parameters.get_dict()
    assert {**naive, **recipe} == naive
    assert not set(network) & set(naive)


def test_overrides_come_last_and_null_removes(build):
    overrides = {"parameters": {"lr": 0.5, "patience": None}, "scratch": {"num_channels": 6}}
    parameters = build(overrides=overrides).parameters.get_dict()
    assert (parameters["lr"], parameters["num_channels"]) == (0.5, 6)
    assert "patience" not in parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "dft"}, "no labels at level 'dft'"),
        ({"mode": "naive"}, "give the input 'foundation'"),
        ({"protocol": "quick"}, "unknown protocol 'quick'"),
        ({"overrides": {"parameter": {}}}, "unknown input 'parameter'"),
        ({"overrides": {"parameters": {"learning_rate": 1}}}, "unknown parameter 'learning_rate'"),
        ({"overrides": {"split": {"valid": 20}}}, "fractions, not both|leaves no frame|the split wants"),
        ({"overrides": {"split": {"vaild": 1}}}, "'vaild'"),
        ({"overrides": {"split": {"valid": 0, "test": 0}}}, "validation set is empty"),
        ({"overrides": {"e0s": {"source": "guess"}}}, "'source' of the reference energies"),
        ({"options": {"max_walltime": 3}}, "max_walltime|unknown|Unexpected"),
    ],
)
def test_bad_builders_are_refused(changes, message, build):
    with pytest.raises((MlFinetuneError, ValueError), match=message):
        build(**changes)


def test_foundation_in_mode_scratch_is_refused(build, tiny_model):
    with pytest.raises(MlFinetuneError, match="remove the input 'foundation'"):
        build(mode="scratch", foundation=tiny_model)


def test_sets_that_overlap_or_are_given_twice_are_refused(build, water_sets, dataset):
    builder = build(data=None)
    builder.train = water_sets["train"]
    with pytest.raises(ValueError, match="both needed"):
        make_process(builder)
    builder.valid = DatasetData(frames=water_sets["train"].frames.select([0, 1]))
    with pytest.raises(ValueError, match="2 of the validation frames are training frames"):
        make_process(builder)
    builder.valid = water_sets["valid"]
    builder.dataset = dataset
    with pytest.raises(ValueError, match="give either"):
        make_process(builder)


def test_misspelt_inputs_are_refused(build):
    builder = build()
    with pytest.raises(AttributeError):
        builder.python.foundations = 3
    with pytest.raises(StudyError):
        build(overrides={"python": {"cod": None}})
