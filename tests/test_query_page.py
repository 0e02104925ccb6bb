"""The queries of the documentation find what they say, in a profile that holds it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from aiida import orm
from aiida.common.links import LinkType

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.datasets.frames import Frames
from tests.fixtures.frames import make_frames

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "query-results.md"


def run_block(number: int, capsys) -> str:
    """Run one Python block of the page as it stands, and return what it prints."""
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[number]
    capsys.readouterr()
    exec(compile(block, str(PAGE), "exec"), {})
    return capsys.readouterr().out


def density(model: orm.Data, value: float, temperature: float) -> ObservableData:
    """Return the density from a run with ``model``, linked as a real run links it."""
    run = orm.CalcJobNode()
    run.base.links.add_incoming(model, LinkType.INPUT_CALC, "model")
    run.store()
    trajectory = orm.ArrayData()
    trajectory.base.links.add_incoming(run, LinkType.CREATE, "properties")
    trajectory.store()
    average = orm.CalcFunctionNode()
    average.base.links.add_incoming(trajectory, LinkType.INPUT_CALC, "properties")
    average.store()
    observable = ObservableData(
        name="density", value=value, error=0.002, unit="g/cm^3", conditions={"temperature_K": temperature}
    )
    observable.base.links.add_incoming(average, LinkType.CREATE, "result")
    return observable.store()


def trained_on(n_frames: int, make_model_data, path: Path) -> orm.Data:
    """Return a model from a training on ``n_frames`` frames, with a large set beside it that is for validation."""
    small = make_frames(n_crystal=0, n_gas=n_frames, seed=n_frames)
    other = make_frames(n_crystal=0, n_gas=120 if n_frames < 100 else 7, seed=99)
    training = orm.CalcJobNode()
    for label, frames in (("train", small), ("valid", other)):
        dataset = DatasetData(frames=Frames.concatenate([frames])).store()
        training.base.links.add_incoming(dataset, LinkType.INPUT_CALC, label)
    training.store()
    model = make_model_data(path)
    model.base.links.add_incoming(training, LinkType.CREATE, "model")
    return model.store()


@pytest.fixture
def results(aiida_profile_clean, make_model_data, tiny_model_file):
    """Densities of a model from 20 frames, at 100 and at 200 K, and one at 100 K of a model from 110 frames."""
    few = trained_on(20, make_model_data, tiny_model_file)
    many = trained_on(110, make_model_data, tiny_model_file)
    return [density(few, 0.934, 100.0), density(few, 0.921, 200.0), density(many, 0.941, 100.0)]


def test_the_queries_of_the_page_find_what_they_say(results, capsys):
    cold_few, _, cold_many = results
    assert sorted(run_block(0, capsys).splitlines()) == [
        f"{cold_few.pk}: 0.9340 +- 0.0020 g/cm^3",
        f"{cold_many.pk}: 0.9410 +- 0.0020 g/cm^3",
    ]
    assert run_block(1, capsys) == "[[0.934, 0.002]]\n"
