"""The convergence of averages: real runs of tiny models, what is named, and what is refused before anything runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.report import collect, render
from aiida_mlfinetune.workchains.averages import AveragesWorkChain
from aiida_mlfinetune.workchains.convergence import ConvergenceWorkChain, default_reference
from tests.fixtures.averages import (
    OVERRIDES,
    STATE,
    TEACHER,
    TEACHER_KEY,
    finished,
    ice_and_molecule,
    moved,
    observable,
)
from tests.fixtures.study import stand_in_for_runs
from tests.fixtures.water import XTB

CODES = ConvergenceWorkChain.exit_codes
OFF = {"naive": 0.02}
"""In eV a molecule with 10 training frames, of the made-up runs."""
LABELS = ("naive_n4_s1", "naive_n8_s1")


@pytest.fixture
def models(tiny_model, tiny_model_file, make_model_data, tmp_path):
    """Return two students: one that is 0.05 eV an atom off, and the teacher itself under another name."""
    import mace  # noqa: F401 - first, as it makes torch read the tables of e3nn
    import torch

    model = torch.load(tiny_model_file, map_location="cpu", weights_only=False)
    model.scale_shift.shift += 0.05
    model.scale_shift.scale *= 0.95
    torch.save(model, tmp_path / "small.model")
    return dict(zip(LABELS, (make_model_data(tmp_path / "small.model"), tiny_model), strict=True))


@pytest.fixture
def build(ipi_code, python_code, models, tiny_model):
    def make(overrides=None, gas=False, **kwargs):
        crystal, molecule = ice_and_molecule()
        layers = {"averages": {"protocol": "demo", **OVERRIDES}, **(overrides or {})}
        kwargs.setdefault("models", models)
        kwargs.setdefault("reference_level", TEACHER)
        kwargs.setdefault("reference_model", tiny_model)
        return ConvergenceWorkChain.get_builder_from_protocol(
            ipi_code, python_code, crystal, molecule if gas else None, "demo", layers, **{**STATE, **kwargs}
        )

    return make


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.long)], ids=["stand-ins", "real"])
def test_runs_of_all_models_are_compared_with_one_reference(build, models, monkeypatch, real):
    """The runs and the reweighting are made up, or real ones of tiny models."""
    expected = 0.15  # eV a molecule
    if not real:
        for label, model in models.items():
            model.label = label
        expected = 10 * OFF["naive"] * (1 / 4 - 1 / 8)
        made_up = {"binding": {"crystal": 0.6}, "off": OFF, "reference": (0.0, 0.0)}
        stand_in_for_runs(monkeypatch, AveragesWorkChain, **made_up)
    outputs, node = run_get_node(build())
    assert node.is_finished_ok, node.exit_message
    called = {link.link_label: link.node for link in node.base.links.get_outgoing(link_type=LinkType.CALL_WORK).all()}
    assert set(called) == set(LABELS)
    assert "reference" in called["naive_n8_s1"].outputs
    assert "reference" not in called["naive_n4_s1"].outputs
    result = outputs["convergence"]
    assert result.details["reference_model"] == "naive_n8_s1"
    assert result.details["judged"] == ["potential_energy", "density"]
    # The teacher judged by itself: no difference and no error, where the other model is off by what is known
    row = result.details["verdicts"]["naive"]["8"]
    assert abs(row["potential_energy"]["difference"]) < 1e-5
    assert row["verdict"] == "met"
    assert result.details["verdicts"]["naive"]["4"]["verdict"] == "missed"
    off = result.details["verdicts"]["naive"]["4"]["potential_energy"]
    assert off["difference"] == pytest.approx(expected * EV_KJMOL, abs=4 * off["error"] + (2.0 if real else 0.0))
    assert result.details["smallest"] == {"naive": 8}
    density = called["naive_n4_s1"].outputs.density
    assert result.arrays()["naive/density"][0, 0] == density.value
    assert result.arrays()["naive/density_error"][0, 0] == density.error
    assert outputs["reference"]["density"].conditions["level"] == TEACHER_KEY
    assert outputs["to_train"]["crystal"].n_frames == 3
    html = render(collect(node))
    assert 'id="averages-against-the-training-set"' in html
    assert "the smallest sufficient set has 8 frames" in html


def test_a_learning_curve_is_trained_where_no_models_are_given(build, python_code, water_frames):
    dataset = DatasetData(frames=water_frames).store()
    split = {"train": [4, 8], "valid": 4, "test": 0, "seed": 3, "min_separation": 0}
    curve = {"protocol": "demo", "split": split, "training": {"protocol": "demo", "parameters": {"batch_size": 4}}}
    arguments = {"models": None, "python_code": python_code, "dataset": dataset, "level": XTB.key}
    with pytest.raises(MlFinetuneError, match=r"the models are trained at .* but the reference is"):
        build({"learning_curve": curve}, **arguments)
    level = {**TEACHER, "key": XTB.key}
    builder = build({"learning_curve": curve}, reference_level=level, **arguments)
    assert builder.learning_curve.split["train"] == [4, 8]
    assert builder.learning_curve.dataset == dataset


def test_kaur2025_has_the_published_steps(build, cp2k_code):
    """Steps 3 and 4 of Kaur et al., Faraday Discuss. 256, 120 (2025)."""
    builder = ConvergenceWorkChain.get_builder_from_protocol(
        build().averages.dynamics_crystal.ipi.code, cp2k_code, *ice_and_molecule(), "kaur2025", models=build().models
    )
    assert builder.averages.dynamics_crystal.parameters["n_steps"] == 100000
    assert builder.averages.reweighting.settings["n_frames"] == 100
    assert builder.averages.reweighting.labelling.level["key"] == "revpbe-d3/cp2k"
    split = ConvergenceWorkChain.get_protocol_inputs("kaur2025")["learning_curve"]
    assert split["protocol"] == "kaur2025"
    assert set(ConvergenceWorkChain.get_available_protocols()) == {"demo", "fast", "balanced", "kaur2025"}


def test_what_cannot_be_is_refused(build, models):
    for arguments, message in (
        ({"models": {"best": models["naive_n4_s1"]}}, "must be called <mode>_n<size>_s<seed>"),
        ({"models": None}, "give the models, or what makes them"),
        ({"overrides": {"reference_model": "naive_n9_s1"}}, "the reference model 'naive_n9_s1' is none of"),
        ({"target": {"energy": 0.5}}, "unknown quantities \\['energy'\\]"),
        ({"overrides": {"average": {}}}, "unknown input 'average'"),
    ):
        with pytest.raises(MlFinetuneError, match=message):
            build(**arguments)
    inputs = build()._inputs(prune=True)
    inputs["averages"] = {key: value for key, value in inputs["averages"].items() if key != "reweighting"}
    with pytest.raises(ValueError, match="there is no reference"):
        instantiate_process(get_manager().get_runner(), ConvergenceWorkChain, **inputs)
    inputs = build()._inputs(prune=True)
    with pytest.raises(ValueError, match="give either 'models' or the inputs of 'learning_curve'"):
        instantiate_process(get_manager().get_runner(), ConvergenceWorkChain, **{**inputs, "models": {}})


def test_the_reference_is_the_largest_set_in_the_best_mode():
    labels = ["a_n4_s1", "a_n8_s2", "b_n8_s1", "b_n8_s3", "b_n4_s1"]
    assert default_reference(labels, "b") == "b_n8_s1"
    assert default_reference(labels, None) == "a_n8_s2"
    assert default_reference(labels, "failed") == "a_n8_s2"


@pytest.fixture
def process(build):
    made = instantiate_process(get_manager().get_runner(), build())
    assert made.take_models() is None
    made.ctx.queue, made.ctx.active = [], {}
    return made


def called(process, monkeypatch, **children):
    """Let children appear as those that the process called."""
    links = [SimpleNamespace(link_label=label, node=node) for label, node in children.items()]
    base = SimpleNamespace(links=SimpleNamespace(get_outgoing=lambda **_: SimpleNamespace(all=lambda: links)))
    monkeypatch.setattr(type(process), "node", SimpleNamespace(base=base, is_terminated=False))


def good(**references):
    own = {"density": observable("density", 0.9, 0.001), "potential_energy": observable("potential_energy", -50.0)}
    return finished(**own, **({"reference": references} if references else {}))


def test_models_that_fail_are_named_and_the_others_compared(process, monkeypatch):
    whole = good(density=moved("density", 0.9, 0.0), potential_energy=moved("potential_energy", -50.0, 0.1))
    monkeypatch.setattr(process, "out", lambda name, value: process.ctx.setdefault("outs", {}).update({name: value}))
    with monkeypatch.context() as patch:
        called(process, patch, naive_n8_s1=whole, naive_n4_s1=finished(353))
        patch.setattr(process, "report", lambda *_: None)
        code = process.collect()
    assert code.status == CODES.ERROR_RUNS_FAILED.status
    assert "1 of 2 models have no averages" in code.message
    assert "[353] no luck" in process.ctx.outs["convergence"].details["failed"]["naive_n4_s1"]


def test_without_the_reference_there_is_no_comparison(process, monkeypatch):
    for children, label in (
        ({"naive_n8_s1": finished(355), "naive_n4_s1": good()}, "ERROR_NO_REFERENCE"),
        ({"naive_n8_s1": finished(0, reference={"density": moved("density", 0.9, 0.0)})}, "ERROR_NO_AVERAGE"),
    ):
        with monkeypatch.context() as patch:
            called(process, patch, **children)
            patch.setattr(process, "out", lambda *_: None)
            assert process.collect().status == CODES[label].status


def test_a_learning_curve_without_models_ends_the_chain(process):
    process.ctx.learning_curve = finished(361)
    code = process.inspect_learning_curve()
    assert code.status == CODES.ERROR_LEARNING_CURVE_FAILED.status
    assert code.message == "There is no model: [361] no luck"


def test_a_model_that_is_refused_does_not_stop_the_others(process, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("it knows no water")

    monkeypatch.setattr(process, "submit", refuse)
    process.ctx.queue = ["naive_n4_s1"]
    process.submit_runs()
    assert process.ctx.refused == {"naive_n4_s1": "it knows no water"}
    assert not process.has_runs()
    assert isinstance(process.inputs.max_concurrent, orm.Int)
