"""Checks on the codes that users pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiida import orm

PYTHON_PLUGINS = ("mlfinetune.mace_train", "mlfinetune.mace_evaluate", "mlfinetune.ase_label")
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
