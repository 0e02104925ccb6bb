"""What ``aiida-mlfinetune model export`` writes is enough to make the model again, elsewhere."""

from __future__ import annotations

import re

import pytest
import yaml
from aiida import engine, orm
from click.testing import CliRunner

from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation
from aiida_mlfinetune.cli import main
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.extxyz import read_extxyz
from aiida_mlfinetune.workchains.training import TrainingWorkChain
from tests.fixtures.water import XTB

OVERRIDES = {
    "split": {"valid": 3, "test": 3},
    "parameters": {"max_num_epochs": 2, "batch_size": 4, "seed": 11},
    "python": {"metadata": {"options": {"max_wallclock_seconds": 600}}},
}


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["model", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("aiida_profile_clean")
def test_a_trained_model_is_made_again_from_its_export(python_code, tiny_model, water_frames, tmp_path):
    dataset = DatasetData(frames=water_frames)
    builder = TrainingWorkChain.get_builder_from_protocol(
        python_code, dataset, XTB.key, foundation=tiny_model, protocol="demo", overrides=OVERRIDES
    )
    results, node = engine.run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    first = results["model"]
    shown = run("show", first.pk)
    for text in ("MaceTrainCalculation", "TrainingWorkChain", "parameters.seed", "Parent model: foundation"):
        assert text in shown, text
    assert re.search(r"epochs +2\n", shown)

    folder = tmp_path / "out"
    run("export", first.pk, folder, "--name", "water")
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    inputs = yaml.safe_load(re.search(r"Inputs:\n\n```yaml\n(.*?)```", card, re.DOTALL).group(1))
    assert yaml.safe_load((folder / "mace.yaml").read_text())["max_num_epochs"] == 2
    assert f"`{tiny_model.sha256}`" in card

    again = MaceTrainCalculation.get_builder()
    again.code = python_code
    again.foundation = tiny_model
    again.level = orm.Str(inputs["level"])
    again.parameters, again.e0s = orm.Dict(inputs["parameters"]), orm.Dict(inputs["e0s"])
    for name in ("train", "valid", "test"):
        again[name] = DatasetData(frames=read_extxyz(folder / f"{name}.xyz"))
    outputs, node = engine.run_get_node(again)
    assert node.is_finished_ok, node.exit_message
    assert not node.base.caching.is_created_from_cache
    second = outputs["model"]
    assert second.sha256 == first.sha256
    assert second.passport.errors == first.passport.errors
    assert second.passport.e0s == first.passport.e0s
    diff = run("diff", first.pk, second.pk)
    assert "data." not in diff
    assert "parameters" not in diff
    assert "Errors that moved\n  none\n" in diff
