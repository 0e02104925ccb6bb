"""``mlfinetune.dynamics`` warns of a model that was not assessed, or that failed."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from aiida import orm
from aiida.common import AttributeDict

from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.report.sections.dynamics import dynamics_section
from aiida_mlfinetune.science.crystals.crystals import build_crystal
from aiida_mlfinetune.workchains import dynamics as module
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from tests.calculations.test_ipi import ice_cell
from tests.data.test_assessments import verdict
from tests.report import synthetic

PARAMETERS = {"ensemble": "npt-flexible", "temperature_K": 100.0, "pressure_bar": 1.0, "n_steps": 10, "seed": 1}

pytestmark = pytest.mark.usefixtures("aiida_profile_clean")


@pytest.fixture
def messages(monkeypatch):
    """What is logged when builders are made, as (level, text)."""
    found: list[tuple[int, str]] = []

    class Keep(logging.Handler):
        def emit(self, record):
            found.append((record.levelno, record.getMessage()))

    handler = Keep()
    monkeypatch.setattr(module, "_TOLD", set())
    module.AIIDA_LOGGER.addHandler(handler)
    yield found
    module.AIIDA_LOGGER.removeHandler(handler)


@pytest.fixture
def build(ipi_code):
    def make(model, atoms=None):
        return DynamicsWorkChain.get_builder_from_protocol(
            ipi_code, orm.StructureData(ase=atoms or ice_cell()), model, "demo"
        )

    return make


def reports(model, caller=None) -> list[str]:
    """Return what a process says about its model when it starts."""
    told: list[str] = []
    node = SimpleNamespace(caller=caller)
    inputs = AttributeDict({"model": model, "parameters": orm.Dict(PARAMETERS)})
    chain = SimpleNamespace(inputs=inputs, node=node, report=told.append)
    DynamicsWorkChain.warn_of_model(chain)
    return told


def test_a_model_without_an_assessment_is_warned_of_each_time(build, tiny_model, messages):
    for _ in range(2):
        build(tiny_model)
    warnings = [text for level, text in messages if level == logging.WARNING]
    assert len(warnings) == 2
    assert "has not been assessed" in warnings[0]
    (told,) = reports(tiny_model)
    assert told.startswith("warning: ")
    assert "has not been assessed" in told


def test_a_failed_assessment_is_named_and_a_passed_one_is_not(build, tiny_model, messages):
    verdict(tiny_model.sha256, "distance_hole")
    build(tiny_model)
    (warning,) = [text for level, text in messages if level == logging.WARNING]
    assert "failed 1 of 2 checks (distance_hole H-O)" in warning
    assert "failed" in reports(tiny_model)[0]
    verdict(tiny_model.sha256)
    build(tiny_model)
    assert len([level for level, _ in messages if level == logging.WARNING]) == 1
    assert reports(tiny_model) == []


def test_the_shipped_foundation_is_told_of_once_and_quietly(build, messages):
    model = load_foundation("ice-xtb")
    for _ in range(2):
        build(model, build_crystal("ice-xi"))
    assert not [text for level, text in messages if level >= logging.WARNING]
    assert len([text for _, text in messages if "has not been assessed" in text]) == 1


def test_the_run_of_an_assessment_says_nothing(tiny_model):
    assert reports(tiny_model, SimpleNamespace(process_label="AssessWorkChain")) == []
    assert reports(tiny_model, SimpleNamespace(process_label="SublimationWorkChain"))


def test_the_page_of_a_run_says_it(tiny_model):
    run = synthetic.process(
        orm.WorkChainNode,
        "DynamicsWorkChain",
        inputs={"structure": orm.StructureData(ase=ice_cell()), "model": tiny_model},
        type_="aiida.workflows:mlfinetune.dynamics",
    )
    synthetic.finish(run)
    (warning,) = dynamics_section(run).warnings
    assert "has not been assessed" in warning
    verdict(tiny_model.sha256)
    assert dynamics_section(run).warnings == ()
