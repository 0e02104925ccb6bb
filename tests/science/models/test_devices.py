"""What goes together of device, precision and kernels, wherever it is asked for."""

from __future__ import annotations

import pytest

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.dynamics.ipi_settings import IpiSettings
from aiida_mlfinetune.science.models.devices import device_problem
from aiida_mlfinetune.science.training.inputs import parameters_problem

RUN = {"ensemble": "nvt", "temperature_K": 100.0, "n_steps": 20, "seed": 1}


@pytest.mark.parametrize(
    ("device", "dtype", "enable_cueq"),
    [("cpu", "float64", False), ("cuda", "float32", True), ("cuda", "float64", True), ("mps", "float32", False)],
)
def test_what_fits_is_accepted(device: str, dtype: str, enable_cueq: bool):
    assert device_problem(device, dtype, enable_cueq) is None


@pytest.mark.parametrize(
    ("device", "dtype", "enable_cueq", "reason"),
    [
        ("gpu", "float64", False, "'device' must be one of"),
        ("cpu", "float16", False, "'dtype' must be one of"),
        ("mps", "float64", False, "know no float64"),
        ("cpu", "float64", True, "needs 'device' cuda"),
        ("mps", "float32", True, "needs 'device' cuda"),
        ("cuda", "float64", "yes", "true or false"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(device: str, dtype: str, enable_cueq: object, reason: str):
    assert reason in (device_problem(device, dtype, enable_cueq) or "")


def test_a_run_is_checked_when_its_settings_are_made():
    assert IpiSettings.from_dict({**RUN, "device": "cuda", "enable_cueq": True}).enable_cueq
    with pytest.raises(StudyError, match="needs 'device' cuda"):
        IpiSettings.from_dict({**RUN, "enable_cueq": True})
    with pytest.raises(StudyError, match="device is 'gpu'"):
        IpiSettings.from_dict({**RUN, "device": "gpu"})


def test_a_training_is_checked_when_its_parameters_are():
    parameters = {"mode": "scratch", "seed": 1}
    assert parameters_problem({**parameters, "device": "cuda", "enable_cueq": True}) is None
    assert "needs 'device' cuda" in (parameters_problem({**parameters, "enable_cueq": True}) or "")
    assert "know no float64" in (parameters_problem({**parameters, "device": "mps"}) or "")
