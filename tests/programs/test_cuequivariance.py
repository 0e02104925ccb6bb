"""Kernels of cuEquivariance that are not installed are an error: MACE alone goes on without them and says nothing."""

from __future__ import annotations

import importlib
import sys

import pytest
import yaml

from tests.fixtures.jobs import PROGRAMS


@pytest.fixture
def program(monkeypatch):
    """Return a function that imports one of the stand-alone programs where cuEquivariance is not installed."""
    import torch

    monkeypatch.syspath_prepend(str(PROGRAMS))
    monkeypatch.setitem(sys.modules, "cuequivariance_torch", None)
    before = torch.get_default_dtype()
    yield importlib.import_module
    torch.set_default_dtype(before)


def test_an_evaluation_fails_without_them(program, tiny_model_file):
    module = program("mace_evaluate")
    model = module.load_model(tiny_model_file)
    with pytest.raises(ModuleNotFoundError, match="cuequivariance_torch"):
        module.accelerate(model, "float64", "cpu")


def test_a_run_fails_without_them(program, tiny_model_file):
    module = program("ipi_mace")
    with pytest.raises(ModuleNotFoundError, match="cuequivariance_torch"):
        module.MacePotential(str(tiny_model_file), [8, 1, 1], [False] * 3, enable_cueq=True)


def test_a_training_fails_without_them(program, tmp_path, monkeypatch):
    module = program("mace_train")
    monkeypatch.chdir(tmp_path)
    (tmp_path / module.CONFIG_FILE).write_text(yaml.safe_dump({"enable_cueq": True, "device": "cuda"}))
    with pytest.raises(ModuleNotFoundError, match="cuequivariance_torch"):
        module.train({"restart": False})
