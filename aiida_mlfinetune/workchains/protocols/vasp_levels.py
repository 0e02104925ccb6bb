"""Levels of theory for VASP that ship with the package, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida_mlfinetune.calculations.vasp_input import check_vasp_level
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.workchains.protocols import load_yaml, merge

LEVELS_FILENAME = "vasp_levels.yaml"


def available_vasp_levels() -> dict[str, str]:
    """Return a line on each level by its name."""
    return {name: f"{spec['method']}, {spec['basis']}" for name, spec in load_yaml(LEVELS_FILENAME).items()}


def load_vasp_level(name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the level specification ``name`` with ``overrides`` laid over it; `kpoints` are replaced as a whole.

    Change ``key`` along with whatever changes the numbers, so that labels of both levels can live on the same frames.

    Raises:
        StudyError: an unknown name or entry, or INCAR tags that break a label.
    """
    levels = load_yaml(LEVELS_FILENAME)
    if name not in levels:
        raise StudyError(f"unknown VASP level {name!r}: choose from {list(levels)}")
    base, changes = {"name": name, **levels[name]}, dict(overrides or {})
    if "kpoints" in changes:
        base["kpoints"] = {}
    spec = merge(base, changes, {"incar", "kpoints", "potentials.mapping"}, f"overrides of level {name!r}")
    check_vasp_level(spec)
    return spec
