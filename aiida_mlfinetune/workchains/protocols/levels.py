"""Levels of theory that ship with the package, by name."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from aiida_mlfinetune.calculations.cp2k_cells import settle_level
from aiida_mlfinetune.calculations.cp2k_input import check_level
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.workchains.protocols import load_yaml, merge

LEVELS_FILENAME = "cp2k_levels.yaml"


def available_levels() -> dict[str, str]:
    """Return a line on each CP2K level by its name."""
    return {name: f"{spec['method']} {spec['basis']}".strip() for name, spec in load_yaml(LEVELS_FILENAME).items()}


def load_level(name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the level specification ``name``, a JSON-serialisable dictionary that holds its own name.

    ``overrides`` is laid over it; change ``key`` along with whatever changes the numbers, so that labels of both levels
    can live on the same frames. ``kpoints`` may be asked of levels that bear them: ``{"mesh": [2, 2, 1]}``, which holds
    the Gamma point, or ``{"spacing_per_A": 0.3}``; and ``grid_cells``, by formula of the cell a list of reference
    cells (3, 3) in angstrom whose grids the frames of each crystal share. What depends on the cells is left open here
    unless it is given: see ``settle_for``.

    Raises:
        StudyError: an unknown name or entry, CP2K keys that cannot be right, or k-points of a level that has none.
    """
    levels = load_yaml(LEVELS_FILENAME)
    if name not in levels:
        raise StudyError(f"unknown CP2K level {name!r}: choose from {list(levels)}")
    base = {"name": name, **deepcopy(levels[name])}
    base |= dict.fromkeys({"kpoints", "grid_cells"} & set(overrides or {}))
    free = {"parameters", "kind", "kinds", "gas.parameters"}
    spec = merge(base, overrides or {}, free, f"overrides of level {name!r}")
    check_level(spec)
    return settle_level(spec)
