from __future__ import annotations

import io

import numpy as np
import pytest
from aiida import engine, orm
from ase.build import molecule

from aiida_mlfinetune.calculations.mace_descriptors import MaceDescriptorsCalculation
from aiida_mlfinetune.cli.running import RunningJobs
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.mace_descriptors import MaceDescriptorsParser
from aiida_mlfinetune.parsers.raw.progress import Progress
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.training.replay import element_pairs
from tests.calculations.test_ipi import ice_cell


@pytest.fixture
def frames():
    """A crystal of two water molecules, a molecule and an atom of oxygen."""
    oxygen = molecule("O")
    return Frames.from_atoms([ice_cell(), molecule("H2O"), oxygen])


@pytest.fixture
def make_builder(python_code, tiny_model, frames):
    def make(parameters=None, **inputs):
        builder = MaceDescriptorsCalculation.get_builder()
        builder.code = python_code
        builder.model = tiny_model
        builder.dataset = DatasetData(frames=frames)
        for name, value in inputs.items():
            setattr(builder, name, value)
        if parameters is not None:
            builder.parameters = orm.Dict(parameters)
        return builder

    return make


def test_descriptors_are_the_means_by_element_of_those_of_mace(
    make_builder, frames, tiny_model_file, prepare_job, run_program
):
    from mace.calculators import MACECalculator

    job = prepare_job(make_builder({"batch_size": 2}))
    run_program(job)
    assert (job.folder / "progress.txt").read_text(encoding="utf-8") == "2 of 3 frames\n3 of 3 frames\n"
    job.node.set_remote_workdir(str(job.folder))
    with RunningJobs() as jobs:
        assert jobs.progress(job.node) == Progress(3, 3, "frames")
    outputs, code = job.parse(MaceDescriptorsParser)
    assert code is None
    found = {name: outputs["descriptors"].get_array(name) for name in ("frame", "number", "mean")}
    assert np.stack([found["frame"], found["number"]], axis=1).tolist() == [[0, 1], [0, 8], [1, 1], [1, 8], [2, 8]]
    assert found["mean"].dtype == np.float32
    calculator = MACECalculator(model_paths=str(tiny_model_file), default_dtype="float64")
    for frame, number, mean in zip(found["frame"], found["number"], found["mean"], strict=True):
        image = frames.atoms(int(frame))
        expected = calculator.get_descriptors(image, invariants_only=True)[image.numbers == number].mean(axis=0)
        assert expected.shape == (8,)  # four channels, two layers
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"head": "Default"}, "unknown parameters \\['head'\\]"), ({"batch_size": 0}, "at least 1")],
)
def test_bad_parameters_are_refused(make_builder, parameters, message):
    with pytest.raises(ValueError, match=message):
        engine.run(make_builder(parameters))


def test_elements_unknown_to_the_model_are_refused(make_builder):
    with pytest.raises(ValueError, match="does not know the elements \\['C'\\]"):
        engine.run(make_builder(dataset=DatasetData(frames=Frames.from_atoms([molecule("CH4")]))))


def test_exit_codes(make_builder, prepare_job, frames):
    codes = MaceDescriptorsCalculation.exit_codes
    job = prepare_job(make_builder(), name="none")
    (job.folder / "descriptors.log").write_text("Traceback\nRuntimeError: no luck\n")
    _, code = job.parse(MaceDescriptorsParser)
    assert code.status == codes.ERROR_NO_DESCRIPTORS.status
    assert "no luck" in code.message

    pairs = element_pairs(frames)
    good = {"frame": pairs[:, 0], "number": pairs[:, 1], "mean": np.ones((len(pairs), 8), dtype=np.float32)}
    job = prepare_job(make_builder(), name="cut")
    buffer = io.BytesIO()
    np.savez(buffer, **good)
    (job.folder / "descriptors.npz").write_bytes(buffer.getvalue()[:-100])
    assert job.parse(MaceDescriptorsParser)[1].status == codes.ERROR_OUTPUT_INCOMPLETE.status

    job = prepare_job(make_builder(), name="short")
    np.savez(job.folder / "descriptors.npz", **{name: values[:-1] for name, values in good.items()})
    assert job.parse(MaceDescriptorsParser)[1].status == codes.ERROR_OUTPUT_INCOMPLETE.status

    job = prepare_job(make_builder(), name="nan")
    good["mean"][3] = np.nan
    np.savez(job.folder / "descriptors.npz", **good)
    _, code = job.parse(MaceDescriptorsParser)
    assert code.status == codes.ERROR_NOT_FINITE.status
    assert "frames [1]" in code.message
