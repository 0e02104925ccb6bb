"""Two levels on the same frames, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from aiida_mlfinetune.common.enums import EnergyKind
from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.common.units import EV_KJMOL, GPA_EV_A3
from aiida_mlfinetune.science.datasets.comparison import compare_levels, deviation, subtract_levels
from aiida_mlfinetune.science.datasets.formula_units import formula_units
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level

A, B = Level("pbe0/cp2k", method="PBE0", basis="tz"), Level("revpbe/cp2k", method="revPBE", basis="tz")


def image(symbols: str) -> Atoms:
    n = len(Atoms(symbols))
    return Atoms(symbols, positions=np.arange(3.0 * n).reshape(-1, 3), cell=[9, 9, 9], pbc=True)


def two_levels(images, energies, forces=None, stress=None, levels=(A, B)) -> Frames:
    frames = Frames.from_atoms(images)
    for number, level in enumerate(levels):
        frames = frames.with_labels(
            Labels.build(
                level,
                frames.offsets,
                np.array(energies[number], dtype=float),
                None if forces is None else forces[number],
                None if stress is None else stress[number],
            )
        )
    return frames


def test_deviation_by_hand():
    found = deviation(np.array([1.0, 2.0, 4.0]), np.array([0.0, 2.0, 2.0]), 10.0)
    assert (found.n, found.shift) == (3, pytest.approx(10))  # 10, 0, 20
    assert found.rmse == pytest.approx(np.sqrt(500 / 3))
    assert found.rmse_about_shift == pytest.approx(np.sqrt(200 / 3))
    assert found.correlation == pytest.approx(0.7559289460)  # 8/3 / sqrt(14/3 * 8/3)
    assert found.shift_error == pytest.approx(10 / np.sqrt(3))
    assert found.rmse_error == pytest.approx(np.sqrt((20000 / 3 - (200 / 3) ** 2) / 3) / (2 * np.sqrt(200 / 3)))
    assert set(found.to_dict("meV_A")) == {
        "n",
        "shift_meV_A",
        "rmse_meV_A",
        "rmse_about_shift_meV_A",
        "correlation",
    }


def test_error_of_a_spread_is_that_of_repeated_draws():
    rng = np.random.default_rng(0)
    draws = [deviation(rng.normal(size=400), np.zeros(400)) for _ in range(300)]
    scatter = np.std([draw.rmse_about_shift for draw in draws])
    assert np.mean([draw.rmse_error for draw in draws]) == pytest.approx(scatter, rel=0.15)


def test_single_and_constant_values_have_no_correlation():
    one = deviation(np.array([3.0]), np.array([1.0]))
    assert (one.shift, one.rmse_about_shift, one.correlation) == (2.0, 0.0, None)
    assert np.isnan(one.shift_error)
    assert np.isnan(one.rmse_error)
    flat = deviation(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    assert flat.correlation is None
    with pytest.raises(LabelsError, match="nothing to compare"):
        deviation(np.zeros(0), np.zeros(0))


def test_formula_units_are_perceived_frame_by_frame():
    units = formula_units(Frames.from_atoms([image("H2OH2O"), image("CO2"), image("C6H6"), image("O")]))
    assert units.names == ("H2O", "CO2", "CH", "O")
    assert units.counts.tolist() == [2, 1, 6, 1]


def test_energies_are_compared_per_molecule_and_per_element():
    images = [image("H2O"), image("H4O2"), image("CO2"), image("CO2")]
    # shifts of -1 eV (H), 2 eV (O), 3 eV (C); then 0.1 eV more for the first H2O, less for the second of two
    frames = two_levels(images, ([-10 + 0.1, -21 - 0.2, -7.0, -6.0], [-10, -21, -14.0, -13.0]))
    energy = compare_levels(frames, A.key, B.key).energy
    water, gas = energy.per_molecule["H2O"], energy.per_molecule["CO2"]
    assert (water.n, gas.n) == (2, 2)
    assert water.shift == pytest.approx(0, abs=1e-9)
    assert water.rmse == pytest.approx(0.1 * EV_KJMOL)
    assert (gas.shift, gas.rmse) == (pytest.approx(7 * EV_KJMOL), pytest.approx(7 * EV_KJMOL))
    assert gas.rmse_about_shift == pytest.approx(0, abs=1e-9)
    assert gas.correlation == pytest.approx(1)
    assert energy.by_formula["H4O2"].shift == pytest.approx(-0.1 * EV_KJMOL)
    assert energy.about_shifts.rmse_about_shift == pytest.approx(np.sqrt((0.1**2 + 0.1**2) / 4) * EV_KJMOL)
    assert energy.per_atom.shift == pytest.approx(1000 * (0.1 / 3 - 0.2 / 6 + 7 / 3 + 7 / 3) / 4)
    np.testing.assert_allclose(energy.difference / EV_KJMOL, [0.1, -0.1, 7, 7])
    assert energy.molecules == ("H2O", "H2O", "CO2", "CO2")
    assert energy.element_rank == 2


def test_shifts_of_elements_are_found_where_compositions_determine_them():
    frames = two_levels([image("H2"), image("O2"), image("H2O")], ([-1, 5, 9.0], [1, 1, 9.0]))
    energy = compare_levels(frames, A.key, B.key).energy
    assert energy.element_shift == {"H": pytest.approx(-1), "O": pytest.approx(2)}
    assert energy.element_rank == 2
    assert energy.rmse_about_element_shift == pytest.approx(0, abs=1e-9)


def test_forces_are_compared_by_element():
    forces = np.zeros((6, 3))
    other = forces.copy()
    other[[0, 1, 3, 4]] += 0.01
    other[[2, 5], 2] = [0.03, -0.03]
    frames = two_levels([image("H2O")] * 2, ([0, 0], [0, 0]), (other, forces))
    found = compare_levels(frames, A.key, B.key).forces
    assert found.by_element["H"].shift == pytest.approx(10)
    assert found.by_element["H"].rmse_about_shift == pytest.approx(0, abs=1e-9)
    assert found.by_element["O"].shift == pytest.approx(0, abs=1e-9)
    assert found.by_element["O"].rmse == pytest.approx(np.sqrt(900 / 3))
    assert found.components.n == 18
    assert found.components.rmse == pytest.approx(np.sqrt((12 * 100 + 2 * 900) / 18))
    np.testing.assert_allclose(found.rmse_by_frame, np.sqrt((6 * 100 + 900) / 9))


def test_stress_and_pressure_have_their_signs():
    stress = np.zeros((2, 3, 3))
    tension = stress + GPA_EV_A3 * np.diag([1.0, 2.0, 3.0])
    tension[1] *= 2
    found = compare_levels(two_levels([image("H2O")] * 2, ([0, 0], [0, 0]), None, (tension, stress)), A.key, B.key)
    assert found.forces is None
    np.testing.assert_allclose(found.stress.pressure_difference, [-2, -4])
    assert (found.stress.pressure.shift, found.stress.pressure.rmse_about_shift) == (
        pytest.approx(-3),
        pytest.approx(1),
    )
    assert found.stress.components.shift == pytest.approx(1000 * GPA_EV_A3 * 3 * 6 / 2 / 9)


def test_only_frames_with_both_labels_count():
    forces = np.zeros((9, 3))
    partial = forces + 0.1
    partial[3:6] = np.nan
    frames = two_levels([image("H2O")] * 3, ([1, 2, np.nan], [0, np.nan, np.nan]), (partial, forces))
    found = compare_levels(frames, A.key, B.key)
    assert (found.energy.indices.tolist(), found.forces.indices.tolist(), found.stress) == ([0], [0, 2], None)
    assert found.n_frames == 2
    assert found.forces.components.shift == pytest.approx(100)


def test_the_difference_is_a_level_of_its_own():
    forces = np.arange(27.0).reshape(9, 3)
    partial = forces + 0.1
    partial[3:6] = np.nan
    frames = two_levels([image("H2O")] * 3, ([1, np.nan, 5], [0, 1, 7]), (partial, forces))
    delta = subtract_levels(frames, A.key, B.key)
    assert list(delta.labels_by_level) == ["pbe0/cp2k-minus-revpbe/cp2k"]
    labels = delta.labels("pbe0/cp2k-minus-revpbe/cp2k")
    assert labels.energy.tolist() == [1, -2]
    np.testing.assert_allclose(labels.forces, 0.1)
    assert not labels.has_stress.any()
    assert delta.content_hashes() == frames.select([0, 2]).content_hashes()
    level = labels.level
    assert (level.engine, level.method, level.basis) == ("difference", "PBE0 minus revPBE", "tz")
    assert Level.from_dict(level.settings["level_a"]) == A
    assert Level.from_dict(level.settings["level_b"]) == B


def test_masks_are_combined_quantity_by_quantity():
    partial = np.zeros((6, 3))
    partial[:3] = np.nan
    frames = two_levels([image("H2O")] * 2, ([1, np.nan], [0, 0]), (np.zeros((6, 3)), partial))
    labels = subtract_levels(frames, A.key, B.key).labels("pbe0/cp2k-minus-revpbe/cp2k")
    assert labels.has_energy.tolist() == [True, False]
    assert labels.has_forces.tolist() == [False, True]


def test_energies_of_different_kinds_are_marked_and_not_subtracted():
    other = Level(B.key, method="revPBE", energy=EnergyKind.SIGMA0)
    frames = two_levels([image("H2O")] * 2, ([1, 2], [1, 3]), levels=(A, other))
    (warning,) = compare_levels(frames, A.key, B.key).energy.warnings
    assert "'free'" in warning
    assert "'sigma0'" in warning
    with pytest.raises(LabelsError, match=r"kind 'free', those of 'revpbe/cp2k' of the kind 'sigma0'.*label one of"):
        subtract_levels(frames, A.key, B.key)
    forces_only = two_levels([image("H2O")], ([np.nan], [1]), (np.ones((3, 3)), np.zeros((3, 3))), levels=(A, other))
    assert subtract_levels(forces_only, A.key, B.key).labels("pbe0/cp2k-minus-revpbe/cp2k").has_forces.all()


def test_levels_that_cannot_be_compared_are_refused():
    frames = two_levels([image("H2O")] * 2, ([1, np.nan], [np.nan, 1]))
    with pytest.raises(LabelsError, match="no frame has labels at both"):
        compare_levels(frames, A.key, B.key)
    with pytest.raises(LabelsError, match="compared with itself"):
        compare_levels(frames, A.key, A.key)
    with pytest.raises(LabelsError, match="no labels at level 'typo': the frames hold"):
        subtract_levels(frames, A.key, "typo")
