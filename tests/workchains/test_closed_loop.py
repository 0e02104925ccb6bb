"""The closed loop: a real round of a tiny training, run and reweighting; when it ends; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from ase import Atoms

from aiida_mlfinetune.calculations.cp2k_input import level_metadata
from aiida_mlfinetune.calculations.functions.closed_loop import grown_dataset, judge_round
from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.report import collect, render
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from aiida_mlfinetune.workchains.closed_loop import ClosedLoopWorkChain
from aiida_mlfinetune.workchains.protocols.levels import load_level
from tests.fixtures.averages import OVERRIDES, RUN, STATE, TEACHER, TEACHER_KEY, finished, ice_and_molecule, moved
from tests.fixtures.models import make_tiny_model
from tests.fixtures.waters import two_waters

CODES = ClosedLoopWorkChain.exit_codes
TRAINING = {
    "protocol": "demo",
    "parameters": {"max_num_epochs": 2, "batch_size": 2, "default_dtype": "float64", "lr": 1e-5},
    "split": {"valid": 0.25, "test": 0, "seed": 1},
}


def shaken(n=8, seed=0) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    images = [two_waters() for _ in range(n)]
    for atoms in images:
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
    return images


@pytest.fixture
def teacher(make_model_data, tmp_path):
    """Return another model than the foundation, so that there is something to learn."""
    return make_model_data(make_tiny_model(tmp_path / "teacher.model", ("H", "O"), seed=1))


@pytest.fixture
def build(ipi_code, python_code, tiny_model, teacher):
    def make(overrides=None, images=None, **kwargs):
        layers = {"training": TRAINING, "averages": {"protocol": "demo", **OVERRIDES}, **(overrides or {})}
        dataset = DatasetData(Frames.from_atoms(images or shaken()))
        kwargs.setdefault("reference_level", TEACHER)
        return ClosedLoopWorkChain.get_builder_from_protocol(
            python_code,
            ipi_code,
            python_code,
            dataset,
            ice_and_molecule()[0],
            None,
            "demo",
            layers,
            foundation=tiny_model,
            reference_model=teacher,
            **{**STATE, **kwargs},
        )

    return make


def test_frames_are_labelled_trained_run_and_judged(build):
    outputs, node = run_get_node(build(budget={"max_rounds": 1}))
    assert node.is_finished_ok, node.exit_message
    (record,) = outputs["rounds"].values()
    values = record.get_dict()
    assert (values["round"], values["n_frames"], values["labels"], values["labels_of_round"]) == (1, 8, 20, 12)
    density = values["quantities"]["density"]
    assert density["difference"] == pytest.approx(density["run"]["value"] - density["reference"]["value"])
    assert set(values["quantities"]) == {"potential_energy", "density"}
    assert values["next"] == "stop"
    assert outputs["model"].passport.settings["n_train"] == 6
    assert outputs["reference"]["density"].conditions["level"] == TEACHER_KEY
    assert outputs["model_averages"]["density"].value == density["run"]["value"]
    page = collect(node)
    (section,) = [section for section in page.sections if section.title == "What each round bought"]
    (figure,) = section.figures
    assert figure.svg.count("model − reference / (") == len(
        [row for row in values["quantities"].values() if "allowed" in row]
    )
    assert values["spread_kT"] == pytest.approx(node.outputs.reference["density"].details["spread_kT"])
    assert ("outlook" in values) == (values["verdict"] != "met")
    assert values.get("outlook", "") in section.paragraphs[0]
    assert 'id="what-each-round-bought"' in render(page)


def dataset(n=4, keys=(TEACHER_KEY,), seed=0, source="a"):
    frames = Frames.from_atoms(shaken(n, seed), source=source, steps=range(n))
    for key in keys:
        labels = Labels.build(Level(key), frames.offsets, np.arange(n, dtype=float), np.zeros((6 * n, 3)))
        frames = frames.with_labels(labels)
    return DatasetData(frames)


def test_frames_of_a_run_join_those_that_are_known_once(aiida_profile):
    known, found = dataset(), dataset(5, (TEACHER_KEY, "student/mace"), source="b")
    more = dataset(3, (TEACHER_KEY, "student/mace"), seed=1, source="c")
    joined = grown_dataset(orm.Str(TEACHER_KEY), a_known=known, b_crystal=found, b_gas=more)
    assert joined.n_frames == 4 + 1 + 3
    assert set(joined.levels) == {TEACHER_KEY}
    with pytest.raises(FramesError, match="none of the frames has an energy"):
        grown_dataset(orm.Str("dft"), a_known=known)


def judged(shift, before=None, budget=None, reliable=True, error=0.05):
    averages = {
        "density": moved("density", 0.92, 0.002, (0.001, 0.001), reliable=reliable),
        "sublimation_enthalpy": moved("sublimation_enthalpy", 58.0, shift, (0.1, error), reliable=reliable),
    }
    return judge_round(
        orm.Dict({"sublimation_enthalpy_kJ_mol": 0.5}),
        orm.Dict(budget or {"max_rounds": 3, "max_labels": 100}),
        dataset(),
        orm.Dict({"labels": 20}) if before is None else before,
        **averages,
    )


def test_a_round_says_what_it_bought_until_the_target_is_met(aiida_profile):
    first = judged(1.5)
    assert (first["round"], first["labels"], first["verdict"], first["next"]) == (1, 44, "missed", "go on")
    assert first["gained"] == {}
    second = judged(0.2, first)
    assert (second["round"], second["labels"], second["verdict"], second["next"]) == (2, 68, "met", "stop")
    assert second["gained"]["sublimation_enthalpy"] == pytest.approx(1.3)
    assert second["reason"] == "the target is met"


def test_the_budget_ends_the_loop(aiida_profile):
    first = judged(1.5)
    second = judged(1.2, first)
    third = judged(1.0, second)
    assert (second["next"], third["next"]) == ("go on", "stop")
    assert "92 of 100 labels are spent" in judged(1.0, second, {"max_rounds": 9, "max_labels": 100})["reason"]
    assert judged(0.1, reliable=False)["verdict"] == "undecided"
    assert judged(0.1, error=3.0)["next"] == "go on"
    with pytest.raises(StudyError, match="the target names nothing"):
        judge_round(
            orm.Dict({"density_percent": None}),
            orm.Dict({}),
            dataset(),
            orm.Dict({"labels": 0}),
            density=moved("density", 0.9, 0.0),
        )


def test_a_loop_that_ends_too_early_says_what_it_would_take(aiida_profile):
    first = judged(1.5, reliable=False, budget={"max_rounds": 2})
    assert "outlook" not in first.get_dict()
    second = judged(1.5, first, reliable=False, budget={"max_rounds": 2})
    assert second["history"] == [{"n_frames": 4, "spread_kT": 4.0}] * 2
    assert second["outlook"].startswith("Energies of model and reference differ by 4 kT with 4, 4 kT with 4 frames")
    assert "outlook" not in judged(0.2).get_dict()


def test_what_cannot_be_is_refused(build):
    without_stress = {**TRAINING, "parameters": {**TRAINING["parameters"], "stress_weight": 0.0}}
    strict = {"dynamics_crystal": {"protocol": "demo", "parameters": {**RUN, "require_stress": True}}}
    for arguments, message in (
        ({"budget": {"rounds": 2}}, "unknown entries \\['rounds'\\] in the budget"),
        ({"target": {"density": 1.0}}, "unknown quantities"),
        ({"overrides": {"labels": {}}}, "unknown input 'labels'"),
        (
            {"budget": {"max_labels": 19}},
            "19 labels does not reach for one round, which takes 8 .* and 12 for each of 1",
        ),
        (
            {"overrides": {"training": without_stress, "averages": {"protocol": "demo", **OVERRIDES, **strict}}},
            "training: the loss leaves out the stress",
        ),
    ):
        with pytest.raises(MlFinetuneError, match=message):
            build(**arguments)
    inputs = build()._inputs(prune=True)
    other = orm.Dict({**inputs["labelling"]["level"].get_dict(), "key": "dft/cp2k"})
    inputs["labelling"] = {**inputs["labelling"], "level": other}
    with pytest.raises(ValueError, match="make the two levels agree"):
        instantiate_process(get_manager().get_runner(), ClosedLoopWorkChain, **inputs)


@pytest.fixture
def process(build):
    made = instantiate_process(get_manager().get_runner(), build())
    made.start()
    return made


def test_a_second_round_trains_on_the_frames_that_the_first_one_found(process, monkeypatch):
    assert process.labels_are_missing()
    process.ctx.labelling = finished(dataset=dataset())
    assert process.inspect_labelling() is None
    submitted = {}
    monkeypatch.setattr(process, "submit", lambda _, **inputs: submitted.update(inputs) or finished())
    assert process.should_go_on()
    process.run_training()
    assert submitted["dataset"].n_frames == 4
    references = {name: moved(name, -50.0, 2.0) for name in ("potential_energy", "density")}
    process.ctx.averages_1 = finished(
        reference=references, reweighting_crystal={"to_train": dataset(3, (TEACHER_KEY, "s/mace"), 1, "b")}
    )
    assert process.inspect_averages() is None
    assert process.ctx.last["verdict"] == "missed"
    assert process.should_go_on()
    process.run_training()
    assert submitted["dataset"].n_frames == 7
    assert process.ctx.number == 2


def test_stages_that_fail_end_the_loop(process, monkeypatch):
    process.ctx.number = 1
    failed = finished(300)
    process.ctx.labelling = process.ctx.training_1 = process.ctx.averages_1 = failed
    for step, label in (
        (process.inspect_labelling, "ERROR_LABELLING_FAILED"),
        (process.inspect_training, "ERROR_TRAINING_FAILED"),
        (process.inspect_averages, "ERROR_AVERAGES_FAILED"),
    ):
        code = step()
        assert code.status == CODES[label].status
        assert "[300] no luck" in code.message
    process.ctx.averages_1 = finished(reference={"enthalpy_crystal": moved("enthalpy_crystal", 1.0, 0.0)})
    assert process.inspect_averages().status == CODES.ERROR_NOT_JUDGED.status

    def refuse(*_, **__):
        raise ValueError("no such code")

    monkeypatch.setattr(process, "submit", refuse)
    code = process.run_labelling()
    assert code.status == CODES.ERROR_STAGE_REFUSED.status
    assert code.message == "The inputs of a stage are refused: labelling: no such code"


def labelled_by_cp2k(spec, images):
    """Return frames with labels at a level of CP2K, as a job leaves them."""
    frames, level = Frames.from_atoms(images), level_metadata(spec, "2023.1")
    n, n_atoms = len(frames), len(frames.numbers)
    return DatasetData(frames.with_labels(Labels.build(level, frames.offsets, np.zeros(n), np.zeros((n_atoms, 3)))))


def test_more_labels_have_the_grid_of_those_that_are_there(ipi_code, python_code, cp2k_code, tiny_model):
    """Where the crystal starts from another cell than that of the first labels; without a grid they are refused."""
    spec, images = load_level("revpbe-d3-demo"), shaken()
    crystal = ice_and_molecule()[0]
    formula = crystal.get_ase().get_chemical_formula()
    first = (1.03 * crystal.get_ase().cell.array).round(6).tolist()
    settled = {**spec, "grid_cells": {formula: [first]}}

    def make(dataset):
        return ClosedLoopWorkChain.get_builder_from_protocol(
            python_code,
            ipi_code,
            cp2k_code,
            dataset,
            crystal,
            None,
            "demo",
            {"training": TRAINING, "averages": {"protocol": "demo", **OVERRIDES}},
            foundation=tiny_model,
            reference_level=spec,
            budget={"max_labels": 1000},
            **STATE,
        )

    builder = make(labelled_by_cp2k(settled, images))
    for level in (builder.labelling.level, builder.averages["reweighting"]["labelling"]["level"]):
        assert level["grid_cells"] == {formula: [first]}
    own = crystal.get_ase().cell.array.round(6).tolist()
    assert make(DatasetData(Frames.from_atoms(images))).labelling.level["grid_cells"] == {formula: [own]}
    with pytest.raises(StudyError, match="with a grid for every cell"):
        make(labelled_by_cp2k(spec, images))
    with pytest.raises(StudyError, match="with other settings"):
        make(labelled_by_cp2k({**settled, "kind": {"BASIS_SET": "SZV"}}, images))
