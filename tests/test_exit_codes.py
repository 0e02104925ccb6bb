"""Every exit code that this package declares is named in a test of its process."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from aiida.engine import Process
from aiida.plugins import CalculationFactory, WorkflowFactory
from aiida.plugins.entry_point import get_entry_point_names

TESTS = {path: path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py")}


def processes() -> dict[str, type[Process]]:
    """Return our process classes by entry point; functions declare no exit codes of their own."""
    found = {}
    for group, factory in (("aiida.calculations", CalculationFactory), ("aiida.workflows", WorkflowFactory)):
        for name in get_entry_point_names(group):
            if name.startswith("mlfinetune.") and inspect.isclass(process := factory(name)):
                found[name] = process
    return found


def declared() -> list[tuple[str, str]]:
    """Return (entry point, label) of the exit codes that a process declares itself or changes from its parent's."""
    pairs = []
    for name, process in processes().items():
        parent = next(base for base in process.__mro__[1:] if issubclass(base, Process))
        inherited = parent.exit_codes
        pairs += [(name, label) for label, code in process.exit_codes.items() if inherited.get(label) != code]
    return pairs


@pytest.mark.parametrize(("name", "label"), declared())
def test_an_exit_code_is_named_in_a_test_of_its_process(name: str, label: str):
    process = processes()[name]
    parser = process.__name__.replace("Calculation", "Parser")
    of_process = [text for text in TESTS.values() if re.search(rf"\b({process.__name__}|{parser})\b", text)]
    assert of_process, f"no test names {process.__name__}"
    assert any(re.search(rf"\b{label}\b", text) for text in of_process), f"no test of {name} names {label}"


def test_our_processes_declare_exit_codes():
    names = {name for name, _ in declared()}
    assert names == set(processes())
    assert len(names) >= 10
