"""What of a CP2K level depends on the cells: the radius of truncated exact exchange, the k-points, and the grid.

All three define the energy, so all frames of a dataset have to share them: they are settled once, for the whole
dataset, when a builder is made, and are part of the level from then on.

Left to itself, CP2K chooses the number of points of its grid for each cell anew, and the energy jumps where that
changes: of eight molecules of ice at 280 Ry by 350 meV, with the edge 0.5 % longer. No model can learn that, and no
density comes out right. Frames of a crystal therefore share the grid of a reference cell (CP2K's ``CELL_REF``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from ase.formula import Formula
from numpy.typing import ArrayLike, NDArray

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.crystals.cells import kpoints_mesh, largest_radius_A, perpendicular_widths
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.reference_cells import strains, with_references

EXCHANGE_KEYS = ("radius_A", "largest_A")
KPOINTS_KEYS = ("mesh", "spacing_per_A")
GRIDLESS = ("XTB", "DFTB")
"""Methods whose energy does not depend on a grid."""
DOUBTFUL_STRAIN = 0.1
"""Beyond it, the effective cutoff is more than a fifth off."""
SHORTEST_RADIUS_A = 1.5
NARROW_A = 6.0
"""Ice at revPBE-D3 and the Gamma point, against 3 x 2 x 2 k-points: forces are off by 80 meV/A (RMS) in cells of 4.5
angstrom, and 2 x 1 x 1 k-points in the same cells, 9 angstrom in effect, are off by 6."""


def check_cell_settings(spec: Mapping[str, Any]) -> None:
    """Check the entries ``exchange``, ``kpoints`` and ``grid_cells`` of a level.

    Raises:
        StudyError: unknown entries, values that cannot be, or k-points or a grid for a method that has none in CP2K.
    """
    where = f"of level {spec['key']!r}"
    _check_grid_cells(spec, where)
    for name, known in (("exchange", EXCHANGE_KEYS), ("kpoints", KPOINTS_KEYS)):
        if unknown := sorted(set(spec.get(name) or {}) - set(known)):
            raise StudyError(f"unknown entries {unknown} in `{name}` {where}: known are {list(known)}")
    radius = (spec.get("exchange") or {}).get("radius_A")
    if radius is not None and not radius > 0:
        raise StudyError(f"`exchange.radius_A` {where} must be positive or null, got {radius!r}")
    dft = spec["parameters"].get("DFT", {})
    kpoints = spec.get("kpoints") or {}
    if not kpoints and "KPOINTS" not in dft:
        return
    if reason := _no_kpoints(dft):
        raise StudyError(
            f"level {spec['key']!r} has no k-points: CP2K does not have them for {reason}; leave them out and use a "
            "supercell, or take another level"
        )
    if ("mesh" in kpoints) == ("spacing_per_A" in kpoints) and "KPOINTS" not in dft:
        raise StudyError(f"`kpoints` {where} needs either `mesh` (three numbers) or `spacing_per_A`")
    mesh = kpoints.get("mesh", [1, 1, 1])
    if len(mesh) != 3 or any(not isinstance(n, int) or n < 1 for n in mesh):
        raise StudyError(f"`kpoints.mesh` {where} must be three numbers of at least 1, got {mesh!r}")
    if not kpoints.get("spacing_per_A", 1.0) > 0:
        raise StudyError(f"`kpoints.spacing_per_A` {where} must be positive, got {kpoints['spacing_per_A']!r}")


def settle_level(spec: Mapping[str, Any], cells: ArrayLike | None = None) -> dict[str, Any]:
    """Return the level with the radius and the mesh that hold for all ``cells``, written into its sections.

    The radius is just under half the smallest width of any cell, at most ``exchange.largest_A``; the mesh is the one
    that the smallest cell needs. What the level gives explicitly stays as it is.

    Args:
        spec: the level, as from ``load_level``.
        cells: (n, 3, 3) in angstrom, those of the periodic frames; none for molecules; None if they are not known yet,
            and then what depends on them is left open.

    Raises:
        StudyError: cells that are too small for exact exchange.
    """
    settled = deepcopy(dict(spec))
    check_cell_settings(settled)
    exchange = settled.get("exchange") or {}
    if exchange and exchange.get("radius_A") is None and cells is not None:
        exchange["radius_A"] = largest_radius_A(cells, exchange.get("largest_A", 6.0))
        if exchange["radius_A"] < SHORTEST_RADIUS_A:
            raise StudyError(
                f"a cell of {perpendicular_widths(cells).min():.2f} angstrom is too narrow for the exact exchange of "
                f"level {spec['key']!r}, which needs twice {SHORTEST_RADIUS_A} angstrom: use a supercell"
            )
    if exchange.get("radius_A") is not None:
        for section in _truncated(settled["parameters"]):
            section["CUTOFF_RADIUS"] = exchange["radius_A"]
    kpoints = settled.get("kpoints") or {}
    if "spacing_per_A" in kpoints and cells is not None and np.size(cells):
        settled["kpoints"] = kpoints = {"mesh": list(kpoints_mesh(cells, kpoints["spacing_per_A"]))}
    if "mesh" in kpoints:
        _use_mesh(settled["parameters"]["DFT"], kpoints["mesh"])
    return settled


def with_grid_cells(spec: Mapping[str, Any], crystals: Frames) -> dict[str, Any]:
    """Return the level with a reference cell for each of ``crystals``, if it has a grid.

    Crystals of one composition share it where the one is stretched by less than 25 % against the other.
    """
    periodic = np.flatnonzero(crystals.pbc.all(axis=1))
    if not periodic.size or not has_grid(spec):
        return dict(spec)
    formulas, known = np.array(crystals.formulas)[periodic].tolist(), spec.get("grid_cells") or {}
    return {**spec, "grid_cells": with_references(known, formulas, crystals.cells[periodic])}


def with_grids_of_frames(spec: Mapping[str, Any], frames: Frames) -> dict[str, Any]:
    """Return the level with reference cells for those of ``frames`` whose composition has none yet.

    However far they are strained, frames of a composition that the level knows are of the crystals that it knows.
    """
    known = spec.get("grid_cells") or {}
    return with_grid_cells(spec, frames.select([i for i, name in enumerate(frames.formulas) if name not in known]))


def as_labelled(spec: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the level with radius, mesh and grids of labels that were made at it, so that more can be joined to them.

    Args:
        spec: the level; reference cells of crystals that are new to the labels stay.
        settings: of the labels' level, as ``level_metadata`` made them.
    """
    own = {name: settings[name] for name in ("exchange", "kpoints", "grid_cells") if settings.get(name)}
    settled = settle_level({**spec, **own})
    for formula, cells in (spec.get("grid_cells") or {}).items():
        settled["grid_cells"] = with_references(settled["grid_cells"], [formula] * len(cells), cells)
    return settled


