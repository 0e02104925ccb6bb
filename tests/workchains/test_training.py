import pytest
from aiida import engine, orm
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from plumpy.process_states import ProcessState

from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation
from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.workchains.training import TrainingWorkChain
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


def finished(exit_code, epoch=None, code=None):
    """Return a training that ended with ``exit_code`` after ``epoch``."""
    import numpy as np
    from aiida.common.links import LinkType

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
    node.set_process_state(ProcessState.FINISHED)
    node.set_exit_status(exit_code.status)
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


@pytest.mark.parametrize("name", ["ERROR_LOSS_NAN", "ERROR_RESTART_FAILED", "ERROR_E0_MISMATCH"])
def test_hopeless_trainings_are_not_repeated(name, build, python_code):
    process = make_process(build())
    process.setup()
    process.make_sets()
    process.ctx.children = [finished(MaceTrainCalculation.exit_codes[name], 1, python_code)]
    process.ctx.iteration = 1
    assert process.inspect_process().status == TrainingWorkChain.exit_codes.ERROR_UNHANDLED_FAILURE.status


@pytest.mark.parametrize("protocol", ["demo", "fast", "balanced", "kaur2025"])
@pytest.mark.parametrize("mode", ["scratch", "naive"])
def test_every_protocol_makes_valid_inputs(protocol, mode, build, tiny_model):
    builder = build(
        data=None, protocol=protocol, overrides={}, mode=mode, foundation=tiny_model if mode == "naive" else None
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
