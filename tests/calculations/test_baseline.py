"""A model of a difference and its baseline act as one potential."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from mace.calculators import MACECalculator

from aiida_mlfinetune.calculations.ipi import IpiCalculation
from aiida_mlfinetune.calculations.mace_evaluate import MaceEvaluateCalculation, level_of
from aiida_mlfinetune.common.errors import ModelError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.mace_evaluate import MaceEvaluateParser
from aiida_mlfinetune.parsers.mace_train import baseline_of
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Level
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from tests.calculations.test_ipi import ice_cell, settings
from tests.fixtures.models import make_tiny_model

TOLERANCE = 1e-6
"""Of the sum, in eV, eV/A and eV/A^3."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A difference, and a baseline of two heads."""
    folder = tmp_path_factory.mktemp("delta")
    return {
        "difference": make_tiny_model(folder / "difference.model", ("H", "O"), seed=11),
        "baseline": make_tiny_model(folder / "baseline.model", ("H", "O"), heads=("low", "high"), seed=12),
    }


@pytest.fixture
def models(aiida_profile, files, make_model_data):
    baseline = make_model_data(files["baseline"])
    predicted = level_of(baseline, {"head": "low"})
    # what a training records of the level that it was given, is what a run goes by
    described = baseline_of(Level("difference", settings={"level_b": predicted.to_dict()}))
    return {
        "difference": make_model_data(files["difference"], settings={"baseline": described}),
        "baseline": baseline,
    }


@pytest.fixture
def reference(files):
    """Return a function that gives energy, forces and stress of an image by both models, added up."""
    calculators = [
        MACECalculator(files["difference"], device="cpu", default_dtype="float64"),
        MACECalculator(files["baseline"], device="cpu", default_dtype="float64", head="low"),
    ]

    def add(image):
        parts = []
        for calculator in calculators:
            image.calc = calculator
            stress = image.get_stress(voigt=False) if image.pbc.all() else np.nan
            parts.append((image.get_potential_energy(), image.get_forces(), stress))
        return [sum(values) for values in zip(*parts, strict=True)]

    return add


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    images = []
    for _ in range(3):
        image = ice_cell()
        image.positions += rng.normal(scale=0.05, size=image.positions.shape)
        images.append(image)
    images.append(images[0][:3])
    images[-1].pbc = False
    return Frames.from_atoms(images)


def check(frames, labels, reference):
    for index, image in enumerate(frames.to_atoms()):
        energy, forces, stress = reference(image)
        assert labels.energy[index] == pytest.approx(energy, abs=TOLERANCE)
        np.testing.assert_allclose(labels.forces[frames.slice(index)], forces, atol=TOLERANCE)
        if image.pbc.all():
            np.testing.assert_allclose(labels.stress[index], stress, atol=TOLERANCE)


def test_an_evaluation_is_the_sum(python_code, models, frames, reference, prepare_job, run_program):
    builder = MaceEvaluateCalculation.get_builder()
    builder.code = python_code
    builder.model, builder.baseline = models["difference"], models["baseline"]
    builder.dataset = DatasetData(frames)
    builder.parameters = orm.Dict({"batch_size": 3})
    job = prepare_job(builder)
    run_program(job)
    outputs, code = job.parse(MaceEvaluateParser)
    assert code is None
    labels = outputs["dataset"].frames.labels(f"{models['difference'].sha256[:8]}/mace")
    check(frames, labels, reference)
    assert labels.level.settings["baseline"] == {"sha256": models["baseline"].sha256, "head": "low"}
    progress = (job.folder / "progress.txt").read_text(encoding="utf-8").splitlines()
    assert progress == [f"{done} of 4 frames" for done in (1, 2, 3, 4)]


def test_a_run_of_the_chain_is_of_the_sum(ipi_code, models, reference):
    builder = DynamicsWorkChain.get_builder_from_protocol(
        ipi_code,
        orm.StructureData(ase=ice_cell()),
        models["difference"],
        "demo",
        {"parameters": {"n_steps": 8, "stride": 4, "print_forces": True}},
        baseline=models["baseline"],
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    frames = outputs["trajectory"].frames
    (key,) = frames.labels_by_level
    assert len(frames) == 3
    assert np.ptp(frames.volumes) > 0
    check(frames, frames.labels(key), reference)
    assert frames.labels(key).level.settings["baseline"]["head"] == "low"
    (run,) = [child for child in node.called if isinstance(child, orm.CalcJobNode)]
    assert "baseline.model" not in run.base.repository.list_object_names()


def test_a_difference_without_its_baseline_is_refused(ipi_code, python_code, models, tiny_model, frames):
    structure = orm.StructureData(ase=ice_cell())
    cases = [
        ({"model": models["difference"]}, "means nothing without it"),
        ({"model": models["difference"], "baseline": tiny_model}, "but the baseline given is"),
        ({"model": tiny_model, "baseline": models["baseline"]}, "is no difference"),
    ]
    for given, message in cases:
        with pytest.raises(ModelError, match=message):
            DynamicsWorkChain.get_builder_from_protocol(
                ipi_code, structure, given["model"], baseline=given.get("baseline")
            )
        with pytest.raises(ValueError, match=message):
            run_get_node(IpiCalculation, code=ipi_code, structure=structure, parameters=settings(), **given)
        with pytest.raises(ValueError, match=message):
            run_get_node(MaceEvaluateCalculation, code=python_code, dataset=DatasetData(frames), **given)


def test_elements_that_the_baseline_lacks_are_refused(ipi_code, python_code, tmp_path, make_model_data, frames):
    small = make_model_data(make_tiny_model(tmp_path / "h.model", ("H",)))
    described = {"sha256": small.sha256, "head": "Default", "level": "pbe/vasp"}
    whole = make_tiny_model(tmp_path / "ho.model", ("H", "O"))
    given = {"model": make_model_data(whole, settings={"baseline": described}), "baseline": small}
    message = "the baseline does not know the elements \\['O'\\]"
    with pytest.raises(ValueError, match=message):
        run_get_node(MaceEvaluateCalculation, code=python_code, dataset=DatasetData(frames), **given)
    structure = orm.StructureData(ase=ice_cell())
    with pytest.raises(ValueError, match=message):
        run_get_node(IpiCalculation, code=ipi_code, structure=structure, parameters=settings(), **given)
