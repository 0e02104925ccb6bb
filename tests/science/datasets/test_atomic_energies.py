import numpy as np
import pytest
from ase import Atoms

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.programs.mace_train import least_squares_shift
from aiida_mlfinetune.science.datasets.atomic_energies import (
    composition_matrix,
    determination,
    estimate_atomic_energies,
    isolated_atom_energies,
    residual_rmse,
)
from aiida_mlfinetune.science.datasets.frames import Frames

START = {"H": -13.0, "C": -1030.0, "O": -2040.0}


def make_frames(*formulas):
    return Frames.from_atoms(
        [Atoms(formula, positions=np.arange(3.0 * len(Atoms(formula))).reshape(-1, 3)) for formula in formulas]
    )


def test_composition_matrix_counts_elements():
    assert composition_matrix(make_frames("H2O", "CO2"), ["H", "C", "O"]).tolist() == [[2, 0, 1], [0, 1, 2]]


def test_known_shifts_are_recovered_from_mixed_compositions():
    frames = make_frames("H2O", "CO2", "CH4", "H2O2", "C2H6O")
    shift = {"H": 0.25, "C": -1.5, "O": 3.125}
    random = np.random.default_rng(0)
    predicted = random.normal(-5000, 10, len(frames))
    energies = predicted + composition_matrix(frames, list(shift)) @ np.array(list(shift.values()))
    found = estimate_atomic_energies(frames, energies, START, predicted)
    assert found.is_determined
    assert found.rank == 3
    assert found.shift == pytest.approx(shift, abs=1e-9)
    assert found.values == pytest.approx({e: START[e] + shift[e] for e in shift}, abs=1e-9)
    assert found.rmse_after < 1e-9 < found.rmse_before
    assert "are determined" in found.to_dict()["determined"]


def test_single_composition_keeps_the_split_and_shifts_the_total():
    frames = make_frames("H4O2", "H2O", "H8O4")
    start = {"H": -13.0, "O": -432.0}
    energies = composition_matrix(frames, ["H", "O"]) @ np.array([-13.0, -432.0]) + np.array([2, 1, 4]) * 0.5
    found = estimate_atomic_energies(frames, energies, start)
    assert (found.rank, found.is_determined) == (1, False)
    assert 2 * found.values["H"] + found.values["O"] == pytest.approx(2 * -13.0 - 432.0 + 0.5, abs=1e-9)
    assert found.shift["H"] == pytest.approx(2 * found.shift["O"])  # smallest norm: along the composition
    assert found.condition == pytest.approx(1)
    assert "1 of 2 combinations" in found.to_dict()["determined"]


def test_program_and_package_solve_alike():
    frames = make_frames("H2O", "CO2", "CH4", "H2O")
    residuals = np.array([0.1, -0.2, 0.3, 0.15])
    shift, rank = least_squares_shift(composition_matrix(frames, ["H", "C", "O"]), residuals)
    found = estimate_atomic_energies(frames, residuals)
    assert rank == found.rank
    assert shift.tolist() == list(found.values.values())


def test_unlabelled_frames_are_left_out():
    frames = make_frames("H2O", "H2O", "H2")
    found = estimate_atomic_energies(frames, np.array([-10.0, np.nan, -4.0]))
    assert found.values == pytest.approx({"H": -2.0, "O": -6.0})
    with pytest.raises(LabelsError, match="no frame has an energy"):
        estimate_atomic_energies(frames, np.full(3, np.nan))
    with pytest.raises(LabelsError, match="lack \\['O'\\]"):
        estimate_atomic_energies(frames, np.zeros(3), {"H": 0.0})


def test_isolated_atoms_give_their_energies():
    frames = make_frames("H2O", "H", "O", "H")
    assert isolated_atom_energies(frames, np.array([-9.0, -1.0, -4.0, -1.5])) == {"H": -1.25, "O": -4.0}
    with pytest.raises(LabelsError, match="a single O atom"):
        isolated_atom_energies(make_frames("H2O", "H"), np.array([-9.0, -1.0]))


def test_pure_ice_determines_the_total_of_a_molecule_alone():
    found = determination(make_frames("H4O2", "H2O", "H16O8"))
    assert (found.rank, found.is_complete, found.condition) == (1, False, pytest.approx(1.0))
    assert (found.determined, found.free) == (((2, 1),), ((1, -2),))
    assert found.in_words() == "H and O separately are not determined: only 2 H + O"
    assert found.freedom_in_words() == "no total changes with H +1, O -2 eV"
    assert found.to_dict()["undetermined"] == ["H +1, O -2"]


@pytest.mark.parametrize(
    ("formulas", "rank", "words"),
    [
        (("H2O", "H2"), 2, "H and O are determined"),
        (("H2O", "CO2"), 2, "H, C and O separately are not determined: only 2 H + O and C + 2 O"),
        (("H2O", "H2", "CNO", "C2N2"), 3, "H and O are determined; C and N separately are not determined: only C + N"),
        (("C2H6O", "CH4O"), 2, "H, C and O separately are not determined: only 2 H + O and C - O"),
        (("O",), 1, "O is determined"),
    ],
)
def test_what_is_determined_is_said_in_words(formulas, rank, words):
    found = determination(make_frames(*formulas))
    assert (found.rank, found.in_words()) == (rank, words)
    matrix = composition_matrix(make_frames(*formulas), list(found.elements))
    assert rank == np.linalg.matrix_rank(matrix)
    assert not any((matrix @ np.array(move)).any() for move in found.free)
    assert bool(found.freedom_in_words()) is not found.is_complete


def test_the_error_with_a_shift_is_that_of_shifted_predictions():
    frames = make_frames("H2O", "H2")
    energies = np.array([-9.0, np.nan])
    assert residual_rmse(frames, energies, np.array([-12.0, 5.0]), {}) == pytest.approx(1.0)
    assert residual_rmse(frames, energies, np.array([-12.0, 5.0]), {"H": 1.0, "O": 1.0}) == pytest.approx(0.0)
    with pytest.raises(LabelsError, match="no frame has one"):
        residual_rmse(frames, np.full(2, np.nan), np.zeros(2), {})
