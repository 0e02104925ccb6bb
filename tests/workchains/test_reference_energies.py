"""The diagnosis of reference energies with a real evaluation of a model."""

from __future__ import annotations

import pytest
from aiida import engine, orm

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.workchains.reference_energies import ReferenceEnergiesWorkChain
from tests.fixtures.models import make_tiny_model
from tests.fixtures.water import XTB


@pytest.fixture
def build(python_code, water_sets):
    def make(code=python_code, level=XTB.key, **kwargs):
        sets = {"train": water_sets["train"], "valid": water_sets["valid"], **kwargs}
        return ReferenceEnergiesWorkChain.get_builder_from_protocol(code, level=level, protocol="demo", **sets)

    return make


def test_a_real_model_is_evaluated_on_frames_and_isolated_atoms(build, tiny_model):
    results, node = engine.run_get_node(build(model=tiny_model))
    assert node.is_finished_ok, node.exit_message
    diagnosis = results["diagnosis"]
    (job,) = [child for child in node.called if isinstance(child, orm.CalcJobNode)]
    assert job.outputs.dataset.n_frames == 10 + 3 + 2
    check = diagnosis.details["dissociation"]
    assert check["passed"]
    assert set(check["atom_minus_e0_meV"]) == {"H", "O"}
    assert diagnosis.details["determination"]["sentence"] == "H and O separately are not determined: only 2 H + O"
    first = diagnosis.details["first_validation_meV_per_atom"]
    assert first["after"] < first["before"]
    assert diagnosis.value == first["after"]


def test_without_a_model_there_is_nothing_to_run(build):
    results, node = engine.run_get_node(build(code=None))
    assert node.is_finished_ok
    assert not [child for child in node.called if isinstance(child, orm.CalcJobNode)]
    assert results["diagnosis"].details["start"] == "zero"


def test_a_failed_evaluation_ends_the_chain(build, tiny_model, python_code):
    from aiida.engine.utils import instantiate_process
    from aiida.manage import get_manager
    from plumpy.process_states import ProcessState

    process = instantiate_process(get_manager().get_runner(), build(model=tiny_model))
    job = orm.CalcJobNode(computer=python_code.computer).store()
    job.set_process_state(ProcessState.FINISHED)
    job.set_exit_status(302)
    job.set_exit_message("not finite")
    process.ctx.prediction = job
    code = process.inspect_prediction()
    assert code.status == ReferenceEnergiesWorkChain.exit_codes.ERROR_PREDICTION_FAILED.status
    assert "[302] not finite" in code.message


def test_what_does_not_fit_is_refused(build, water_sets, tiny_model, tmp_path, make_model_data):
    two = make_model_data(make_tiny_model(tmp_path / "two.model", ("H", "O"), ("a", "b")))
    carbon = make_model_data(make_tiny_model(tmp_path / "carbon.model", ("H", "C")))
    for changes, message in (
        ({"level": "dft"}, "no labels at level 'dft'"),
        ({"valid": DatasetData(water_sets["train"].frames.select([0]))}, "validation frames are training frames"),
        ({"model": tiny_model, "code": None}, "needs `python.code`"),
        ({"model": two}, r"heads \['a', 'b'\]"),
        ({"model": two, "head": "c"}, "no head 'c'"),
        ({"model": carbon}, r"does not know the elements \['O'\]"),
        ({"head": "a"}, "give the input `model` too"),
    ):
        with pytest.raises((MlFinetuneError, ValueError), match=message):
            build(**changes)
