"""Trainings that are killed, run out of memory, or are made twice."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from aiida import orm

from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation
from aiida_mlfinetune.parsers.mace_train import MaceTrainParser
from tests.fixtures.training import HIGHER, TINY_NETWORK, XTB

EXIT = MaceTrainCalculation.exit_codes
REPLAY = {
    "mode": "multihead-replay",
    "seed": 1,
    "max_num_epochs": 16,
    "batch_size": 4,
    "loss": "universal",
    "lr": 1e-3,
    "ema": True,
    "replay_level": XTB.key,
    "replay_valid": 0.25,
}


def start(folder, **environment):
    """Start the program of a prepared job as its computer would."""
    return subprocess.Popen(
        [sys.executable, "mace_train.py", "job.json"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def epoch_of(folder):
    """Return the last validated epoch."""
    try:
        return json.loads((folder / "progress.json").read_text())["epoch"]
    except (OSError, ValueError):
        return -1


def test_a_killed_multi_head_training_goes_on_to_the_same_end(
    prepare_job, run_program, make_training, two_level_sets, replay_set, tiny_model, python_code
):
    builder = make_training(two_level_sets, HIGHER.key, REPLAY, foundation=tiny_model, replay=replay_set)
    first = prepare_job(builder, name="first")
    settings = json.loads((first.folder / "job.json").read_text())
    (first.folder / "job.json").write_text(json.dumps({**settings, "save_interval_s": 0}))
    running = start(first.folder)
    while epoch_of(first.folder) < 4 and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    outputs, code = first.parse(MaceTrainParser)
    assert code.status == EXIT.ERROR_INTERRUPTED.status
    assert "model" not in outputs

    whole = prepare_job(builder, name="whole")
    assert run_program(whole) == 0
    expected, code = whole.parse(MaceTrainParser)
    assert code is None, code
    builder.parent_folder = orm.RemoteData(remote_path=str(first.folder), computer=python_code.computer).store()
    second = prepare_job(builder, name="second")
    assert run_program(second) == 0
    outputs, code = second.parse(MaceTrainParser)
    assert code is None, code
    for name in expected["loss_curve"].get_arraynames():
        np.testing.assert_allclose(
            outputs["loss_curve"].get_array(name), expected["loss_curve"].get_array(name), rtol=1e-9, err_msg=name
        )
    assert outputs["errors"]["heads"]["pt_head"]["valid"]["forces_rmse_meV_A"] == pytest.approx(
        expected["errors"]["heads"]["pt_head"]["valid"]["forces_rmse_meV_A"], rel=1e-9
    )


def test_memory_that_cannot_be_had_is_named(
    prepare_job, run_program, make_training, two_level_sets, tiny_model, monkeypatch
):
    import importlib

    import mace.tools  # noqa: F401 - first, as it makes torch read the tables of e3nn
    import torch

    def greedy_epoch(**_):
        torch.empty(10**17)

    monkeypatch.setattr(importlib.import_module("mace.tools.train"), "train_one_epoch", greedy_epoch)
    parameters = {**REPLAY, "mode": "naive"}
    for name in ("replay_level", "replay_valid"):
        del parameters[name]
    job = prepare_job(make_training(two_level_sets, HIGHER.key, parameters, foundation=tiny_model))
    assert run_program(job) == 1
    outputs, code = job.parse(MaceTrainParser)
    assert code.status == EXIT.ERROR_OUT_OF_MEMORY.status
    assert "allocate memory" in code.message
    assert "model" not in outputs


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.long) for mode in ("scratch", "naive")] + ["multihead-replay"]
)
def test_two_trainings_of_one_seed_give_one_file(
    mode, prepare_job, make_training, two_level_sets, replay_set, tiny_model
):
    parameters = {"mode": mode, "seed": 1, "max_num_epochs": 2, "batch_size": 4, "loss": "stress"}
    inputs = {} if mode == "scratch" else {"foundation": tiny_model}
    parameters |= TINY_NETWORK if mode == "scratch" else {"lr": 1e-3}
    if mode == "multihead-replay":
        parameters, inputs = {**REPLAY, "max_num_epochs": 2}, {**inputs, "replay": replay_set}
    hashes = []
    jobs = [
        prepare_job(make_training(two_level_sets, HIGHER.key, parameters, **inputs), name=name) for name in ("a", "b")
    ]
    running = [start(job.folder, PYTHONHASHSEED=str(number)) for number, job in enumerate(jobs)]
    for job, process in zip(jobs, running, strict=True):
        assert process.wait() == 0
        outputs, code = job.parse(MaceTrainParser)
        assert code is None, code
        hashes.append(outputs["model"].sha256)
    assert hashes[0] == hashes[1]
