"""Every entry point that pyproject.toml declares loads through AiiDA's factories."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
from aiida.engine import CalcJob, WorkChain
from aiida.orm import Data
from aiida.orm.implementation import StorageBackend
from aiida.parsers import Parser
from aiida.plugins import CalculationFactory, DataFactory, ParserFactory, StorageFactory, WorkflowFactory

GROUPS = {
    "aiida.data": (DataFactory, Data),
    "aiida.calculations": (CalculationFactory, CalcJob),
    "aiida.parsers": (ParserFactory, Parser),
    "aiida.workflows": (WorkflowFactory, WorkChain),
    "aiida.storage": (StorageFactory, StorageBackend),
}
EXPECTED = {
    "aiida.data": {"dataset", "model", "observable"},
    "aiida.calculations": {"cp2k_label", "ase_label", "mace_train", "mace_evaluate", "ipi"},
    "aiida.parsers": {"cp2k_md", "cp2k_label", "ase_label", "mace_train", "mace_evaluate", "ipi"},
    "aiida.storage": {"sqlite_dos"},
    "aiida.workflows": {"sampling", "labelling", "training", "learning_curve", "dynamics", "sublimation"},
}


def declared(group: str) -> set[str]:
    return {entry.name for entry in entry_points(group=group) if entry.name.startswith("mlfinetune.")}


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_the_names_that_others_rely_on_are_declared(group: str):
    assert {f"mlfinetune.{name}" for name in EXPECTED[group]} <= declared(group)


@pytest.mark.parametrize(("group", "name"), sorted((group, name) for group in GROUPS for name in declared(group)))
def test_entry_point_loads(group: str, name: str):
    factory, base = GROUPS[group]
    assert issubclass(factory(name), base)


@pytest.mark.parametrize("group", ["aiida.calculations", "aiida.workflows"])
def test_processes_are_filed_under_their_entry_point(group: str):
    """AiiDA looks the entry point up by the module that defines the class; caching, `verdi` and we go by it."""
    factory, _ = GROUPS[group]
    for name in declared(group):
        assert factory(name).build_process_type() == f"{group}:{name}"


@pytest.mark.parametrize("name", sorted(declared("aiida.workflows")))
def test_every_work_chain_builds_from_protocols(name: str):
    chain = WorkflowFactory(name)
    assert {"demo", "fast", "balanced", "kaur2025"} <= set(chain.get_available_protocols())
    assert callable(chain.get_builder_from_protocol)


@pytest.mark.parametrize("name", sorted(declared("aiida.calculations")))
def test_every_calculation_declares_exit_codes_with_messages(name: str):
    codes = CalculationFactory(name).spec().exit_codes
    assert all(code.message for code in codes.values())


def test_console_script_is_declared():
    (script,) = entry_points(group="console_scripts", name="aiida-mlfinetune")
    assert script.load().name == "main"
