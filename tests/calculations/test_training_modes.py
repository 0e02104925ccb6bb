"""Every training mode, trained for real on tiny models: what makes it that mode is in the saved file."""

import json

import numpy as np
import pytest
from aiida import orm

from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.mace_train import MaceTrainParser
from aiida_mlfinetune.science.datasets.comparison import subtract_levels
from aiida_mlfinetune.science.datasets.frames import write_geometry
from aiida_mlfinetune.science.models.levels import model_level_key
from aiida_mlfinetune.science.training.heads import split_replay
from tests.fixtures.models import TINY_E0S, make_tiny_model
from tests.fixtures.training import HIGHER, TINY_NETWORK, XTB, changed_labels

EXIT = MaceTrainCalculation.exit_codes
COMMON = {"seed": 1, "max_num_epochs": 2, "batch_size": 4, "loss": "universal", "lr": 1e-3}


@pytest.fixture
def train(prepare_job, run_program, make_training):
    """Return a function that trains, and gives the outputs of a run that ended well, and its folder."""

    def run(sets, level, parameters, name="job", **inputs):
        job = prepare_job(make_training(sets, level, {**COMMON, **parameters}, **inputs), name=name)
        assert run_program(job) == 0, (job.folder / "status.json").read_text()
        outputs, code = job.parse(MaceTrainParser)
        assert code is None, code
        return outputs, job.folder

    return run


def load(content_or_path, tmp_path):
    """Return the state of a model as arrays by name."""
    import mace  # noqa: F401 - first, as it makes torch read the tables of e3nn
    import torch

    path = tmp_path / "loaded.model"
    path.write_bytes(content_or_path)
    model = torch.load(path, map_location="cpu", weights_only=False)
    return {name: values.detach().double().numpy() for name, values in model.state_dict().items()}


def inputs_of(mode, two_level_sets, replay_set, tiny_model):
    """Return sets, level, parameters and further inputs of a training in ``mode``."""
    if mode == "delta":
        sets = {
            name: DatasetData(subtract_levels(dataset.frames, HIGHER.key, XTB.key))
            for name, dataset in two_level_sets.items()
        }
        (level,) = sets["train"].levels
        return sets, level, {**TINY_NETWORK, "baseline_level": XTB.key}, {}
    if mode == "multihead-replay":
        inputs = {"replay": replay_set, "foundation": tiny_model}
        return two_level_sets, HIGHER.key, {"replay_level": XTB.key, "replay_valid": 0.25}, inputs
    if mode == "multi-fidelity":
        return two_level_sets, HIGHER.key, TINY_NETWORK, {"heads": orm.Dict({"lower": XTB.key})}
    return two_level_sets, HIGHER.key, {}, {"foundation": tiny_model}


@pytest.mark.parametrize("mode", ["naive", "multihead-replay", "delta", "multi-fidelity"])
def test_energies_only_weighs_no_forces_anywhere(mode, train, two_level_sets, replay_set, tiny_model):
    sets, level, parameters, inputs = inputs_of(mode, two_level_sets, replay_set, tiny_model)
    only = {"mode": mode, "loss": "weighted", "forces_weight": 0.0, "max_num_epochs": 1}
    if "num_channels" in parameters:
        only["scaling"] = "std_scaling"
    outputs, folder = train(sets, level, {**parameters, **only}, **inputs)
    record = json.loads((folder / "trained.json").read_text())
    assert record["loss"] == {"class": "WeightedEnergyForcesLoss", "energy_weight": 1.0, "forces_weight": 0.0}
    counts = [count for heads in record["sets"].values() for count in heads.values()]
    assert [count["energy"] for count in counts] == [count["n"] for count in counts]
    assert {count[name] for count in counts for name in ("forces", "stress")} == {0}
    assert "REF_forces" not in "".join(path.read_text() for path in folder.glob("*.xyz"))
    curve = outputs["loss_curve"]
    assert np.isnan(curve.get_array("valid_rmse_forces_eV_A")).all()
    assert outputs["errors"]["test"]["forces_rmse_meV_A"] > 0  # what was not trained is judged all the same
    assert outputs["model"].passport.settings["trained"] == record


