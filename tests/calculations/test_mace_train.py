import importlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from aiida import engine, orm

from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation, _usable_seconds
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.mace_train import MaceTrainParser
from aiida_mlfinetune.science.datasets.levels import Labels
from tests.fixtures.jobs import PROGRAMS
from tests.fixtures.models import TINY_E0S, make_tiny_model
from tests.fixtures.water import XTB

TINY_NETWORK = {
    "num_channels": 4,
    "max_L": 0,
    "max_ell": 1,
    "correlation": 2,
    "num_radial_basis": 4,
    "radial_MLP": "[8]",
    "r_max": 3.5,
}
SCRATCH = {"mode": "scratch", "seed": 1, "max_num_epochs": 3, "batch_size": 4, "loss": "stress", **TINY_NETWORK}
NAIVE = {"mode": "naive", "seed": 1, "max_num_epochs": 2, "batch_size": 4, "loss": "universal", "lr": 1e-3}
EXIT = MaceTrainCalculation.exit_codes
GIVEN = {"source": "given", "values": {"H": -13.5, "O": -432.123456789}}


def make_builder(code, sets, parameters, **inputs):
    builder = MaceTrainCalculation.get_builder()
    builder.code = code
    builder.level = orm.Str(XTB.key)
    builder.parameters = orm.Dict(parameters)
    for name, value in {**sets, **inputs}.items():
        setattr(builder, name, value)
    return builder


def train(*args, **inputs):
    return engine.run_get_node(make_builder(*args, **inputs))


def test_scratch_training_gives_model_curve_errors_and_parity(python_code, water_sets):
    outputs, node = train(python_code, water_sets, {**SCRATCH, "molecule": "H2O"})
    assert node.is_finished_ok, node.exit_message
    passport = outputs["model"].passport
    assert passport.levels == {"Default": XTB.key}
    assert passport.seeds == [1]
    assert passport.settings["trained"]["fused"] == {"convolutions": 2, "contractions": 2}
    curve = outputs["loss_curve"]
    assert curve.get_array("epoch").tolist() == [-1, 0, 1, 2]
    assert np.isfinite(curve.get_array("train_loss")[1:]).all()
    assert np.isfinite(curve.get_array("valid_rmse_stress_eV_A3")).all()
    errors = outputs["errors"].get_dict()
    assert set(errors) == {"valid", "test"}
    assert set(errors["test"]["forces_by_element"]) == {"H", "O"}
    assert errors["test"]["molecule"] == "H2O"
    parity = outputs["parity"].frames
    assert len(parity) == 6
    predicted = parity.labels(f"{passport.sha256[:8]}/mace")
    assert predicted.has_stress.tolist() == [True, True, False, True, True, False]
    difference = (predicted.energy - parity.labels(XTB.key).energy)[3:] / parity.n_atoms[3:]
    assert np.sqrt(np.mean(difference**2)) * 1e3 == pytest.approx(errors["test"]["energy_rmse_meV_per_atom"])


@pytest.mark.parametrize(
    ("mode", "foundation_name", "e0s"),
    [
        ("scratch", None, GIVEN),
        ("scratch", None, {"source": "estimated"}),
        pytest.param("naive", "tiny_model", GIVEN, marks=pytest.mark.long),
        pytest.param("naive", "tiny_model", {"source": "foundation"}, marks=pytest.mark.long),
        pytest.param("naive", "tiny_model", {"source": "estimated"}, marks=pytest.mark.long),
        ("naive", "tiny_chno_model", GIVEN),
        ("naive", "tiny_chno_model", {"source": "foundation"}),
        ("naive", "tiny_chno_model", {"source": "estimated"}),
    ],
)
def test_saved_reference_energies_are_those_asked_for(
    mode, foundation_name, e0s, python_code, water_sets, prepare_job, run_program, request
):
    foundation = request.getfixturevalue(foundation_name) if foundation_name else None
    inputs = {"foundation": foundation} if foundation else {}
    parameters = {**(NAIVE if mode == "naive" else SCRATCH), "max_num_epochs": 1}
    job = prepare_job(make_builder(python_code, water_sets, parameters, e0s=orm.Dict(e0s), **inputs))
    assert run_program(job) == 0
    outputs, code = job.parse(MaceTrainParser)
    assert code is None, code
    stored = outputs["model"].passport.e0s["Default"]
    assert outputs["model"].passport.elements == ["H", "O"]
    assert stored == pytest.approx(outputs["e0s"]["values"], rel=1e-12)
    if e0s["source"] == "given":
        assert stored == pytest.approx(e0s["values"], rel=1e-12)
    if e0s["source"] == "foundation":
        assert stored == pytest.approx({e: TINY_E0S[e] for e in ("H", "O")}, rel=1e-12)
    if e0s["source"] == "estimated":
        assert "determine 1 of 2 combinations" in outputs["e0s"]["determined"]
    if mode == "naive":
        assert outputs["model"].passport.parent_sha256 == foundation.sha256
    if mode == "naive" and e0s["source"] == "estimated":
        found = outputs["e0s"].get_dict()
        assert found["rank"] == 1
        assert found["rmse_after_eV_per_atom"] < found["rmse_before_eV_per_atom"]
        assert found["shift"]["H"] == pytest.approx(2 * found["shift"]["O"])
        first = outputs["loss_curve"].get_array("valid_rmse_energy_eV_per_atom")[0]
        assert first < 2 * found["rmse_after_eV_per_atom"] + 0.02


