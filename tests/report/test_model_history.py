"""How a model was made is read from the graph."""

from __future__ import annotations

import pytest
from aiida import orm

from aiida_mlfinetune.data import foundations
from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.report.model_history import foundation_history, model_datasets, model_history
from tests.fixtures.models import make_tiny_model
from tests.fixtures.trained import train_on_paper
from tests.report.synthetic import TARGET, finish, process

pytestmark = pytest.mark.usefixtures("aiida_profile_clean")


@pytest.fixture
def trained(tmp_path, python_code):
    return train_on_paper(tmp_path / "child.model", python_code, load_foundation("ice-xtb"))


def test_process_inputs_data_and_versions_come_from_the_graph(trained):
    history = model_history(trained.model)
    assert history.name == f"Model {trained.model.pk} ice, fine-tuned"
    process = history.process
    assert process.identifier == str(trained.job.pk)
    assert process.entry_point == "aiida.calculations:mlfinetune.mace_train"
    assert process.parts_of == (f"TrainingWorkChain <{trained.chain.pk}>, {trained.chain.uuid}",)
    assert process.versions == {"aiida-core": "2.9.4", "aiida-mlfinetune": "0.1.0", "mace-torch": "0.3.16"}
    assert process.code.startswith("python@")
    assert process.epochs == 5
    assert process.outcome == "finished"
    assert history.settings == {
        "split": {"train": 6, "valid": 2, "test": 2, "seed": 3},
        "parameters": {"mode": "naive", "seed": 7, "lr": 1e-3, "max_num_epochs": 5},
        "level": TARGET,
        "e0s": {"source": "estimated"},
    }
    assert [(data.role, data.n_frames, data.frame_hashes) for data in history.datasets] == [
        ("train", 6, ()),
        ("valid", 2, ()),
        ("test", 2, ()),
    ]
    assert history.datasets[0].content_hash == trained.train.content_hash
    assert history.levels()[TARGET]["code_version"] == "2023.1"
    assert list(model_datasets(trained.model)) == ["train", "valid", "test"]


def test_the_parent_is_known_by_its_name_with_licence_and_training(trained):
    ((role, parent),) = model_history(trained.model).parents
    assert role == "foundation"
    assert "(ice-xtb)" in parent.name
    assert parent.origin == "shipped with aiida-mlfinetune"
    assert parent.licence == "MIT"
    assert parent.settings["n_train"] == foundations.FOUNDATIONS["ice-xtb"].passport.settings["n_train"]
    assert parent.process is None


def test_the_chain_of_parents_is_followed(trained, tmp_path, python_code):
    child = train_on_paper(tmp_path / "second.model", python_code, trained.model, seed=8)
    roles = [role for role, _ in model_history(child.model).ancestors()]
    assert roles == ["foundation", "foundation of foundation"]


def test_the_baseline_of_a_difference_is_found_by_its_checksum(trained, tmp_path, make_model_data):
    file = make_tiny_model(tmp_path / "difference.model", ("H", "O"), seed=5)
    model = make_model_data(file, settings={"baseline": {"sha256": trained.model.sha256, "head": "Default"}})
    job = process(orm.CalcJobNode, "MaceTrainCalculation")
    finish(job, {"model": model})
    history = model_history(model)
    assert history.baseline_sha256 == trained.model.sha256
    assert [(role, parent.passport.sha256) for role, parent in history.parents] == [("baseline", trained.model.sha256)]


def test_frames_are_read_only_if_asked_for(trained):
    history = model_history(trained.model, frame_hashes=True)
    assert history.datasets[0].frame_hashes == tuple(trained.train.frames.content_hashes())


def test_a_file_that_was_imported_says_so(tiny_model):
    tiny_model.store()
    history = model_history(tiny_model)
    assert (history.origin, history.process, history.datasets) == ("imported from a file", None, ())


def test_a_shipped_foundation_needs_no_database():
    history = foundation_history(foundations.FOUNDATIONS["ice-xtb"])
    assert history.licence == "MIT"
    assert "licence" not in history.settings
    assert history.settings["parameters"]["mode"]