def has_grid(spec: Mapping[str, Any]) -> bool:
    """Return whether the energy of a level depends on a grid."""
    return str(spec["parameters"].get("DFT", {}).get("QS", {}).get("METHOD", "GPW")).upper() not in GRIDLESS


def grid_strains(spec: Mapping[str, Any], frames: Frames) -> list[NDArray[np.float64]]:
    """Return (n) for each of ``frames`` how far it is from every reference cell of its composition, none for some."""
    references, own = spec.get("grid_cells") or {}, []
    for formula, cell, pbc in zip(frames.formulas, frames.cells, frames.pbc, strict=True):
        cells = references.get(formula) if all(pbc) else None
        own.append(strains(cells, cell) if cells else np.zeros(0))
    return own


def grid_numbers(spec: Mapping[str, Any], frames: Frames) -> NDArray[np.int64]:
    """Return (n,) which of the reference cells of its composition gives each of ``frames`` its grid: the nearest.

    That is 0 where there is none: for molecules, and where the grid is open.
    """
    return np.array([own.argmin() if own.size else 0 for own in grid_strains(spec, frames)], dtype=np.int64)


def grid_section(spec: Mapping[str, Any], frames: Frames) -> dict[str, Any]:
    """Return what CP2K's section of the cell needs to have the grid of the first of ``frames``; nothing without one."""
    (own,) = grid_strains(spec, first := frames.select([0]))
    if not own.size:
        return {}
    reference = spec["grid_cells"][first.formulas[0]][own.argmin()]
    return {"CELL_REF": {name: " ".join(map(repr, row)) for name, row in zip("ABC", reference, strict=True)}}