@pytest.fixture
def clock(monkeypatch):
    """Return a function that makes every epoch seem to take so many seconds."""
    import mace.tools

    def set_epoch(seconds):
        now = [0.0]
        supervised = importlib.import_module("mace.tools.train")
        train_one_epoch = supervised.train_one_epoch

        def slow_epoch(**kwargs):
            train_one_epoch(**kwargs)
            now[0] += seconds

        monkeypatch.syspath_prepend(str(PROGRAMS))
        monkeypatch.setattr(supervised, "train_one_epoch", slow_epoch)
        monkeypatch.setattr(importlib.import_module("mace_train"), "time", SimpleNamespace(monotonic=lambda: now[0]))

    assert mace.tools
    return set_epoch


def test_interrupted_and_resumed_training_equals_an_uninterrupted_one(
    python_code, water_sets, prepare_job, run_program, clock
):
    parameters = {**SCRATCH, "max_num_epochs": 6, "ema": True, "swa": True, "start_swa": 4, "swa_lr": 1e-3}
    builder = make_builder(python_code, water_sets, parameters)
    whole = prepare_job(builder, name="whole")
    assert run_program(whole) == 0
    expected, code = whole.parse(MaceTrainParser)
    assert code is None, code

    clock(10)
    builder.metadata.options.max_wallclock_seconds = 85  # of which 55 may be used: an epoch must fit in three times
    first = prepare_job(builder, name="first")
    assert run_program(first) == 1
    partial, code = first.parse(MaceTrainParser)
    assert code.status == EXIT.ERROR_OUT_OF_WALLTIME.status
    assert partial["loss_curve"].get_array("epoch").tolist() == [-1, 0, 1, 2]
    assert "model" not in partial

    builder.parent_folder = orm.RemoteData(remote_path=str(first.folder), computer=python_code.computer).store()
    builder.metadata.options.max_wallclock_seconds = 850
    second = prepare_job(builder, name="second")
    assert run_program(second) == 0
    outputs, code = second.parse(MaceTrainParser)
    assert code is None, code
    for name in ("epoch", "train_loss", "valid_loss"):
        np.testing.assert_allclose(
            outputs["loss_curve"].get_array(name), expected["loss_curve"].get_array(name), rtol=1e-12
        )
    assert outputs["errors"].get_dict() == expected["errors"].get_dict()


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_restart_never_starts_from_nothing(damage, python_code, water_sets, prepare_job, run_program, tmp_path):
    parent = tmp_path / "parent"
    parent.mkdir()
    if damage == "cut":
        (parent / "restart.pt").write_bytes(b"PK cut short")
    if damage == "other":
        import torch

        torch.save({"fingerprint": "of another training"}, parent / "restart.pt")
    remote = orm.RemoteData(remote_path=str(parent), computer=python_code.computer).store()
    job = prepare_job(make_builder(python_code, water_sets, SCRATCH, parent_folder=remote))
    assert run_program(job) == 1
    outputs, code = job.parse(MaceTrainParser)
    assert code.status == EXIT.ERROR_RESTART_FAILED.status
    assert "model" not in outputs


@pytest.mark.parametrize(("rate", "expected"), [(1e200, "ERROR_LOSS_NAN"), (10.0, "ERROR_LOSS_EXPLODED")])
def test_a_training_that_diverges_is_stopped(rate, expected, python_code, water_sets, prepare_job, run_program):
    job = prepare_job(make_builder(python_code, water_sets, {**SCRATCH, "max_num_epochs": 50, "lr": rate}))
    assert run_program(job) == 1
    outputs, code = job.parse(MaceTrainParser)
    assert code.status == EXIT[expected].status
    assert outputs["loss_curve"].get_array("epoch")[-1] < 49


def test_patience_ends_the_training_early(python_code, water_sets, prepare_job, run_program):
    parameters = {**SCRATCH, "max_num_epochs": 40, "lr": 0.0, "patience": 3}
    job = prepare_job(make_builder(python_code, water_sets, parameters))
    assert run_program(job) == 0
    outputs, code = job.parse(MaceTrainParser)
    assert code is None
    assert outputs["loss_curve"].get_array("epoch").tolist() == [-1, 0, 1, 2, 3]


def test_energies_only_training(python_code, water_sets, prepare_job, run_program):
    sets = {}
    for name, dataset in water_sets.items():
        labels = dataset.frames.labels(XTB.key)
        frames = dataset.frames.without_level(XTB.key)
        sets[name] = DatasetData(frames=frames.with_labels(Labels.build(XTB, frames.offsets, labels.energy)))
    parameters = {**SCRATCH, "loss": "weighted", "forces_weight": 0.0, "scaling": "std_scaling", "max_num_epochs": 1}
    job = prepare_job(make_builder(python_code, sets, parameters))
    assert run_program(job) == 0
    outputs, code = job.parse(MaceTrainParser)
    assert code is None, code
    assert outputs["errors"]["test"]["n_forces"] == 0
    assert outputs["errors"]["test"]["energy_rmse_meV_per_atom"] > 0


