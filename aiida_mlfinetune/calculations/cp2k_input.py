"""From a CP2K level of theory to the FORCE_EVAL section for given elements, as nested upper-case dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike

from aiida_mlfinetune.calculations.cp2k_cells import check_cell_settings
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.datasets.levels import Level

SPEC_KEYS = (
    "name",
    "key",
    "engine",
    "method",
    "basis",
    "energy",
    "parameters",
    "kind",
    "kinds",
    "gas",
    "exchange",
    "kpoints",
    "grid_cells",
    "stress",
)
DEFINING_KEYS = ("parameters", "kind", "kinds", "gas", "exchange", "kpoints", "grid_cells")
GAS_KEYS = ("padding_A", "parameters")


def check_level(spec: Mapping[str, Any]) -> None:
    """Check a CP2K level specification.

    Raises:
        StudyError: an unknown or missing entry, another engine, or a CP2K key that is misspelt or not upper case.
    """
    if unknown := sorted(set(spec) - set(SPEC_KEYS)):
        raise StudyError(f"unknown entries {unknown} in the CP2K level: known are {list(SPEC_KEYS)}")
    if missing := [key for key in ("key", "engine", "parameters", "gas") if key not in spec]:
        raise StudyError(f"the CP2K level lacks {missing}: start from one that `load_level` returns")
    if spec["engine"] != "cp2k":
        raise StudyError(f"level {spec['key']!r} is for engine {spec['engine']!r}, not for cp2k")
    if unknown := sorted(set(spec["gas"]) - set(GAS_KEYS)):
        raise StudyError(f"unknown entries {unknown} in `gas` of level {spec['key']!r}: known are {list(GAS_KEYS)}")
    level_metadata(spec)
    check_cell_settings(spec)
    check_keys(spec["parameters"], f"level {spec['key']!r}")
    check_keys(spec["gas"].get("parameters", {}), f"level {spec['key']!r}")
    for kind in (spec.get("kind", {}), *spec.get("kinds", {}).values()):
        check_keys(kind, f"level {spec['key']!r}", "FORCE_EVAL/SUBSYS/KIND")


def check_keys(tree: Mapping[str, Any], where: str, path: str = "FORCE_EVAL") -> None:
    """Check the sections and keywords of ``tree``, which is the section ``path`` of a CP2K input.

    A key that CP2K 2023.1 lacks is refused only if it looks like one that is there: others may be newer, and CP2K
    itself refuses what it does not know.

    Raises:
        StudyError: a key that is not upper case, or that is misspelt.
    """
    known = known_keys().get(path)
    for key, value in tree.items():
        if not isinstance(key, str) or key != key.upper():
            raise StudyError(f"CP2K key {key!r} in {path} of {where} is not upper case")
        if known and key not in known and key != "_" and (close := get_close_matches(key, known, 1, 0.8)):
            raise StudyError(f"CP2K has no {key!r} in {path} ({where}): did you mean {close[0]!r}?")
        for section in value if isinstance(value, list) else [value]:
            if isinstance(section, Mapping):
                check_keys(section, where, f"{path}/{key}")


@cache
def known_keys() -> dict[str, list[str]]:
    """Return the sections and keywords of CP2K 2023.1 by section, for the sections that a level touches."""
    return yaml.safe_load((resources.files(__package__) / "cp2k_keys.yaml").read_text(encoding="utf-8"))


def level_metadata(spec: Mapping[str, Any], code_version: str = "") -> Level:
    """Return what labels made with the level ``spec`` carry; ``code_version`` as printed by CP2K."""
    return Level(
        key=spec["key"],
        engine="cp2k",
        method=spec.get("method", ""),
        basis=spec.get("basis", ""),
        energy=spec.get("energy", "free"),
        code="CP2K",
        code_version=code_version,
        settings={key: deepcopy(spec[key]) for key in DEFINING_KEYS if spec.get(key)},
    )


def force_eval(spec: Mapping[str, Any], elements: Iterable[str], periodic: bool) -> dict[str, Any]:
    """Return the FORCE_EVAL section of a level.

    The caller adds ``SUBSYS/CELL`` vectors and coordinates; for molecules (``periodic=False``) the cell must be a cube
    with the molecule in its centre, see ``vacuum_edge_A``.

    Args:
        spec: the level, as from ``load_level``.
        elements: chemical symbols that need a KIND section.
        periodic: in three directions, with analytical stress if the level has one; or not at all, without stress.
    """
    check_level(spec)
    tree: dict[str, Any] = deepcopy(dict(spec["parameters"]))
    subsys = tree.setdefault("SUBSYS", {})
    kinds = {element: {**spec.get("kind", {}), **spec.get("kinds", {}).get(element, {})} for element in set(elements)}
    if any(kinds.values()):  # xTB needs none, and warns of them
        subsys["KIND"] = [{"_": element, "ELEMENT": element, **kinds[element]} for element in sorted(kinds)]
    if periodic:
        subsys.setdefault("CELL", {})["PERIODIC"] = "XYZ"
        if has_stress(spec):
            tree["STRESS_TENSOR"] = "ANALYTICAL"
            tree.setdefault("PRINT", {})["STRESS_TENSOR"] = {"_": "ON"}
    else:
        tree.get("DFT", {}).pop("KPOINTS", None)
        subsys.setdefault("CELL", {})["PERIODIC"] = "NONE"
        tree = lay_over(tree, spec["gas"].get("parameters", {}))
    return tree


def has_stress(spec: Mapping[str, Any]) -> bool:
    """Return whether CP2K has an analytical stress for crystals at a level."""
    return bool(spec.get("stress", True))


def vacuum_edge_A(spec: Mapping[str, Any], positions: ArrayLike) -> float:  # noqa: N802 - the unit
    """Return the edge in angstrom of the cube for a molecule at ``positions`` (n, 3), rounded up to 0.5 angstrom."""
    coordinates = np.asarray(positions, dtype=float).reshape(-1, 3)
    extent = float(np.ptp(coordinates, axis=0).max())
    return float(np.ceil(2 * (extent + 2 * float(spec["gas"].get("padding_A", 5.0)))) / 2)


def lay_over(base: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Return CP2K sections ``base`` with ``delta`` laid over them, recursively."""
    merged = deepcopy(dict(base))
    for key, value in delta.items():
        if isinstance(merged.get(key), Mapping) and isinstance(value, Mapping):
            merged[key] = lay_over(merged[key], value)
        else:
            merged[key] = deepcopy(value)
    return merged
