"""Averages of a model and of its reference by real runs of tiny models, and what is refused before anything runs."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.statistics import time_average
from aiida_mlfinetune.workchains.averages import AveragesWorkChain
from tests.fixtures.averages import OVERRIDES, RUN, STATE, TEACHER, TEACHER_KEY, finished, ice_and_molecule
from tests.fixtures.models import make_tiny_model
from tests.fixtures.study import stand_in_for_runs

CODES = AveragesWorkChain.exit_codes


@pytest.fixture
def teacher(tiny_model, make_model_data, tmp_path):
    return make_model_data(make_tiny_model(tmp_path / "teacher.model", ("H", "O"), seed=1))


@pytest.fixture
def build(ipi_code, python_code, tiny_model, teacher):
    def make(gas=True, reference=True, overrides=None, **kwargs):
        crystal, molecule = ice_and_molecule()
        if reference:
            labels = {"reference_code": python_code, "reference_level": TEACHER, "reference_model": teacher}
            kwargs = {**labels, **kwargs}
        return AveragesWorkChain.get_builder_from_protocol(
            ipi_code,
            crystal,
            tiny_model,
            molecule if gas else None,
            "demo",
            {**OVERRIDES, **(overrides or {})},
            **{**STATE, **kwargs},
        )

    return make


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.long)], ids=["stand-ins", "real"])
def test_averages_of_model_and_reference(build, tiny_model, monkeypatch, real):
    """The runs and their reweighting are made up, or real ones of tiny models."""
    if not real:
        tiny_model.label = "naive_n20_s1"
        stand_in_for_runs(monkeypatch, AveragesWorkChain, binding={"crystal": 0.6})
    outputs, node = run_get_node(build())
    assert node.is_finished_ok, node.exit_message
    reference = outputs["reference"]
    names = {"potential_energy", "density", "enthalpy_crystal", "enthalpy_gas", "sublimation_enthalpy"}
    assert set(reference) == names
    for name in names:
        assert reference[name].conditions["level"] == TEACHER_KEY
        assert reference[name].details["run"]["value"] == pytest.approx(outputs[name].value)
        assert reference[name].value == pytest.approx(outputs[name].value + reference[name].details["shift"]["value"])
    density = outputs["reweighting_crystal"]["density"]
    raw, weights = density.arrays()["frame"], density.arrays()["weights"]
    assert reference["density"].details["shift"]["value"] == pytest.approx(float(weights @ raw - raw.mean()))
    series = outputs["density"].arrays()["density"]
    assert outputs["density"].value == pytest.approx(time_average(series).mean)
    shifts = [reference[f"enthalpy_{phase}"].details["shift"]["value"] for phase in ("gas", "crystal")]
    assert reference["sublimation_enthalpy"].details["shift"]["value"] == pytest.approx(shifts[0] - shifts[1])
    n_frames = sum(outputs[f"reweighting_{phase}"]["dataset"].n_frames for phase in ("crystal", "gas"))
    assert reference["sublimation_enthalpy"].details["n_frames"] == n_frames >= 24
    energy = outputs["reweighting_crystal"]["enthalpy"].arrays()
    per_volume = np.ptp(energy["frame"] - outputs["reweighting_crystal"]["potential_energy"].arrays()["frame"])
    assert 0 < per_volume < 1e-3  # p V at 1 bar, in kJ/mol, whose constant part is the kinetic energy


def test_crystal_alone_without_a_reference_has_neither(build):
    builder = build(gas=False, reference=False)
    assert "dynamics_gas" not in builder._inputs(prune=True)
    assert "reweighting" not in builder._inputs(prune=True)


def run_in(ensemble):
    return {"dynamics_crystal": {"protocol": "demo", "parameters": {**RUN, "ensemble": ensemble}}}


def reweighted(**settings):
    return {"reweighting": {"protocol": "demo", "settings": {**OVERRIDES["reweighting"]["settings"], **settings}}}


def test_what_cannot_be_compared_is_refused(build):
    beads = {**OVERRIDES, "dynamics_gas": {"protocol": "demo", "parameters": {"n_beads": 4}}}
    both = {**beads, "dynamics_crystal": beads["dynamics_gas"]}
    hot = {**OVERRIDES, "dynamics_gas": {"protocol": "demo", "parameters": {"temperature_K": 300.0}}}
    for arguments, message in (
        ({"overrides": beads}, "at one n_beads to be compared"),
        ({"overrides": both}, "the run has 4 beads, but the weights are those of classical nuclei"),
        ({"overrides": hot, "temperature_K": None}, "at one temperature_K to be compared"),
        ({"overrides": {"dynamic_gas": {}}}, "unknown input 'dynamic_gas'"),
        ({"overrides": run_in("nvt"), "reference": False}, "no enthalpy at pressure_bar: use 'npt-flexible'"),
        (
            {"overrides": {"reweighting": {**OVERRIDES["reweighting"], "labelling": {"level": "gfn1-xtb"}}}},
            "in the overrides, 'gfn1-xtb': give it once",
        ),
        ({"overrides": reweighted(n_frames=100)}, "dynamics_crystal: 100 frames are wanted, but of 16 frames"),
        ({"overrides": reweighted(n_frames=None, stride=2)}, "dynamics_crystal: a stride of 2 leaves 8 frames"),
        ({"overrides": reweighted(rdf_pairs=[["C", "O"]], rdf_r_max=2.0)}, "dynamics_crystal: .*'C'"),
        ({"options": {"cp2k": {}}}, "unknown programs in the options"),
    ):
        with pytest.raises(MlFinetuneError, match=message):
            build(**arguments)


def test_a_gas_needs_its_run(build):
    inputs = build()._inputs(prune=True)
    del inputs["molecule"]
    with pytest.raises(ValueError, match="a gas needs both 'molecule' and 'dynamics_gas'"):
        instantiate_process(get_manager().get_runner(), AveragesWorkChain, **inputs)


@pytest.fixture
def process(build):
    made = instantiate_process(get_manager().get_runner(), build())
    made.ctx.structures = {"crystal": made.inputs.crystal, "gas": made.inputs.molecule}
    return made


def test_failed_runs_end_the_chain(process):
    process.ctx.dynamics_crystal = finished(320)
    process.ctx.dynamics_gas = finished(320)
    code = process.inspect_dynamics()
    assert code.status == CODES.ERROR_DYNAMICS_FAILED.status
    assert code.message.count("[320] no luck") == 2


def test_a_failed_reweighting_ends_the_chain(process):
    process.ctx.reweighting_crystal = process.ctx.reweighting_gas = finished(321)
    assert process.inspect_reweighting().status == CODES.ERROR_REWEIGHTING_FAILED.status


def test_runs_without_volumes_have_no_average(process):
    properties = orm.ArrayData({"time_fs": np.arange(3.0)})
    process.ctx.dynamics_crystal = process.ctx.dynamics_gas = finished(properties=properties)
    code = process.average()
    assert code.status == CODES.ERROR_NO_AVERAGE.status
    assert "lack the array" in code.message


def test_inputs_that_a_stage_refuses_end_the_chain(process, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("the model knows no water")

    monkeypatch.setattr(process, "submit", refuse)
    code = process.run_dynamics()
    assert code.status == CODES.ERROR_STAGE_REFUSED.status
    assert "dynamics_gas: the model knows no water" in code.message