def test_multihead_replay_keeps_the_foundations_head(train, two_level_sets, replay_set, tiny_model):
    sets, level, parameters, inputs = inputs_of("multihead-replay", two_level_sets, replay_set, tiny_model)
    outputs, folder = train(sets, level, {**parameters, "mode": "multihead-replay"}, **inputs)
    passport = outputs["model"].passport
    assert passport.heads == ["pt_head", "Default"]
    assert passport.levels == {"pt_head": XTB.key, "Default": HIGHER.key}
    assert passport.e0s["pt_head"] == pytest.approx({e: TINY_E0S[e] for e in ("H", "O")}, rel=1e-12)
    assert passport.e0s["Default"] == pytest.approx(outputs["e0s"]["values"], rel=1e-12)
    assert passport.e0s["Default"] != passport.e0s["pt_head"]
    assert set(passport.errors) == {"pt_head", "Default"}
    assert set(outputs["errors"]["heads"]) == {"pt_head"}
    assert outputs["errors"]["heads"]["pt_head"]["valid"]["n_frames"] == 3
    record = json.loads((folder / "trained.json").read_text())
    assert record["sets"]["train"] == {
        "pt_head": {"n": 9, "energy": 9, "forces": 9, "stress": 7},
        "Default": {"n": 10, "energy": 10, "forces": 10, "stress": 8},
    }
    assert record["lr"]["products"] == pytest.approx(1e-3)  # MACE would have taken 1e-4
    assert record["ema_decay"] is None
    curve = outputs["loss_curve"]
    assert curve.get_array("epoch").tolist() == [-1, 0, 1]
    assert np.isfinite(curve.get_array("pt_head_valid_loss")).all()
    assert np.isfinite(curve.get_array("pt_head_valid_rmse_forces_eV_A")).all()


def test_further_heads_have_their_own_frames_and_reference_energies(train, two_level_sets):
    sets = {**two_level_sets}
    frames = sets["train"].frames
    energy = frames.labels(HIGHER.key).energy.copy()
    energy[[0, 2, 9]] = np.nan
    forces = frames.labels(HIGHER.key).forces.copy()
    forces[np.repeat(np.isnan(energy), frames.n_atoms)] = np.nan
    stress = np.where(np.isnan(energy)[:, None, None], np.nan, frames.labels(HIGHER.key).stress)
    sets["train"] = DatasetData(changed_labels(frames, HIGHER.key, energy=energy, forces=forces, stress=stress))
    outputs, folder = train(
        sets, HIGHER.key, {**TINY_NETWORK, "mode": "multi-fidelity"}, heads=orm.Dict({"lower": XTB.key})
    )
    passport = outputs["model"].passport
    assert passport.heads == ["lower", "Default"]
    assert passport.levels == {"lower": XTB.key, "Default": HIGHER.key}
    assert passport.parent_sha256 is None
    record = json.loads((folder / "trained.json").read_text())
    assert {head: counts["n"] for head, counts in record["sets"]["train"].items()} == {"lower": 10, "Default": 7}
    found = outputs["e0s"].get_dict()
    assert passport.e0s["lower"] == pytest.approx(found["heads"]["lower"]["values"], rel=1e-12)
    assert passport.e0s["Default"] == pytest.approx(found["values"], rel=1e-12)
    assert abs(passport.e0s["lower"]["O"] - passport.e0s["Default"]["O"]) > 0.1
    assert set(outputs["errors"]["heads"]["lower"]) == {"valid", "test"}


