"""``mlfinetune.assess`` with real MACE and i-PI, on a tiny model that was never trained."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from aiida import orm
from aiida.common import AttributeDict
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from aiida.manage.caching import enable_caching

from aiida_mlfinetune.common.errors import FramesError, StudyError
from aiida_mlfinetune.data.assessments import assessment_problem, latest_assessment
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.report import collect, render
from aiida_mlfinetune.report.sections.assessment import assessment_section, check_rows
from aiida_mlfinetune.science.crystals.crystals import build_crystal
from aiida_mlfinetune.workchains import assess as module
from aiida_mlfinetune.workchains.assess import AssessWorkChain, training_frames
from tests.calculations.test_ipi import ice_cell
from tests.fixtures.models import TINY_E0S, make_tiny_model
from tests.fixtures.water import XTB

SMALL = {
    "settings": {"n_volumes": 7, "n_dissociation": 10, "n_distances": 5},
    "dynamics": {"parameters": {"n_steps": 24, "stride": 4, "properties_stride": 2}},
}
CODES = AssessWorkChain.exit_codes


@pytest.fixture
def make_builder(python_code, ipi_code, tiny_model, water_frames):
    def make(overrides=None, **kwargs):
        inputs = {
            "python_code": python_code,
            "ipi_code": ipi_code,
            "model": tiny_model,
            "structure": orm.StructureData(ase=ice_cell()),
            "protocol": "demo",
            **kwargs,
        }
        return AssessWorkChain.get_builder_from_protocol(overrides={**SMALL, **(overrides or {})}, **inputs)

    return make


@pytest.fixture
def test_frames(water_frames):
    return DatasetData(water_frames.select([0, 1, 12]))


def test_every_check_is_done_in_one_evaluation_and_one_run(make_builder, test_frames):
    with enable_caching():
        outputs, node = run_get_node(make_builder(test=test_frames, level=XTB.key))
    assert node.is_finished_ok, node.exit_message
    assert sorted(child.process_label for child in node.called) == [
        "DynamicsWorkChain",
        "MaceEvaluateCalculation",
        "assess_model",
        "assessment_frames",
    ]
    verdict = outputs["assessment"]
    checks = {(check["name"], check["of"]): check for check in verdict.details["checks"]}
    names = {name for name, _ in checks}
    assert names == {
        "parity_energy",
        "parity_forces",
        "volume_minima",
        "volume_roughness",
        "isolated_atom",
        "dissociation_limit",
        "atomization",
        "bond_barrier",
        "distance_hole",
        "diatomic_hole",
        "nvt_completed",
        "nvt_temperature",
        "nvt_drift",
        "nvt_distance",
        "nvt_bond",
    }
    # The tiny model has no interaction without edges: atoms that are alone have just their reference energy.
    for element in ("H", "O"):
        assert checks["isolated_atom", element]["value"] == pytest.approx(0.0, abs=1e-9)
    assert checks["dissociation_limit", "H2O"]["value"] == pytest.approx(0.0, abs=1e-9)
    arrays = verdict.arrays()
    e0_sum = 2 * TINY_E0S["H"] + TINY_E0S["O"]
    assert arrays["dissociation_H2O_eV"][-1] == pytest.approx(e0_sum, abs=1e-9)
    assert checks["nvt_completed", ""]["value"] == 1.0
    assert checks["diatomic_hole", "H-O"]["passed"] is None

    # parity by itself
    frames = outputs["dataset"].frames
    parity = frames.select(range(len(frames) - 3, len(frames)))
    error = (parity.labels(module.KEY).energy - parity.labels(XTB.key).energy) / parity.n_atoms
    assert checks["parity_energy", "test frames"]["value"] == pytest.approx(1000 * np.sqrt((error**2).mean()))

    # an untrained model fails, and says where
    failed = [check for check in checks.values() if check["passed"] is False]
    assert verdict.value == len(failed) > 0
    assert not verdict.details["passed"]
    assert len(verdict.warnings) == len(failed)
    assert verdict.conditions["temperature_K"] == 200.0
    assert verdict.conditions["ensemble"] == "nvt"
    assert latest_assessment(node.inputs.model.sha256).uuid == verdict.uuid
    assert "failed" in assessment_problem(node.inputs.model)

    # the report draws it
    section = assessment_section(node)
    assert len(section.tables[0].rows) == len(checks)
    assert len(section.figures) == 5
    text = render(collect(node))
    assert "Assessment of the model" in text
    assert any(row[-1] == "NO" for row in check_rows(verdict))

    # once more: nothing is computed again
    with enable_caching():
        again, second = run_get_node(make_builder(test=test_frames, level=XTB.key))
    calculations = [child for child in second.called_descendants if isinstance(child, orm.CalculationNode)]
    assert len(calculations) == 4
    assert all(child.base.caching.is_created_from_cache for child in calculations)
    assert again["assessment"].base.attributes.all == verdict.base.attributes.all


def test_a_run_that_explodes_is_a_failed_check(make_builder, test_frames):
    hot = {"parameters": {**SMALL["dynamics"]["parameters"], "n_steps": 4000, "min_distance_A": 0.6}}
    builder = make_builder({"dynamics": hot}, temperature_K=15000.0, test=test_frames, level=XTB.key)
    with enable_caching():  # the predictions are those of the test above
        outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    (check,) = [check for check in outputs["assessment"].details["checks"] if check["name"] == "nvt_completed"]
    assert check["passed"] is False
    assert check["value"] < 1


def test_the_run_is_twice_as_hot_and_two_picoseconds_long(python_code, ipi_code, tiny_model):
    crystal = orm.StructureData(ase=ice_cell())
    assert set(AssessWorkChain.get_available_protocols()) == {"demo", "fast", "balanced", "kaur2025"}
    for protocol in AssessWorkChain.get_available_protocols():
        builder = AssessWorkChain.get_builder_from_protocol(python_code, ipi_code, tiny_model, crystal, protocol)
        run = builder.dynamics.parameters
        assert (run["temperature_K"], run["ensemble"]) == (200.0, "nvt")
        assert run["n_steps"] * run["timestep_fs"] == 2000.0
    builder = AssessWorkChain.get_builder_from_protocol(
        python_code, ipi_code, tiny_model, crystal, temperature_K=250.0, options={"i-pi": {"queue_name": "gpu"}}
    )
    assert builder.dynamics.parameters["temperature_K"] == 500.0
    assert builder.dynamics.ipi.metadata.options.queue_name == "gpu"


def test_frames_of_the_training_are_found_in_the_graph(tiny_model, water_sets):
    job = orm.CalcJobNode(process_type="aiida.calculations:mlfinetune.mace_train")
    for name in ("train", "valid"):
        job.base.links.add_incoming(water_sets[name].store(), LinkType.INPUT_CALC, name)
    job.base.links.add_incoming(orm.Str(XTB.key).store(), LinkType.INPUT_CALC, "level")
    job.store()
    tiny_model.base.links.add_incoming(job, LinkType.CREATE, "model")
    tiny_model.store()
    found, name, level = training_frames(tiny_model)
    assert (found.uuid, name, level) == (water_sets["valid"].uuid, "valid", XTB.key)
    problem = module.validate_inputs(
        {
            "model": tiny_model,
            "structure": orm.StructureData(ase=ice_cell()),
            "test": water_sets["train"],
            "level": orm.Str(XTB.key),
        }
    )
    assert "training" in problem


def test_bad_input_is_refused_when_the_builder_is_made(make_builder, test_frames, make_model_data, tmp_path, ipi_code):
    crystal = orm.StructureData(ase=ice_cell())
    with pytest.raises(StudyError, match=r"unknown input 'thresholds\.speed'"):
        make_builder({"thresholds": {"speed": 1}})
    with pytest.raises(ValueError, match="must be a number"):
        make_builder({"thresholds": {"volume_minima": "one"}})
    with pytest.raises(ValueError, match="own volume"):
        make_builder({"settings": {"volume_range": [1.1, 1.2]}})
    with pytest.raises(StudyError, match="unknown programs"):
        make_builder(options={"cp2k": {}})
    with pytest.raises(StudyError, match="not the right program"):
        make_builder(python_code=ipi_code)
    with pytest.raises(StudyError, match="give 'level'"):
        make_builder(test=test_frames)
    with pytest.raises(StudyError, match="no labels at level 'pbe/vasp'"):
        make_builder(test=test_frames, level="pbe/vasp")
    with pytest.raises(ValueError, match="needs 'device' cuda"):
        make_builder({"evaluation": {"enable_cueq": True}})
    other = make_model_data(make_tiny_model(tmp_path / "c.model", ("H", "C")))
    with pytest.raises(StudyError, match="does not know the elements"):
        make_builder(model=other)
    with pytest.raises(StudyError, match="leave `baseline` out"):
        make_builder(baseline=make_model_data(make_tiny_model(tmp_path / "ho.model", ("H", "O"), seed=9)))
    two = make_model_data(make_tiny_model(tmp_path / "two.model", ("H", "O"), heads=("first", "second")))
    with pytest.raises(StudyError, match="head is 'third'"):
        make_builder({"evaluation": {"head": "third"}}, model=two)
    builder = make_builder(model=two)
    assert builder.evaluation["head"] == builder.dynamics.parameters["head"] == "second"
    with pytest.raises(AttributeError, match="modle"):
        builder.modle = two
    builder.evaluation = orm.Dict({"key": "mine/mace", "head": "second"})
    builder.structure = crystal
    with pytest.raises(ValueError, match="must be 'assessed/mace'"):
        run_get_node(builder)


def test_a_difference_needs_its_baseline(make_builder, make_model_data, tmp_path, tiny_model):
    settings = {"baseline": {"sha256": tiny_model.sha256, "head": "Default", "level": "gfn1-xtb/cp2k"}}
    delta = make_model_data(make_tiny_model(tmp_path / "delta.model", ("H", "O"), seed=4), settings=settings)
    with pytest.raises(StudyError, match="pass that model as `baseline`"):
        make_builder(model=delta)
    builder = make_builder(model=delta, baseline=tiny_model, ipi_code=None)
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    verdict = outputs["assessment"]
    assert verdict.conditions["baseline_sha256"] == tiny_model.sha256
    for check in verdict.details["checks"]:
        if check["name"] == "isolated_atom":
            assert check["value"] == pytest.approx(0.0, abs=1e-9)
    assert verdict.arrays()["dissociation_H2O_eV"][-1] == pytest.approx(2 * (2 * TINY_E0S["H"] + TINY_E0S["O"]))


class Chain(SimpleNamespace):
    """What the steps of the chain use of it."""

    exit_codes = CODES

    def out(self, *_):
        pass

    def out_many(self, *_):
        pass

    def exposed_outputs(self, *_, **__):
        return {}


def ended(status: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        is_finished_ok=status == 0, exit_status=status, exit_message="it broke", outputs=SimpleNamespace(dataset=None)
    )


@pytest.mark.parametrize(
    ("ctx", "code"),
    [
        ({"refused": "evaluation: no"}, CODES.ERROR_STAGE_REFUSED),
        ({"evaluation": ended(300)}, CODES.ERROR_EVALUATION_FAILED),
        ({"evaluation": ended(), "dynamics": ended(300)}, CODES.ERROR_DYNAMICS_FAILED),
    ],
)
def test_what_fails_for_other_reasons_than_the_model_ends_the_chain(ctx, code):
    found = AssessWorkChain.inspect(Chain(ctx=AttributeDict(ctx)))
    assert found.status == code.status
    assert "evaluation: no" in found.message or "it broke" in found.message


def test_an_explosion_does_not_end_the_chain():
    ctx = AttributeDict({"evaluation": ended(), "dynamics": ended(module.EXPLODED)})
    assert AssessWorkChain.inspect(Chain(ctx=ctx)) is None


def test_refusals_of_the_calcfunctions_have_their_exit_codes(monkeypatch):
    def refuse(*_, **__):
        raise FramesError("the cell is flat")

    inputs = AttributeDict(dict.fromkeys(("structure", "model", "settings", "evaluation", "thresholds")))
    monkeypatch.setattr(module, "assessment_frames", refuse)
    found = AssessWorkChain.make_frames(Chain(inputs=inputs, ctx=AttributeDict()))
    assert (found.status, "flat" in found.message) == (CODES.ERROR_NO_FRAMES.status, True)
    monkeypatch.setattr(module, "assess_model", refuse)
    ctx = AttributeDict({"plan": None})
    ctx.evaluation = ended()
    found = AssessWorkChain.judge(Chain(inputs=inputs, ctx=ctx))
    assert (found.status, "flat" in found.message) == (CODES.ERROR_NO_VERDICT.status, True)


@pytest.mark.long
def test_the_shipped_foundation_runs_for_two_picoseconds(python_code, ipi_code, aiida_profile):
    """What `ice-xtb` is known to do well: one minimum, no hole between molecules, a stable run."""
    crystal = orm.StructureData(ase=build_crystal("ice-ic"))
    builder = AssessWorkChain.get_builder_from_protocol(
        python_code, ipi_code, load_foundation("ice-xtb"), crystal, "demo"
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    checks = outputs["assessment"].details["checks"]
    assert len([check for check in checks if check["name"].startswith("nvt_")]) == 5
    for check in checks:
        if check["name"].startswith(("nvt_", "volume_")):
            assert check["passed"], check