def cells_problem(spec: Mapping[str, Any], cells: ArrayLike, indices: ArrayLike | None = None) -> str | None:
    """Return why a level does not fit the periodic cells (n, 3, 3), those of the frames ``indices``, or None."""
    if (spec.get("exchange") or {}).get("radius_A", 0.0) is None:
        return (
            f"the exact-exchange radius of level {spec['key']!r} is open: set `exchange.radius_A` (angstrom, less than "
            "half the smallest width of any cell), or get it from `settle_level(level, cells)`"
        )
    if not np.size(cells):
        return None
    if "spacing_per_A" in (spec.get("kpoints") or {}):
        return (
            f"the k-points of level {spec['key']!r} are open: set `kpoints.mesh`, or get it from "
            "`settle_level(level, cells)`"
        )
    radii = [float(section.get("CUTOFF_RADIUS", 0.0)) for section in _truncated(spec["parameters"])]
    widths = perpendicular_widths(cells).min(axis=1)
    if radii and widths.min() < 2 * max(radii):
        worst = int(widths.argmin())
        frame = worst if indices is None else int(np.asarray(indices)[worst])
        return (
            f"the cell of frame {frame} is {widths[worst]:.3f} angstrom wide, less than twice the exact-exchange "
            f"radius of {max(radii)} angstrom of level {spec['key']!r}: use a supercell, or set `exchange.radius_A` to "
            f"at most {largest_radius_A(cells, np.inf)} angstrom (and another key, since that is another level)"
        )
    return None


def narrow_cells_warning(spec: Mapping[str, Any], cells: ArrayLike) -> str | None:
    """Return why labels of the periodic cells (n, 3, 3) are doubtful at the k-points of a settled level, or None.

    A mesh counts as a supercell: cells are narrow where width times number of k-points is below 6 angstrom.
    """
    dft, kpoints = spec["parameters"].get("DFT", {}), spec.get("kpoints") or {}
    if not np.size(cells) or "spacing_per_A" in kpoints or ("KPOINTS" in dft and "mesh" not in kpoints):
        return None  # k-points that are open yet, or given in CP2K's own words
    mesh = np.array(kpoints.get("mesh", [1, 1, 1]))
    widths = perpendicular_widths(cells).min(axis=0)
    repeats = np.ceil(NARROW_A / (widths * mesh) - 1e-9).astype(int)
    if repeats.max() == 1:
        return None
    where = "at the Gamma point alone" if mesh.max() == 1 else f"with {' x '.join(map(str, mesh))} k-points"
    remedy = f"take a supercell ({' x '.join(map(str, repeats))})"
    if not _no_kpoints(dft):
        remedy += f", or `kpoints: {{mesh: {(mesh * repeats).tolist()}}}` in a level with another `key`"
    return (
        f"level {spec['key']!r} is computed {where}, and the narrowest cell is {widths.min():.2f} angstrom wide: "
        f"in one of 4.5 angstrom, forces of ice are off by 80 meV/A; {remedy}"
    )


def grid_problem(spec: Mapping[str, Any], frames: Frames) -> str | None:
    """Return why the grid of a level does not fit ``frames``, or None."""
    if not has_grid(spec):
        return None
    open_cells: dict[str, NDArray[np.float64]] = {}
    for formula, cell, pbc in zip(frames.formulas, frames.cells, frames.pbc, strict=True):
        if not all(pbc) or formula in (spec.get("grid_cells") or {}):
            continue
        if not np.allclose(cell, open_cells.setdefault(formula, cell), rtol=0.0, atol=1e-6):
            return (
                f"the cells of {formula} differ, and the grid of level {spec['key']!r} is open, so that energies would "
                "jump from one cell to another: set `grid_cells` (by formula, reference cells in angstrom), or get "
                "them from `settle_for(level, frames)`"
            )
    return None