def test_multi_level_from_a_foundation_starts_every_head_at_it(train, two_level_sets, tiny_model, tmp_path):
    given = {"source": "foundation", "heads": {"lower": {"source": "given", "values": {"H": -11.0, "O": -103.0}}}}
    outputs, _ = train(
        two_level_sets,
        HIGHER.key,
        {"mode": "multi-level", "lr": 0.0, "max_num_epochs": 1},
        heads=orm.Dict({"lower": XTB.key}),
        foundation=tiny_model,
        e0s=orm.Dict(given),
    )
    passport = outputs["model"].passport
    assert passport.e0s["lower"] == {"H": -11.0, "O": -103.0}
    assert passport.e0s["Default"] == pytest.approx({e: TINY_E0S[e] for e in ("H", "O")}, rel=1e-12)
    before, after = load(tiny_model.content(), tmp_path), load(outputs["model"].content(), tmp_path)
    shared = [name for name in before if name.startswith(("node_embedding", "interactions", "products"))]
    assert shared
    for name in shared:
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(("freeze", "frozen"), [(None, False), (6, True)])
def test_transfer_changes_or_freezes_the_descriptors(freeze, frozen, train, two_level_sets, tiny_model, tmp_path):
    parameters = {"mode": "transfer", "lr": 1e-2, "max_num_epochs": 1} | ({} if freeze is None else {"freeze": freeze})
    outputs, _ = train(two_level_sets, HIGHER.key, parameters, foundation=tiny_model)
    assert outputs["model"].passport.parent_sha256 == tiny_model.sha256
    before, after = load(tiny_model.content(), tmp_path), load(outputs["model"].content(), tmp_path)

    def changed(prefix):
        weights = [name for name in before if name.startswith(prefix) and name.endswith(("weight", "weights_max"))]
        assert weights
        return [name for name in weights if not np.array_equal(after[name], before[name])]

    assert bool(changed("interactions")) is not frozen
    assert bool(changed("products")) is not frozen
    assert changed("readouts")


def test_delta_records_what_it_is_added_to(train, two_level_sets, replay_set, tiny_model):
    sets, level, parameters, _ = inputs_of("delta", two_level_sets, replay_set, tiny_model)
    outputs, _ = train(sets, level, {**parameters, "mode": "delta"})
    passport = outputs["model"].passport
    assert passport.levels == {"Default": f"{HIGHER.key}-minus-{XTB.key}"}
    assert passport.settings["baseline"] == {"level": XTB.key, "sha256": None, "head": None}


def test_lora_trains_few_weights_and_is_merged_in_the_end(train, two_level_sets, tiny_model, tmp_path):
    outputs, folder = train(
        two_level_sets,
        HIGHER.key,
        {"mode": "naive", "lora": True, "lora_rank": 2, "max_num_epochs": 1},
        foundation=tiny_model,
    )
    record = json.loads((folder / "trained.json").read_text())
    assert record["lora"]
    assert record["n_trained"] < record["n_weights"]
    before, after = load(tiny_model.content(), tmp_path), load(outputs["model"].content(), tmp_path)
    assert {name: values.shape for name, values in after.items()} == {
        name: values.shape for name, values in before.items()
    }
    assert [name for name in before if "linear" in name and not np.array_equal(after[name], before[name])]


def test_shifted_labels_start_where_unshifted_ones_do(train, two_level_sets, tiny_model):
    """Reference energies that absorb a constant leave the first validation error where it was (within 5 %)."""
    shift = {1: -200.0, 8: -1500.0}
    starts = []
    for name, scale in (("plain", 0.0), ("shifted", 1.0)):
        sets = {}
        for key, dataset in two_level_sets.items():
            frames = dataset.frames
            constant = np.add.reduceat([scale * shift[int(z)] for z in frames.numbers], frames.offsets[:-1])
            sets[key] = DatasetData(
                changed_labels(frames, HIGHER.key, energy=frames.labels(HIGHER.key).energy + constant)
            )
        outputs, _ = train(sets, HIGHER.key, {"mode": "naive", "max_num_epochs": 1}, name=name, foundation=tiny_model)
        starts.append(outputs["loss_curve"].get_array("valid_rmse_energy_eV_per_atom")[0])
    assert starts[1] == pytest.approx(starts[0], rel=0.05)
    assert starts[0] < 1.0


def test_a_training_of_something_else_is_an_error(prepare_job, run_program, make_training, two_level_sets, tiny_model):
    parameters = {**COMMON, "mode": "naive", "max_num_epochs": 1}
    job = prepare_job(make_training(two_level_sets, HIGHER.key, parameters, foundation=tiny_model))
    assert run_program(job) == 0
    path = job.folder / "trained.json"
    record = json.loads(path.read_text())
    record["lr"]["products"] = 1e-4
    record["sets"]["train"]["Default"]["forces"] = 3
    record["loss"]["class"] = "WeightedEnergyForcesLoss"
    path.write_text(json.dumps(record))
    outputs, code = job.parse(MaceTrainParser)
    assert code.status == EXIT.ERROR_TRAINING_MISMATCH.status
    assert "lr.products: 0.001 asked for, 0.0001 done" in code.message
    assert "sets.train.Default.forces: 10 asked for, 3 done" in code.message
    assert "loss.class: 'UniversalLoss' asked for" in code.message
    assert "model" in outputs