@pytest.mark.parametrize(
    ("files", "expected", "words"),
    [
        ({}, "ERROR_NO_MODEL", ""),
        ({"progress.json": "{}"}, "ERROR_INTERRUPTED", ""),
        ({"status.json": '{"status": "out_of_time"}'}, "ERROR_OUT_OF_WALLTIME", ""),
        ({"status.json": '{"status": "out_of_memory", "message": "so it goes"}'}, "ERROR_OUT_OF_MEMORY", "so it goes"),
        ({"status.json": '{"status": "failed", "message": "so it goes"}'}, "ERROR_MACE_FAILED", "so it goes"),
        ({"status.json": '{"status": "finished"}'}, "ERROR_OUTPUT_INCOMPLETE", "missing"),
        ({"status.json": '{"status": "fini'}, "ERROR_NO_MODEL", ""),
    ],
)
def test_folders_without_a_model(files, expected, words, python_code, water_sets, prepare_job):
    job = prepare_job(make_builder(python_code, water_sets, SCRATCH))
    for name, content in files.items():
        (job.folder / name).write_text(content)
    outputs, code = job.parse(MaceTrainParser)
    assert code.status == EXIT[expected].status
    assert words in code.message
    assert "model" not in outputs


def test_finished_folders_are_judged(python_code, water_sets, prepare_job, run_program):
    builder = make_builder(python_code, water_sets, {**SCRATCH, "max_num_epochs": 1}, e0s=orm.Dict(GIVEN))
    whole = prepare_job(builder, name="whole")
    assert run_program(whole) == 0

    def parse_damaged(name, damage):
        job = prepare_job(builder, name=name)
        shutil.copytree(whole.folder, job.folder, dirs_exist_ok=True)
        damage(job.folder)
        return job.parse(MaceTrainParser)

    def change_passport(**fields):
        def change(folder):
            path = folder / "passport.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

        return change

    outputs, code = parse_damaged("e0s", change_passport(e0s={"Default": {"H": -13.5001, "O": -432.123456789}}))
    assert code.status == EXIT.ERROR_E0_MISMATCH.status
    assert "H: -13.5 eV asked for, -13.5001 eV stored" in code.message
    assert "model" in outputs  # attached all the same, for inspection
    energies = {"H": -13.5, "O": -432.123456789}
    _, code = parse_damaged("head", change_passport(heads=["dft"], e0s={"dft": energies}))
    assert code.status == EXIT.ERROR_MODEL_MISMATCH.status
    assert "heads ['dft']" in code.message
    for name, damage in {
        "hash": change_passport(sha256="0" * 64),
        "npz": lambda folder: (folder / "predictions_test.npz").write_bytes(b"PK cut"),
        "no-npz": lambda folder: (folder / "predictions_test.npz").unlink(),
        "loss": lambda folder: (folder / "loss.jsonl").unlink(),
        "passport": lambda folder: (folder / "passport.json").write_text('{"sha256": '),
        "model": lambda folder: (folder / "model.model").unlink(),
    }.items():
        outputs, code = parse_damaged(name, damage)
        assert code.status == EXIT.ERROR_OUTPUT_INCOMPLETE.status, name
        assert "model" not in outputs


@pytest.mark.parametrize(
    ("parameters", "inputs", "message"),
    [
        ({"learning_rate": 0.1}, {}, "unknown parameter 'learning_rate'"),
        ({}, {"level": "dft"}, "no labels at level 'dft'"),
        ({}, {"e0s": {"source": "guess"}}, "'source' of the reference energies"),
        ({"mode": "naive"}, {}, "fixed by the foundation"),
    ],
)
def test_bad_inputs_are_refused_when_the_job_is_made(parameters, inputs, message, python_code, water_sets):
    with pytest.raises(ValueError, match=message):
        engine.run(make_builder(python_code, water_sets, {**SCRATCH, **parameters}, **inputs))


def test_elements_unknown_to_the_foundation_are_refused(python_code, water_sets, tmp_path, make_model_data):
    foundation = make_model_data(make_tiny_model(tmp_path / "hc.model", ("H", "C")))
    with pytest.raises(ValueError, match="the foundation does not know the elements \\['O'\\]"):
        engine.run(make_builder(python_code, water_sets, NAIVE, foundation=foundation))


def test_the_wrong_program_is_refused(cp2k_code, water_sets):
    with pytest.raises(ValueError, match="not the right program"):
        engine.run(make_builder(cp2k_code, water_sets, SCRATCH))


def test_time_is_left_to_save_and_to_stop():
    assert _usable_seconds(None) is None
    assert _usable_seconds(40) == 20
    assert _usable_seconds(200) == 170
    assert _usable_seconds(10000) == 9000
