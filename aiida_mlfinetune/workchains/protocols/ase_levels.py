"""Levels of theory for ASE calculators that ship with the package, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida_mlfinetune.calculations.ase_label import check_ase_level
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.workchains.protocols import load_yaml, merge

LEVELS_FILENAME = "ase_levels.yaml"


def available_ase_levels() -> dict[str, str]:
    """Return a line on each level by its name."""
    return {name: f"{spec['method']} with {spec['calculator']}" for name, spec in load_yaml(LEVELS_FILENAME).items()}


def load_ase_level(name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the level specification ``name`` with ``overrides`` laid over it.

    Raises:
        StudyError: an unknown name or entry.
    """
    levels = load_yaml(LEVELS_FILENAME)
    if name not in levels:
        raise StudyError(f"unknown ASE level {name!r}: choose from {list(levels)}")
    spec = merge(levels[name], overrides or {}, {"kwargs"}, f"overrides of level {name!r}")
    check_ase_level(spec)
    return spec