def test_pseudolabels_are_those_of_the_foundation(two_level_sets, replay_set, tiny_model, make_training):
    from aiida.engine.utils import instantiate_process
    from aiida.manage import get_manager

    builder = make_training(
        two_level_sets,
        HIGHER.key,
        {**COMMON, "mode": "multihead-replay"},
        foundation=tiny_model,
        replay=replay_set,
    )
    with pytest.raises(ValueError, match=f"no labels at level '{model_level_key(tiny_model.sha256)}'"):
        instantiate_process(get_manager().get_runner(), builder)


def predict_forces(content, frames, head, tmp_path):
    """Return the forces (N, 3) in eV/A that a head of a model predicts."""
    from aiida_mlfinetune.programs.mace_evaluate import load_model, predict, read_frames

    path = tmp_path / "predicting.model"
    path.write_bytes(content)
    write_geometry(tmp_path / "frames.npz", frames)
    return predict(load_model(path), read_frames(tmp_path / "frames.npz"), head)["forces"]


def test_the_head_of_a_foundation_with_several_is_taken_whole(
    train, two_level_sets, tmp_path, make_model_data, aiida_profile
):
    path = make_tiny_model(tmp_path / "two.model", ("H", "O"), heads=("a", "b"), seed=3)
    foundation = make_model_data(path)
    parameters = {"mode": "naive", "foundation_head": "b", "lr": 0.0, "max_num_epochs": 1}
    outputs, _ = train(
        two_level_sets, HIGHER.key, parameters, foundation=foundation, e0s=orm.Dict({"source": "foundation"})
    )
    frames = two_level_sets["valid"].frames
    forces = predict_forces(outputs["model"].content(), frames, "Default", tmp_path)
    np.testing.assert_allclose(forces, predict_forces(foundation.content(), frames, "b", tmp_path), atol=1e-10)
    assert np.abs(forces - predict_forces(foundation.content(), frames, "a", tmp_path)).max() > 1e-3


FORGOTTEN = 1.5
"""Ratio of force errors, after and before fine-tuning, on frames of the foundation's own level."""


def test_replay_bounds_what_naive_fine_tuning_forgets(train, two_level_sets, replay_set, tmp_path):
    """The new level is far from the old one: its forces are half as large again."""
    frames = replay_set.frames
    train_part, valid_part = split_replay(len(frames), 0.25, 0)
    known = {"train": DatasetData(frames.select(train_part)), "valid": DatasetData(frames.select(valid_part))}
    epochs = {"max_num_epochs": 30, "batch_size": 3, "lr": 0.02}
    foundation = train(known, XTB.key, {**TINY_NETWORK, **epochs, "mode": "scratch"}, name="foundation")[0]["model"]
    sets = {}
    for name, dataset in two_level_sets.items():
        old = dataset.frames.labels(XTB.key)
        sets[name] = DatasetData(changed_labels(dataset.frames, HIGHER.key, energy=old.energy, forces=1.5 * old.forces))
    naive = train(sets, HIGHER.key, {**epochs, "mode": "naive"}, name="naive", foundation=foundation)[0]["model"]
    replayed, _ = train(
        sets,
        HIGHER.key,
        {**epochs, "mode": "multihead-replay", "replay_level": XTB.key, "replay_valid": 0.25},
        name="replay",
        foundation=foundation,
        replay=replay_set,
    )
    judged = frames.select(valid_part)

    def error(model, head):
        forces = predict_forces(model.content(), judged, head, tmp_path)
        return np.sqrt(np.mean((forces - judged.labels(XTB.key).forces) ** 2))

    before = error(foundation, "Default")
    kept = replayed["errors"]["heads"]["pt_head"]["valid"]["forces_rmse_meV_A"] / 1e3
    assert kept == pytest.approx(error(replayed["model"], "pt_head"), rel=1e-6)
    assert kept / before < FORGOTTEN < error(naive, "Default") / before, (before, kept, error(naive, "Default"))
