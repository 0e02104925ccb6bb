"""Levels of theory for VASP: what a level holds, what would break a label, and what a frame becomes in POSCAR."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import yaml
from aiida import orm
from ase.data import chemical_symbols

from aiida_mlfinetune.calculations.cp2k_input import vacuum_edge_A
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray, IntArray, Level

SPEC_KEYS = ("name", "key", "engine", "method", "basis", "energy", "incar", "kpoints", "potentials", "gas")
POTENTIAL_KEYS = ("family", "functional", "mapping")
KPOINT_KEYS = ("mesh", "spacing_inv_A")
PER_ATOM_TAGS = ("magmom", "ldaul", "ldauu", "ldauj", "rwigs", "m_constr", "eatom", "langevin_gamma")
"""Tags with a value an atom or a species: the order of both is that of POSCAR, not that of the frame."""
FILES_TAGS = {"lwave": "WAVECAR", "lcharg": "CHGCAR", "lvtot": "LOCPOT", "laechg": "AECCAR0 to 2", "lelf": "ELFCAR"}


def check_vasp_level(spec: Mapping[str, Any]) -> None:
    """Check the specification of a level for VASP.

    Raises:
        StudyError: an unknown or missing entry, another engine, k-points that are none, INCAR tags that VASP does not
            know, or that make its energies, forces or stress something else than a label.
        LabelsError: a key that is none.
    """
    if unknown := sorted(set(spec) - set(SPEC_KEYS)):
        raise StudyError(f"unknown entries {unknown} in the VASP level: known are {list(SPEC_KEYS)}")
    if missing := [key for key in ("key", "engine", "incar", "kpoints", "potentials") if key not in spec]:
        raise StudyError(f"the VASP level lacks {missing}")
    if spec["engine"] != "vasp":
        raise StudyError(f"level {spec['key']!r} is for engine {spec['engine']!r}, not for vasp")
    _check_kpoints(spec["kpoints"])
    potentials = spec["potentials"]
    if set(potentials) != set(POTENTIAL_KEYS) or not isinstance(potentials.get("mapping"), Mapping):
        raise StudyError(
            f"potentials of level {spec['key']!r} must hold {list(POTENTIAL_KEYS)}: the name of a family of potentials"
            f", the functional that they were made for, and the potential of each element; got {dict(potentials)}"
        )
    if problem := incar_problem(spec["incar"]):
        raise StudyError(f"INCAR of level {spec['key']!r}: {problem}")
    vasp_level(spec)


def incar_problem(incar: Mapping[str, Any]) -> str | None:
    """Return which INCAR tag breaks a label and what to do about it, or None."""
    return _unknown_tags(incar) or _moving_atoms(incar) or _other_energy(incar) or _stray_files(incar)


def vasp_level(spec: Mapping[str, Any], code_version: str = "") -> Level:
    """Return what labels made with the level ``spec`` carry."""
    settings = {key: spec[key] for key in ("incar", "kpoints", "potentials")}
    return Level(
        key=spec["key"],
        engine="vasp",
        method=spec.get("method", ""),
        basis=spec.get("basis", ""),
        energy=spec.get("energy", "free"),
        code="VASP" if code_version else "",
        code_version=code_version,
        settings=settings,
    )


def species_order(numbers: IntArray) -> IntArray:
    """Return the order of the atoms in POSCAR: by atomic number, atoms of an element as they stand in the frame.

    ``forces_of_frame[species_order(numbers)] = forces_of_vasp`` brings results back into the frame's own order.
    """
    return np.argsort(numbers, kind="stable")


def frame_structure(spec: Mapping[str, Any], frames: Frames, index: int) -> orm.StructureData:
    """Return a frame as POSCAR has it: species one after the other; a molecule in the middle of an empty cube."""
    own = frames.slice(index)
    order = species_order(frames.numbers[own])
    positions, numbers = frames.positions[own][order], frames.numbers[own][order]
    cell = frame_cell(spec, frames, index)
    if not frames.pbc[index].all():
        positions = positions - (positions.min(axis=0) + positions.max(axis=0)) / 2 + cell.diagonal() / 2
    structure = orm.StructureData(cell=cell.tolist())
    for number in dict.fromkeys(numbers.tolist()):
        symbol = chemical_symbols[number]
        structure.append_kind(orm.Kind(symbols=symbol, name=symbol))
    for number, position in zip(numbers.tolist(), positions.tolist(), strict=True):
        structure.append_site(orm.Site(kind_name=chemical_symbols[number], position=position))
    return structure


def frame_cell(spec: Mapping[str, Any], frames: Frames, index: int) -> FloatArray:
    """Return the cell (3, 3) in angstrom that VASP gets for a frame."""
    if frames.pbc[index].all():
        return np.asarray(frames.cells[index])
    return np.eye(3) * vacuum_edge_A({"gas": spec.get("gas", {})}, frames.positions[frames.slice(index)])


def frame_mesh(spec: Mapping[str, Any], frames: Frames, index: int) -> tuple[int, int, int]:
    """Return the k-points along each reciprocal vector, the mesh centred on Gamma; Gamma alone for a molecule.

    A spacing is VASP's KSPACING, with the factor of 2 pi: n = max(1, ceil(|b| / spacing)), b the reciprocal vector.
    """
    if not frames.pbc[index].all():
        return (1, 1, 1)
    if "mesh" in spec["kpoints"]:
        first, second, third = spec["kpoints"]["mesh"]
        return (int(first), int(second), int(third))
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(frame_cell(spec, frames, index)), axis=0)
    first, second, third = (
        max(1, int(np.ceil(length / spec["kpoints"]["spacing_inv_A"] - 1e-9))) for length in lengths
    )
    return (first, second, third)


@lru_cache(maxsize=1)
def known_tags() -> frozenset[str]:
    """Return the INCAR tags that aiida-vasp knows, in lower case."""
    text = (resources.files("aiida_vasp.assistant") / "parameters.yml").read_text(encoding="utf-8")
    return frozenset(str(tag).lower() for tag in yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def _check_kpoints(kpoints: Any) -> None:
    if not isinstance(kpoints, Mapping) or len(kpoints) != 1 or not set(kpoints) <= set(KPOINT_KEYS):
        raise StudyError(
            f"kpoints must be either mesh: [n, n, n] ([1, 1, 1] is Gamma) or spacing_inv_A, not both; got {kpoints!r}"
        )
    mesh, spacing = kpoints.get("mesh"), kpoints.get("spacing_inv_A")
    if "mesh" in kpoints and not (
        isinstance(mesh, list | tuple) and len(mesh) == 3 and all(isinstance(n, int) and n > 0 for n in mesh)
    ):
        raise StudyError(f"the mesh of k-points must be three whole numbers above zero, got {mesh!r}")
    if "mesh" not in kpoints and not (isinstance(spacing, int | float) and spacing > 0):
        raise StudyError(f"spacing_inv_A of the k-points must be a number above zero, in 1/angstrom, got {spacing!r}")


def _unknown_tags(incar: Mapping[str, Any]) -> str | None:
    for tag in incar:
        if tag != tag.lower():
            return f"write the tag {tag} in lower case, {tag.lower()!r}, as aiida-vasp does"
        if tag not in known_tags():
            near = get_close_matches(tag, known_tags(), n=1)
            return f"VASP knows no tag {tag.upper()}" + (f"; is {near[0].upper()} meant?" if near else "")
    return None


def _moving_atoms(incar: Mapping[str, Any]) -> str | None:
    if incar.get("nsw", 0) > 0:
        return f"NSW = {incar['nsw']} moves the atoms, so that the results are not those of the frame: leave it out"
    if incar.get("ibrion", -1) != -1:
        return f"IBRION = {incar['ibrion']} moves the atoms: set it to -1, or leave it out"
    if incar.get("isym") not in (-1, 0):
        given = f"ISYM = {incar['isym']}" if "isym" in incar else "without ISYM"
        return f"{given}, symmetry is on, and forces of frames that are almost symmetric are symmetrised: set ISYM = -1"
    if incar.get("isif", 2) < 2:
        return f"ISIF = {incar['isif']} leaves out the stress: set it to 2"
    if incar.get("lhfcalc") and "isif" not in incar:
        return "with LHFCALC, VASP leaves out the stress unless ISIF is set: set ISIF = 2"
    return None


def _other_energy(incar: Mapping[str, Any]) -> str | None:
    if incar.get("pstress", 0):
        return f"PSTRESS = {incar['pstress']} adds a pV term to the energy and takes it off the stress: leave it out"
    if incar.get("ml_lmlff"):
        return "ML_LMLFF replaces the density functional by a force field: leave it out"
    if incar.get("istart", 0) > 0 or incar.get("icharg", 2) != 2:
        tag = "ISTART" if incar.get("istart", 0) > 0 else "ICHARG"
        return f"{tag} = {incar[tag.lower()]} reads a file of another run, and there is none: leave it out"
    if given := [tag for tag in ("kspacing", "kgamma") if tag in incar]:
        return f"{given[0].upper()} would be in conflict with the level's `kpoints`: give the spacing there"
    if given := [tag for tag in PER_ATOM_TAGS if tag in incar]:
        return (
            f"{given[0].upper()} has a value for each atom or species in the order of POSCAR, which is not that of the "
            "frames: it is not supported"
        )
    return None


def _stray_files(incar: Mapping[str, Any]) -> str | None:
    for tag, name in FILES_TAGS.items():
        default = tag in ("lwave", "lcharg")
        if incar.get(tag, default):
            return f"{tag.upper()} is on, and every frame would leave a {name} behind: set {tag.upper()} = .FALSE."
    return None
