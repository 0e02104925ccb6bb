"""Whether a CP2K level fits elements, cells and resources: what would fail is told before it is submitted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from aiida_mlfinetune.calculations.cp2k_cells import (
    cells_problem,
    distant_cells_warning,
    grid_numbers,
    grid_problem,
    narrow_cells_warning,
    settle_level,
    with_grids_of_frames,
)
from aiida_mlfinetune.science.datasets.frames import Frames

NAMES_FILENAME = "cp2k_names.json"
AUXILIARY = ("AUX_FIT", "RI_AUX", "RI_HFX", "LRI_AUX", "RI_K", "RI_XAS", "AUX_OPT", "P_AUX_FIT", "AUX_GW")
FAMILIES = {
    "PBE": ("PBE", "GGA"),
    "PBE0": ("PBE0", "HYB"),
    "BLYP": ("BLYP",),
    "OLYP": ("OLYP",),
    "PADE": ("PADE", "LDA"),
    "SCAN": ("SCAN", "MGGA"),
}
"""By functional, the names of the GTH pseudopotentials that were made for it. revPBE and PBEsol use those of PBE."""
_SHORTCUTS = {"PBE": "PBE", "PBE0": "PBE0", "BLYP": "BLYP", "OLYP": "OLYP", "PADE": "PADE", "LDA": "PADE"}
_POTENTIAL = re.compile(r"GTH-(?:NLCC-)?(?P<family>[A-Za-z0-9]+?)(?:-q\d+)?$")


def level_problem(spec: Mapping[str, Any], frames: Frames) -> str | None:
    """Return why CP2K could not label ``frames`` at a level, or None: elements, basis sets, potentials, cells."""
    periodic = frames.pbc.all(axis=1)
    cells = frames.cells[periodic]
    return (
        kinds_problem(spec, frames.elements)
        or cells_problem(spec, cells, np.flatnonzero(periodic))
        or grid_problem(spec, frames)
    )


def settle_for(spec: Mapping[str, Any], frames: Frames) -> dict[str, Any]:
    """Return the level with the exact-exchange radius, the k-points and the grids that hold for all of ``frames``.

    Frames of a composition that ``grid_cells`` knows share its grids; of another, those of the first of every crystal.

    Raises:
        StudyError: cells that are too small for exact exchange.
    """
    return with_grids_of_frames(settle_level(spec, frames.cells[frames.pbc.all(axis=1)]), frames)


def level_warning(spec: Mapping[str, Any], frames: Frames) -> str | None:
    """Return why labels of ``frames`` at a settled level would be doubtful, or None: too few k-points, another grid."""
    cells = frames.cells[frames.pbc.all(axis=1)]
    warnings = (
        narrow_cells_warning(spec, cells),
        distant_cells_warning(spec, frames),
        several_grids_warning(spec, frames),
    )
    return "; ".join(warning for warning in warnings if warning) or None


def several_grids_warning(spec: Mapping[str, Any], frames: Frames) -> str | None:
    """Return which composition has frames on several grids of a settled level, or None.

    That is right for polymorphs, and wrong for one crystal that was sheared beyond recognition.
    """
    periodic, formulas = np.flatnonzero(frames.pbc.all(axis=1)), frames.formulas
    numbers: dict[str, list[int]] = {}
    for index, number in zip(periodic, grid_numbers(spec, frames)[periodic], strict=True):
        numbers.setdefault(formulas[index], []).append(int(number))
    for formula, own in numbers.items():
        counts = sorted((own.count(number) for number in set(own)), reverse=True)
        if len(counts) > 1:
            return (
                f"frames of {formula} have {len(counts)} grids in level {spec['key']!r} ({counts} frames): if they are "
                "of one crystal, their energies do not compare; deform it less, or raise the cutoff"
            )
    return None


def kinds_problem(spec: Mapping[str, Any], elements: Iterable[str]) -> str | None:
    """Return which element lacks a basis or a potential that is in its file and was made for the functional, or None.

    Only files that come with CP2K 2023.1 are known; names in others are not checked.
    """
    where = f"level {spec['key']!r}"
    dft = spec["parameters"].get("DFT", {})
    if str(dft.get("QS", {}).get("METHOD", "GPW")).upper() in ("XTB", "DFTB"):
        return None
    basis_files = _listed(dft.get("BASIS_SET_FILE_NAME", "BASIS_SET"))
    for element in elements:
        kind = {**spec.get("kind", {}), **spec.get("kinds", {}).get(element, {})}
        potential_files = _listed(kind.get("POTENTIAL_FILE_NAME", dft.get("POTENTIAL_FILE_NAME", "POTENTIAL")))
        remedy = f"set it in `kinds.{element}` of the level"
        for entry in ("BASIS_SET", "POTENTIAL"):
            if not kind.get(entry):
                return f"{where} has no {entry} for {element}: {remedy}"
        for name, files in [(name, basis_files) for name in _basis_names(kind)] + [
            (name.split()[-1], potential_files) for name in _listed(kind["POTENTIAL"])
        ]:
            if (problem := _name_problem(name, element, files)) is not None:
                return f"{where}: {problem}; {remedy}, or name another file"
        for name in _listed(kind["POTENTIAL"]):
            if (problem := _family_problem(name.split()[-1], dft.get("XC", {}))) is not None:
                return f"{where}: {problem}; {remedy}"
    return None


def ranks_problem(spec: Mapping[str, Any], ranks: int) -> str | None:
    """Return why a level cannot run on that number of MPI processes, or None."""
    xc = spec["parameters"].get("DFT", {}).get("XC", {})
    correlation = xc.get("WF_CORRELATION", {})
    where = f"level {spec['key']!r}"
    if "LOW_SCALING" in correlation and ranks > 1:
        return (
            f"{where} computes low-scaling RPA, which CP2K 2023.1 aborts with {ranks} MPI processes: ask for one "
            "(`num_mpiprocs_per_machine: 1`) with threads (`export OMP_NUM_THREADS=...` in the option `prepend_text`)"
        )
    needs = {
        "XC/WF_CORRELATION/GROUP_SIZE": correlation.get("GROUP_SIZE", 1),
        "XC/WF_CORRELATION/RI_RPA/NUM_INTEG_GROUPS": correlation.get("RI_RPA", {}).get("NUM_INTEG_GROUPS", 1),
        "KPOINTS/PARALLEL_GROUP_SIZE": spec["parameters"]["DFT"].get("KPOINTS", {}).get("PARALLEL_GROUP_SIZE", 1),
    }
    for key, needed in needs.items():
        if int(needed) > ranks:
            return f"{where} sets DFT/{key} to {needed}, but the job has {ranks} MPI processes: ask for {needed}"
    return None


def potential_family(xc: Mapping[str, Any]) -> str:
    """Return the functional whose pseudopotentials a level needs, such as ``PBE``; empty if it is none with its own."""
    functional = xc.get("XC_FUNCTIONAL", {})
    if not isinstance(functional, Mapping):
        return _SHORTCUTS.get(str(functional).upper(), "")
    names = {key for key, value in functional.items() if key not in ("_", "PBE_HOLE_T_C_LR") and value is not None}
    if not names:
        return _SHORTCUTS.get(str(functional.get("_", "")).upper(), "")
    if names == {"PBE"}:
        return "PBE0" if "HF" in xc else "PBE"
    if "HF" in xc:
        return ""
    return {frozenset({"BECKE88", "LYP"}): "BLYP", frozenset({"OPTX", "LYP"}): "OLYP", frozenset({"PADE"}): "PADE"}.get(
        frozenset(names), ""
    )


@cache
def known_names() -> dict[str, dict[str, list[str]]]:
    """Return the elements that have each name, by file of CP2K's data."""
    content = json.loads((resources.files(__package__) / NAMES_FILENAME).read_text(encoding="utf-8"))
    del content["about"]
    return {file: {name: elements.split() for name, elements in names.items()} for file, names in content.items()}


def _listed(value: Any) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def _basis_names(kind: Mapping[str, Any]) -> Iterator[str]:
    for entry in _listed(kind["BASIS_SET"]):
        words = entry.split()
        if not (words[0] in AUXILIARY and len(words) > 1 and words[1].upper().startswith("AUTO")):
            yield words[-1]


def _name_problem(name: str, element: str, files: list[str]) -> str | None:
    tables = [known_names().get(file) for file in files]
    if any(table is None for table in tables) or any(element in table.get(name, []) for table in tables if table):
        return None
    others = sorted({known for table in tables if table for known, has in table.items() if element in has})
    return f"there is no {name!r} for {element} in {', '.join(files)}; there are {others}"


def _family_problem(name: str, xc: Mapping[str, Any]) -> str | None:
    needed = potential_family(xc)
    found = _POTENTIAL.match(name)
    if not needed or not found or found["family"].upper() in FAMILIES[needed]:
        return None
    return f"the pseudopotential {name!r} is not one for {needed}, the functional of the level: use GTH-{needed}"
