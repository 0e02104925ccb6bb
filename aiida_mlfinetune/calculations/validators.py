"""Validators that the ports of several processes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiida import orm

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData

PYTHON_PLUGINS = (
    "mlfinetune.mace_train",
    "mlfinetune.mace_evaluate",
    "mlfinetune.mace_descriptors",
    "mlfinetune.ase_label",
)
"""Plugins that share one code: a Python in whose environment MACE is installed."""
CP2K_PLUGINS = ("cp2k", "mlfinetune.cp2k_md", "mlfinetune.cp2k_label")
IPI_PLUGINS = ("mlfinetune.ipi",)
VASP_PLUGINS = ("vasp.vasp",)


def validate_program(*allowed: str) -> Callable[[orm.AbstractCode | None, Any], str | None]:
    """Return a port validator that refuses a code which was set up for another program than ``allowed``."""

    def validate(code: orm.AbstractCode | None, _: Any) -> str | None:
        if code is None or code.default_calc_job_plugin is None or code.default_calc_job_plugin in allowed:
            return None
        return (
            f"code {code.full_label!r} is not the right program: it is set up for plugin "
            f"{code.default_calc_job_plugin!r}, but one of {list(allowed)} is needed. Pass another code, or create "
            "the missing one with `aiida-mlfinetune setup`"
        )

    return validate


def validate_dict(check: Callable[[dict[str, Any]], object]) -> Callable[[orm.Dict | None, Any], str | None]:
    """Return a port validator that gives a dictionary to ``check``, and returns what that complains of."""

    def validate(node: orm.Dict | None, _: Any = None) -> str | None:
        try:
            if node is not None:
                check(node.get_dict())
        except MlFinetuneError as error:
            return str(error)
        return None

    return validate


def validate_positive(value: orm.Int | None, _: Any = None) -> str | None:
    """Refuse numbers below one."""
    return None if value is None or value.value >= 1 else f"must be at least 1, got {value.value}"


def new_level_problem(level: Mapping[str, Any], dataset: DatasetData) -> str | None:
    """Return what is wrong where a dataset is to gain a level whose key it has."""
    if level["key"] not in dataset.levels:
        return None
    return f"the dataset has labels at level {level['key']!r} already: drop them, or use another key"


def kinds_problem(structure: orm.StructureData) -> str | None:
    """Return what is wrong where kinds of a structure are not named like their elements."""
    if odd := sorted({kind.name for kind in structure.kinds if kind.name != kind.symbol}):
        return f"the structure holds kinds {odd} that are not named like their element: use plain elements"
    return None