def distant_cells_warning(spec: Mapping[str, Any], frames: Frames) -> str | None:
    """Return why the grid of a settled level is doubtful for some of ``frames``, or None."""
    largest = max((own.min() for own in grid_strains(spec, frames) if own.size), default=0.0)
    if largest <= DOUBTFUL_STRAIN:
        return None
    return (
        f"a cell is stretched by {100 * largest:.0f} % against the reference cell of its grid, in level "
        f"{spec['key']!r}: the effective cutoff changes by twice that"
    )


def _check_grid_cells(spec: Mapping[str, Any], where: str) -> None:
    references = spec.get("grid_cells") or {}
    if not references:
        return
    if not has_grid(spec):
        raise StudyError(f"`grid_cells` {where}: its method has no grid; leave them out")
    if not isinstance(references, Mapping):
        raise StudyError(f"`grid_cells` {where} must name the formula of each cell: {{'H16O8': [cell, ...]}}")
    for formula, cells in references.items():
        try:
            proper = Formula(formula).format("hill")
        except ValueError as error:
            raise StudyError(f"`grid_cells` {where}: {formula!r} is no formula of a cell") from error
        if formula != proper:
            raise StudyError(f"`grid_cells` {where}: write the formula {formula!r} of the cell as {proper!r}")
        try:
            shape, volumes = np.shape(cells), np.abs(np.linalg.det(np.array(cells, dtype=float)))
        except (ValueError, TypeError, np.linalg.LinAlgError):
            shape, volumes = (), np.zeros(1)
        if len(shape) != 3 or shape[1:] != (3, 3) or volumes.min() < 1e-3:
            raise StudyError(
                f"`grid_cells` {where} must hold, for {formula}, a list of cells: three vectors in angstrom each, with "
                "a volume"
            )


def _no_kpoints(dft: Mapping[str, Any]) -> str:
    xc = dft.get("XC", {})
    method = str(dft.get("QS", {}).get("METHOD", "GPW")).upper()
    if method not in ("GPW", "GAPW"):
        return method
    if "WF_CORRELATION" in xc:
        return "forces of RPA and MP2"
    return "exact exchange" if "HF" in xc else ""


def _truncated(tree: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the sections below ``tree`` that hold the radius of exact exchange."""
    for key, value in tree.items():
        if not isinstance(value, dict):
            continue
        if key == "PBE_HOLE_T_C_LR" or (key == "INTERACTION_POTENTIAL" and "TRUNC" in value.get("POTENTIAL_TYPE", "")):
            yield value
        else:
            yield from _truncated(value)


def _use_mesh(dft: dict[str, Any], mesh: list[int]) -> None:
    """Put a mesh that holds the Gamma point into ``dft``, and a minimiser that bears it: OT has no k-points."""
    shifts = [0.0 if n % 2 else 0.5 / n for n in mesh]
    dft["KPOINTS"] = {
        "SCHEME": "MACDONALD " + " ".join(str(value) for value in (*mesh, *shifts)),
        "SYMMETRY": False,
        "PARALLEL_GROUP_SIZE": -1,
    }
    dft.setdefault("QS", {})["EXTRAPOLATION"] = "USE_PREV_P"  # wavefunctions are not carried over with k-points
    dft["QS"].pop("EXTRAPOLATION_ORDER", None)
    scf = dft.setdefault("SCF", {})
    if scf.pop("OT", None) is not None:
        scf.pop("OUTER_SCF", None)
        scf["MAX_SCF"] = 100
        scf["DIAGONALIZATION"] = {"_": "ON"}
        scf["MIXING"] = {"METHOD": "BROYDEN_MIXING", "ALPHA": 0.4, "NBROYDEN": 8}
