import io

import numpy as np
import pytest
from aiida import engine, orm

from aiida_mlfinetune.calculations.mace_evaluate import MaceEvaluateCalculation
from aiida_mlfinetune.cli.running import RunningJobs
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.mace_evaluate import MaceEvaluateParser
from aiida_mlfinetune.parsers.raw.progress import Progress
from aiida_mlfinetune.science.datasets.frames import Frames
from tests.fixtures.models import make_tiny_model
from tests.fixtures.water import XTB


@pytest.fixture
def make_builder(python_code, tiny_model, water_frames):
    def make(parameters=None, **inputs):
        builder = MaceEvaluateCalculation.get_builder()
        builder.code = python_code
        builder.model = tiny_model
        builder.dataset = DatasetData(frames=water_frames)
        for name, value in inputs.items():
            setattr(builder, name, value)
        if parameters is not None:
            builder.parameters = orm.Dict(parameters)
        return builder

    return make


def test_predictions_equal_those_of_the_ase_calculator(make_builder, water_frames, tiny_model_file):
    from mace.calculators import MACECalculator

    outputs, node = engine.run_get_node(make_builder({"batch_size": 5}))
    assert node.is_finished_ok, node.exit_message
    frames = outputs["dataset"].frames
    assert set(frames.labels_by_level) == {XTB.key, f"{node.inputs.model.sha256[:8]}/mace"}
    labels = frames.labels(f"{node.inputs.model.sha256[:8]}/mace")
    assert labels.level.settings["sha256"] == node.inputs.model.sha256
    assert outputs["dataset"].level_sources[labels.level.key] == [node.uuid]
    calculator = MACECalculator(model_paths=str(tiny_model_file), default_dtype="float64", head="Default")
    for index, image in enumerate(water_frames.to_atoms()):
        image.calc = calculator
        assert labels.energy[index] == pytest.approx(image.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(labels.forces[frames.slice(index)], image.get_forces(), atol=1e-9)
        if image.pbc.all():
            np.testing.assert_allclose(labels.stress[index], image.get_stress(voigt=False), atol=1e-10)
        else:
            assert not labels.has_stress[index]


def test_frames_done_are_told_while_it_runs(make_builder, prepare_job, run_program):
    builder = make_builder({"batch_size": 5})
    job = prepare_job(builder)
    run_program(job)
    lines = (job.folder / "progress.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{done} of 16 frames" for done in (5, 10, 15, 16)]
    job.node.set_remote_workdir(str(job.folder))
    with RunningJobs() as jobs:
        assert jobs.progress(job.node) == Progress(16, 16, "frames")


def test_head_must_exist(make_builder, tmp_path, make_model_data):
    with pytest.raises(ValueError, match="no head 'dft': it has"):
        engine.run(make_builder({"head": "dft"}))
    two = make_model_data(make_tiny_model(tmp_path / "two.model", ("H", "O"), heads=("first", "second")))
    with pytest.raises(ValueError, match="say in the parameter 'head'"):
        engine.run(make_builder(model=two))


def test_each_head_predicts_its_own_energies(make_builder, tmp_path, make_model_data, prepare_job, run_program):
    two = make_model_data(make_tiny_model(tmp_path / "two.model", ("H", "O"), heads=("first", "second"), seed=3))
    energies = {}
    for head in ("first", "second"):
        job = prepare_job(make_builder({"head": head, "key": head}, model=two), name=head)
        run_program(job)
        outputs, code = job.parse(MaceEvaluateParser)
        assert code is None
        energies[head] = outputs["dataset"].frames.labels(head).energy
    assert not np.allclose(energies["first"], energies["second"])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"batchsize": 2}, "unknown parameters \\['batchsize'\\]"),
        ({"batch_size": 0}, "at least 1"),
        ({"dtype": "float16"}, "'dtype' must be one of"),
        ({"key": "a b"}, "white space"),
        ({"key": XTB.key}, "has the level 'gfn1-xtb/tblite' already"),
    ],
)
def test_bad_parameters_are_refused(make_builder, parameters, message):
    with pytest.raises(ValueError, match=message):
        engine.run(make_builder(parameters))


def test_elements_unknown_to_the_model_are_refused(make_builder):
    from ase.build import molecule

    with pytest.raises(ValueError, match="does not know the elements \\['C'\\]"):
        engine.run(make_builder(dataset=DatasetData(frames=Frames.from_atoms([molecule("CH4")]))))


def test_exit_codes(make_builder, prepare_job, water_frames):
    codes = MaceEvaluateCalculation.exit_codes
    job = prepare_job(make_builder(), name="none")
    (job.folder / "evaluate.log").write_text("Traceback\nRuntimeError: no luck\n")
    _, code = job.parse(MaceEvaluateParser)
    assert code.status == codes.ERROR_NO_LABELS.status
    assert "no luck" in code.message

    good = {
        "energy": np.zeros(len(water_frames)),
        "forces": np.zeros((len(water_frames.numbers), 3)),
        "stress": np.zeros((len(water_frames), 3, 3)),
    }
    job = prepare_job(make_builder(), name="cut")
    buffer = io.BytesIO()
    np.savez(buffer, **good)
    (job.folder / "labels.npz").write_bytes(buffer.getvalue()[:-100])
    assert job.parse(MaceEvaluateParser)[1].status == codes.ERROR_OUTPUT_INCOMPLETE.status

    job = prepare_job(make_builder(), name="short")
    np.savez(job.folder / "labels.npz", **{**good, "energy": np.zeros(2)})
    assert job.parse(MaceEvaluateParser)[1].status == codes.ERROR_OUTPUT_INCOMPLETE.status

    job = prepare_job(make_builder(), name="nan")
    np.savez(job.folder / "labels.npz", **{**good, "energy": np.full(len(water_frames), np.nan)})
    assert job.parse(MaceEvaluateParser)[1].status == codes.ERROR_NOT_FINITE.status
