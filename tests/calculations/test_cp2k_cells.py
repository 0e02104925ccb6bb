"""What of a CP2K level depends on the cells, and whether a level fits elements, cells and MPI processes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.data import chemical_symbols

from aiida_mlfinetune.calculations.cp2k_cells import (
    as_labelled,
    cells_problem,
    distant_cells_warning,
    grid_numbers,
    grid_section,
    narrow_cells_warning,
    settle_level,
    with_grid_cells,
)
from aiida_mlfinetune.calculations.cp2k_checks import (
    kinds_problem,
    known_names,
    level_problem,
    level_warning,
    ranks_problem,
    settle_for,
)
from aiida_mlfinetune.calculations.cp2k_input import force_eval, level_metadata
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.crystals.crystals import ice_xi
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.protocols.levels import available_levels, load_level
from tests.fixtures.waters import two_waters

HYBRIDS = ("pbe0-admm", "rpa-pbe0")


def radii(tree, found=None):
    """Return the radii of exact exchange; that of the metric of the resolution of the identity is another thing."""
    found = [] if found is None else found
    for key, value in tree.items():
        if key == "CUTOFF_RADIUS":
            found.append(value)
        elif isinstance(value, dict) and key != "RI_METRIC":
            radii(value, found)
    return found


@pytest.mark.parametrize("name", HYBRIDS)
def test_exchange_radius_is_that_of_the_smallest_cell_and_defines_the_level(name):
    level = load_level(name)
    small, large = np.diag([4.3, 9.0, 8.0]), np.diag([4.6, 9.0, 8.0])
    settled = settle_level(level, [large, small])
    assert radii(force_eval(settled, ["H", "O"], periodic=True)) == [2.1, 2.1]
    assert radii(force_eval(settled, ["H", "O"], periodic=False)) == [2.1, 2.1], "the gas is at another level"
    assert level_metadata(settled).settings["exchange"]["radius_A"] == 2.1
    assert level_metadata(settled) != level_metadata(settle_level(level, [large]))
    assert settle_level(settled, [large]) == settled
    assert settle_level(level, [])["exchange"]["radius_A"] == 6.0
    assert level["exchange"]["radius_A"] is None


@pytest.mark.parametrize("name", HYBRIDS)
def test_exchange_that_does_not_fit_is_refused(name):
    crystal = ice_xi()
    open_level = load_level(name)
    frames = Frames.from_atoms([molecule("H2O"), crystal])
    assert "the exact-exchange radius of level" in level_problem(open_level, frames)
    explicit = load_level(name, {"exchange": {"radius_A": 2.5}})
    problem = level_problem(explicit, frames)
    assert "frame 1 is 4.465 angstrom wide, less than twice the exact-exchange radius of 2.5" in problem
    assert "at most 2.2 angstrom" in problem
    assert level_problem(load_level(name, {"exchange": {"radius_A": 2.2}}), frames) is None
    with pytest.raises(StudyError, match="too narrow for the exact exchange"):
        settle_level(open_level, [np.diag([2.9, 5.0, 5.0])])
    with pytest.raises(StudyError, match="must be positive or null, got -1"):
        load_level(name, {"exchange": {"radius_A": -1}})


def test_mesh_of_kpoints_is_settled_for_all_cells():
    level = load_level("revpbe-d3", {"key": "revpbe-d3-k/cp2k", "kpoints": {"spacing_per_A": 0.5}})
    frames = Frames.from_atoms([two_waters()])
    assert "k-points of level 'revpbe-d3-k/cp2k' are open" in level_problem(level, frames)
    settled = settle_level(level, [np.diag([4.0, 8.0, 16.0]), np.diag([4.2, 7.0, 17.0])])
    assert settled["kpoints"] == {"mesh": [4, 2, 1]}
    dft = force_eval(settled, ["H", "O"], periodic=True)["DFT"]
    assert dft["KPOINTS"]["SCHEME"] == "MACDONALD 4 2 1 0.125 0.25 0.0"
    assert "OT" not in dft["SCF"]
    assert "KPOINTS" not in force_eval(settled, ["H", "O"], periodic=False)["DFT"]
    assert level_metadata(settled).settings["kpoints"] == {"mesh": [4, 2, 1]}
    assert level_problem(settled, frames) is None


def test_narrow_cells_at_the_gamma_point_are_warned_about():
    cells = [ice_xi().cell.array, ice_xi().cell.array * 1.02]
    warning = narrow_cells_warning(load_level("revpbe-d3"), cells)
    assert "at the Gamma point alone, and the narrowest cell is 4.46 angstrom wide" in warning
    assert "take a supercell (2 x 1 x 1), or `kpoints: {mesh: [2, 1, 1]}`" in warning
    assert narrow_cells_warning(load_level("gfn1-xtb"), cells).endswith("take a supercell (2 x 1 x 1)")
    with_mesh = {"key": "k", "kpoints": {"mesh": [2, 1, 1]}}
    assert narrow_cells_warning(load_level("revpbe-d3", with_mesh), cells) is None
    thin = narrow_cells_warning(load_level("revpbe-d3", with_mesh), [np.diag([2.5, 8.0, 8.0])])
    assert "with 2 x 1 x 1 k-points" in thin
    assert "mesh: [4, 1, 1]" in thin
    for enough in ([ice_xi().repeat((2, 1, 1)).cell.array], []):
        assert narrow_cells_warning(load_level("revpbe-d3"), enough) is None
    open_mesh = load_level("revpbe-d3", {"key": "k", "kpoints": {"spacing_per_A": 0.5}})
    assert narrow_cells_warning(open_mesh, cells) is None
    assert narrow_cells_warning(settle_level(open_mesh, cells), cells) is None


@pytest.mark.parametrize("name", ["gfn1-xtb", *HYBRIDS])
def test_kpoints_of_a_level_that_has_none_are_refused(name):
    with pytest.raises(StudyError, match=rf"level '{name}/cp2k' has no k-points: .* use a supercell"):
        load_level(name, {"kpoints": {"mesh": [2, 1, 1]}})
    with pytest.raises(StudyError, match="has no k-points"):
        load_level(name, {"parameters": {"DFT": {"KPOINTS": {"SCHEME": "MONKHORST-PACK 2 2 2"}}}})


@pytest.mark.parametrize(
    ("kpoints", "message"),
    [
        ({"mesh": [2, 2]}, "three numbers of at least 1"),
        ({"mesh": [2, 0, 1]}, "three numbers of at least 1"),
        ({"spacing_per_A": 0.0}, "must be positive"),
        ({"mesh": [1, 1, 1], "spacing_per_A": 0.3}, "either `mesh`"),
        ({"density": 3}, r"unknown entries \['density'\] in `kpoints`"),
    ],
)
def test_odd_kpoints_are_refused(kpoints, message):
    with pytest.raises(StudyError, match=message):
        load_level("pbe-d3", {"kpoints": kpoints})


@pytest.mark.parametrize("name", available_levels())
def test_shipped_levels_have_basis_and_potential_for_water(name):
    crystal = ice_xi()
    level = settle_level(load_level(name), crystal.cell.array)
    assert level_problem(level, Frames.from_atoms([crystal, molecule("H2O")])) is None
    assert ranks_problem(level, 1) is None


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("revpbe-d3", {"kind": {"BASIS_SET": "TZV2PX-GTH"}}, "no 'TZV2PX-GTH' for H in GTH_BASIS_SETS; there are"),
        ("revpbe-d3", {"kind": {"POTENTIAL": "GTH-PBE-q7"}}, "no 'GTH-PBE-q7' for H in GTH_POTENTIALS"),
        ("revpbe-d3", {"kind": {"POTENTIAL": "GTH-BLYP"}}, "'GTH-BLYP' is not one for PBE.*use GTH-PBE"),
        ("pbe0-admm", {"kinds": {"O": {"POTENTIAL": "GTH-PBE-q6"}}}, "'GTH-PBE-q6' is not one for PBE0"),
        ("pbe0-admm", {"kinds": {"O": {"BASIS_SET": ["DZVP-MOLOPT-PBE0-GTH-q6", "AUX_FIT admm-q6"]}}}, "'admm-q6'"),
        ("rpa-pbe0", {"kinds": {"H": {"POTENTIAL": None}}}, "has no POTENTIAL for H: set it in `kinds.H`"),
    ],
)
def test_basis_and_potential_are_looked_up(name, overrides, message):
    assert re.search(message, kinds_problem(load_level(name, overrides), ["H", "O"]))


def test_element_without_a_basis_is_named():
    problem = kinds_problem(load_level("pbe0-admm"), ["H", "O", "Xe"])
    assert problem == "level 'pbe0-admm/cp2k' has no BASIS_SET for Xe: set it in `kinds.Xe` of the level"
    assert "for Xe in GTH_BASIS_SETS" in kinds_problem(load_level("revpbe-d3"), ["Xe"])
    assert kinds_problem(load_level("gfn1-xtb"), ["Xe"]) is None


def test_files_that_are_not_of_cp2k_are_not_checked():
    own = {"parameters": {"DFT": {"BASIS_SET_FILE_NAME": "MY_BASIS"}}, "kind": {"BASIS_SET": "mine"}}
    assert kinds_problem(load_level("revpbe-d3", own), ["H"]) is None


def test_numbers_of_processes_that_a_level_does_not_bear():
    rpa = settle_level(load_level("rpa-pbe0"), [])
    assert "aborts with 2 MPI processes: ask for one" in ranks_problem(rpa, 2)
    grouped = load_level("revpbe-d3", {"parameters": {"DFT": {"XC": {"WF_CORRELATION": {"GROUP_SIZE": 4}}}}})
    assert "GROUP_SIZE to 4, but the job has 2 MPI processes: ask for 4" in ranks_problem(grouped, 2)
    assert ranks_problem(grouped, 4) is None


def test_table_of_names_is_that_of_the_data_of_cp2k():
    folder = Path(os.environ.get("CP2K_DATA_DIR", "/usr/share/cp2k"))
    symbols = set(chemical_symbols[1:])
    for file, table in known_names().items():
        read: dict[str, set[str]] = {}
        for line in (folder / file).read_text().splitlines():
            words = line.split("#")[0].split("!")[0].split()
            if len(words) > 1 and words[0] in symbols and words[1][0].isalpha():
                for name in words[1:]:
                    read.setdefault(name, set()).add(words[0])
        assert {name: set(elements) for name, elements in table.items()} == read


def test_cells_of_molecules_do_not_count():
    level = load_level("pbe0-admm", {"exchange": {"radius_A": 6.0}})
    assert level_problem(level, Frames.from_atoms([Atoms("H2", [[0, 0, 0], [0, 0, 0.7]])])) is None
    assert cells_problem(level, np.zeros((0, 3, 3))) is None


def waters(*cells):
    """Return a frame of a water molecule for each cell (3, 3), or edge of a cube, in angstrom."""
    cells = [cell if np.ndim(cell) else [cell] * 3 for cell in cells]
    return Frames.from_atoms([Atoms("H2O", np.eye(3), cell=cell, pbc=True) for cell in cells])


def test_frames_of_a_crystal_share_the_grid_of_one_cell():
    """That of the first frame, or of the crystal that is named before there are frames."""
    level = load_level("revpbe-d3-demo")
    crystal, other = np.diag([4.6, 7.8, 7.3]), np.diag([6.4, 6.4, 6.4])
    settled = settle_for(level, waters(0.99 * crystal, 1.02 * crystal, other))
    assert settled["grid_cells"] == {"H2O": [(0.99 * crystal).round(6).tolist(), other.tolist()]}
    assert level_metadata(settled).settings["grid_cells"] == settled["grid_cells"]
    assert grid_numbers(settled, waters(1.05 * other, crystal)).tolist() == [1, 0]
    named = with_grid_cells(level, waters(crystal))
    assert settle_for(named, waters(1.02 * crystal, 1.4 * crystal)) == named  # however far it is strained
    assert level_problem(named, waters(1.02 * crystal, 0.97 * crystal)) is None
    assert distant_cells_warning(named, waters(1.09 * crystal)) is None
    assert "stretched by 12 %" in distant_cells_warning(named, waters(crystal, 1.12 * crystal))


def test_crystals_of_different_composition_have_a_grid_each():
    level = load_level("revpbe-d3-demo")
    two = Frames.from_atoms([Atoms("H4O2", np.ones((6, 3)), cell=[6.5] * 3, pbc=True)])
    settled = settle_for(with_grid_cells(level, waters(6.4)), Frames.concatenate([waters(6.6), two]))
    assert settled["grid_cells"] == {"H2O": [np.diag([6.4] * 3).tolist()], "H4O2": [np.diag([6.5] * 3).tolist()]}
    assert grid_section(settled, two)["CELL_REF"]["A"] == "6.5 0.0 0.0"
    assert grid_section(settled, waters(6.6))["CELL_REF"]["A"] == "6.4 0.0 0.0"
    assert grid_section(settled, Frames.from_atoms([molecule("H2O")])) == {}
    assert grid_section(level, two) == {}


def test_a_crystal_sheared_into_another_is_warned_of():
    """Its frames have two grids then, as those of two crystals have."""
    level, cell = load_level("revpbe-d3-demo"), np.diag([8.0, 8.0, 8.0])
    sheared = cell + np.diag([4.0, 0.0], k=1)
    two = waters(cell, cell, sheared)
    other = Frames.from_atoms([Atoms("H4O2", np.ones((6, 3)), cell=sheared, pbc=True)])
    settled = settle_for(level, two)
    assert len(settled["grid_cells"]["H2O"]) == 2
    assert "frames of H2O have 2 grids in level 'revpbe-d3-demo/cp2k' ([2, 1] frames)" in level_warning(settled, two)
    assert level_warning(settled, Frames.concatenate([two.select([0, 1]), other])) is None
    assert level_warning(load_level("gfn1-xtb"), two) is None


def test_what_has_no_grid_has_no_reference_cell():
    frames = waters(7.0, 7.1)
    for level in (settle_for(load_level("gfn1-xtb"), frames), settle_for(load_level("revpbe-d3"), frames.select([]))):
        assert "grid_cells" not in level
        assert distant_cells_warning(level, frames) is None
    assert level_problem(load_level("gfn1-xtb"), frames) is None


def test_a_grid_that_is_open_is_refused_where_cells_differ():
    level = load_level("revpbe-d3")
    assert level_problem(level, waters(6.0, 6.0)) is None
    assert "energies would jump" in level_problem(level, waters(6.0, 6.006))


@pytest.mark.parametrize(
    "cells", [1.0, [[1.0, 0.0, 0.0]] * 3, "6 6 6", [np.eye(3).tolist(), 2], [np.ones((3, 3)).tolist()]]
)
def test_reference_cells_need_three_vectors(cells):
    with pytest.raises(StudyError, match="must hold, for H2O, a list of cells"):
        load_level("revpbe-d3", {"grid_cells": {"H2O": cells}})


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ([np.eye(3).tolist()], "must name the formula"),
        ({"OH2": [np.eye(3).tolist()]}, "write the formula 'OH2' of the cell as 'H2O'"),
        ({"water?": [np.eye(3).tolist()]}, "'water\\?' is no formula"),
    ],
)
def test_reference_cells_are_those_of_a_formula(cells, problem):
    with pytest.raises(StudyError, match=problem):
        load_level("revpbe-d3", {"grid_cells": cells})


def test_reference_cells_of_a_method_without_a_grid_are_refused():
    with pytest.raises(StudyError, match="its method has no grid"):
        load_level("gfn1-xtb", {"grid_cells": {"H2O": [np.eye(3).tolist()]}})


@pytest.mark.parametrize("name", ["pbe0-admm", "revpbe-d3"])
def test_more_labels_share_what_the_first_ones_have(name):
    crystal, other = np.diag([4.6, 7.8, 7.3]), np.diag([6.4, 6.4, 6.4])
    first = settle_for(load_level(name), waters(crystal))
    more = as_labelled(with_grid_cells(load_level(name), waters(1.03 * crystal, other)), level_metadata(first).settings)
    assert more["grid_cells"] == {"H2O": [crystal.tolist(), other.tolist()]}
    assert level_metadata(first).joined(level_metadata(more)) == level_metadata(more)
