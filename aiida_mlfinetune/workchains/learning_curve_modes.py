"""Which inputs of ``mlfinetune.training`` make a mode of a learning curve, and which all its trainings share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine.processes.ports import PortNamespace

from aiida_mlfinetune.science.datasets.splits import SETS
from aiida_mlfinetune.workchains.training import TrainingWorkChain

GIVEN = ("dataset", "split", "level", *SETS)
"""Inputs of a training that the learning curve itself gives."""
SHARED = ("max_iterations", "clean_workdir", "handler_overrides", "on_unhandled_failure")
MODE_INPUTS = tuple(
    name
    for name, port in TrainingWorkChain.spec().inputs.items()
    if name not in (*GIVEN, *SHARED) and not isinstance(port, PortNamespace)
)
"""Inputs that may differ from mode to mode."""


def mode_problem(name: str, mode: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the inputs of a mode one by one, or None."""
    if not isinstance(mode, Mapping):
        return f"mode {name!r} must hold inputs of `mlfinetune.training`, got {type(mode).__name__}"
    if unknown := sorted(set(mode) - set(MODE_INPUTS)):
        return f"mode {name!r} has unknown inputs {unknown}: known are {list(MODE_INPUTS)}"
    if not isinstance(mode.get("parameters"), orm.Dict):
        return f"mode {name!r} needs 'parameters', a Dict with its 'mode' and the arguments of MACE"
    ports = TrainingWorkChain.spec().inputs
    for key, value in mode.items():
        if key == "parameters":
            value = orm.Dict({"seed": 0, **value.get_dict()})  # noqa: PLW2901 - each of `seeds` takes this place
        if (problem := ports[key].validate(value)) is not None:
            return f"mode {name!r}: {problem.message}"
    return None
