"""Radial distribution functions of systems whose own are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry.rdf import get_rdf

from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.observables.rdf import compare_curves, first_minimum, radial_distributions
from aiida_mlfinetune.science.observables.trajectory import FramesTrajectory


def ideal_gas(n_frames: int, seed: int, symbols: str = "Ar30Ne10") -> FramesTrajectory:
    """Return independent frames of an ideal gas in a skew cell of changing size."""
    rng = np.random.default_rng(seed)
    n_atoms = len(Atoms(symbols))
    images = []
    for _ in range(n_frames):
        cell = rng.uniform(0.9, 1.1) * np.array([[12.0, 0, 0], [3.0, 11.0, 0], [-2.0, 1.0, 10.0]])
        images.append(Atoms(symbols, positions=rng.uniform(size=(n_atoms, 3)) @ cell, cell=cell, pbc=True))
    return FramesTrajectory(Frames.from_atoms(images))


def test_an_ideal_gas_has_one_and_errors_that_cover_it():
    z, bands = {}, []
    for seed in range(8):
        for found in radial_distributions(ideal_gas(200, seed), [("Ar", "Ar"), ("Ar", "Ne")], 4.0, 20):
            exact = 1 - 1 / 30 if found.pair == ("Ar", "Ar") else 1.0
            used = found.r > 1.0  # bins that are seldom empty
            z.setdefault(found.pair, []).append((found.g - exact)[used] / found.error[used])
            bands.append(found.n_independent)
    for parts in z.values():
        values = np.concatenate(parts)
        assert abs(values.mean()) < 4 / math.sqrt(values.size)
        # twenty parts: Student's t with 19 degrees of freedom, of variance 19/17
        assert abs(values.std() - math.sqrt(19 / 17)) < 4 / math.sqrt(2 * values.size)
    assert np.median(bands) == pytest.approx(200, rel=0.35)  # frames are independent


def test_correlated_frames_count_for_less():
    gas = ideal_gas(60, 1)
    repeated = Frames.from_atoms(
        [
            Atoms(gas.numbers, positions=position, cell=cell, pbc=True)
            for block in gas.blocks()
            for position, cell in zip(block.positions, block.cells, strict=True)
            for _ in range(10)
        ]
    )
    one = radial_distributions(gas, [("Ar", "Ar")], 4.0, 20)[0]
    ten = radial_distributions(FramesTrajectory(repeated), [("Ar", "Ar")], 4.0, 20)[0]
    np.testing.assert_allclose(ten.g, one.g)
    np.testing.assert_allclose(ten.error, one.error)
    assert one.n_independent == pytest.approx(min(60.0, ten.n_independent))
    assert ten.n_independent == pytest.approx(60, rel=0.5)
    assert ten.correlation_time == pytest.approx(4.5, rel=0.5)
    assert ten.n_frames == 10 * one.n_frames


def test_shells_of_a_crystal_lie_where_they_should():
    crystal = bulk("Cu", "fcc", a=3.6, cubic=True) * (3, 3, 3)
    found = radial_distributions(FramesTrajectory(Frames.from_atoms([crystal] * 10)), [("Cu", "Cu")], 4.9, 300)[0]
    shells = 3.6 * np.sqrt([0.5, 1.0, 1.5])
    occupied = found.r[found.g > 0]
    assert len(occupied) == 3
    assert np.abs(occupied - shells).max() <= 0.5 * (found.r[1] - found.r[0])
    np.testing.assert_allclose(found.coordination[np.searchsorted(found.r, [3.0, 4.0, 4.8])], [12, 18, 42])
    assert found.peak == pytest.approx(shells[0], abs=0.01)
    assert any("same in all parts" in warning for warning in found.warnings)


def test_a_small_cell_is_the_crystal_that_repeats_it():
    """Beyond half of its height the images count, skewed as it is, and so do those of the atom itself."""
    rng = np.random.default_rng(8)
    cell = np.array([[4.0, 0.3, 0.2], [-0.5, 4.2, 0.1], [0.2, 0.4, 4.4]])
    images = [
        Atoms("O2H4", scaled_positions=rng.random((6, 3)), cell=cell * rng.uniform(0.9, 1.1), pbc=True)
        for _ in range(10)
    ]
    pairs = [("O", "O"), ("O", "H"), ("H", "H")]
    small = radial_distributions(FramesTrajectory(Frames.from_atoms(images)), pairs, 5.2, 26)
    large = FramesTrajectory(Frames.from_atoms([image * (4, 4, 4) for image in images]))
    for one, other in zip(small, radial_distributions(large, pairs, 5.2, 26), strict=True):
        np.testing.assert_allclose(one.g, other.g, rtol=1e-12)
        np.testing.assert_allclose(one.coordination, other.coordination, rtol=1e-12)


def test_agrees_with_ase():
    gas = ideal_gas(12, 3, "O8H16")
    images = [
        Atoms(gas.numbers, positions=p, cell=c, pbc=True)
        for block in gas.blocks()
        for p, c in zip(block.positions, block.cells, strict=True)
    ]
    for pair in (("O", "O"), ("O", "H"), ("H", "O")):
        found = radial_distributions(gas, [pair], 4.0, 40)[0]
        theirs = []
        for image in images:
            # its own neighbour list loses the first atom where that is the only neighbour (ASE 3.29)
            distances = image.get_all_distances(mic=True)
            g, r = get_rdf(image, 4.0, 40, elements=pair, distance_matrix=distances)
            theirs.append(g)
        np.testing.assert_allclose(found.r, r)
        np.testing.assert_allclose(found.g, np.mean(theirs, axis=0), atol=1e-12)


def test_the_error_of_the_peak_covers_it():
    rng = np.random.default_rng(5)
    z = []
    for _ in range(20):
        lengths = 2.0 + 0.1 * rng.normal(size=400)
        images = [Atoms("N2", positions=[[0, 0, 0], [0, 0, length]], cell=[9, 9, 9], pbc=True) for length in lengths]
        found = radial_distributions(FramesTrajectory(Frames.from_atoms(images)), [("N", "N")], 4.0, 40)[0]
        z.append((found.peak - 1.99) / found.peak_error)  # r^-2 moves the maximum to 2 - 2 * 0.1^2 / 2
    assert np.mean(np.abs(z) < 2) > 0.75
    assert abs(np.mean(z)) < 1.0


@pytest.mark.parametrize(
    ("pairs", "r_max", "message"),
    [
        ([("Ar", "O")], 3.0, "no element 'O'"),
        ([("Ar", "Ar")], 20.0, "needs a cell of 13.33 .* at most 1.* angstrom"),
        ([], 3.0, "at least one pair"),
        ([("Ar", "Ar")], 0.0, "positive r_max"),
    ],
)
def test_what_cannot_be_asked_is_refused(pairs, r_max, message):
    with pytest.raises(FramesError, match=message):
        radial_distributions(ideal_gas(10, 0), pairs, r_max)


def test_too_few_frames_and_lone_atoms_are_refused():
    with pytest.raises(FramesError, match="9 frames are left"):
        radial_distributions(ideal_gas(9, 0), [("Ar", "Ar")], 3.0)
    with pytest.raises(FramesError, match="only one atom of Ne"):
        radial_distributions(ideal_gas(10, 0, "Ar9Ne"), [("Ne", "Ne")], 3.0)


def test_equal_curves_differ_by_nothing_and_noisy_ones_by_their_errors():
    r = np.linspace(0.05, 5.0, 400)
    g = np.exp(-((r - 2.7) ** 2) / 0.1) + 1
    assert compare_curves(r, g, np.full(400, 0.1), r, g).difference == 0.0
    rng = np.random.default_rng(1)
    noisy = compare_curves(r, g + 0.1 * rng.normal(size=400), np.full(400, 0.1), r, g)
    assert abs(noisy.chi_squared - 1) < 4 * math.sqrt(2 / 400)
    both = compare_curves(r, g + 0.3, np.full(400, 0.3), r, g, np.full(400, 0.4))
    assert both.chi_squared == pytest.approx((0.3 / 0.5) ** 2)
    assert both.difference == pytest.approx(0.3 * 400 / (2 * g + 0.3).sum())


def test_the_largest_difference_is_found_within_the_reference_only():
    r = np.linspace(0.0, 4.0, 41)
    result = compare_curves(r, np.where(np.isclose(r, 2.0), 1.5, 1.0), np.zeros(41), [1.0, 3.0], [1.0, 1.0])
    assert (result.largest, result.largest_at) == pytest.approx((0.5, 2.0))
    assert result.n_bins == 21
    assert math.isnan(result.chi_squared)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (([6.0, 7.0], [1, 1]), "share nothing"),
        (([2.0, 1.0], [1, 1]), "must increase"),
        (([1.0, 2.0], [1, 1, 1]), "one length"),
    ],
)
def test_bad_references_are_refused(reference, message):
    with pytest.raises(MlFinetuneError, match=message):
        compare_curves([1.0, 2.0], [1.0, 1.0], [0.1, 0.1], *reference)


def test_first_minimum_lies_between_the_first_two_shells_in_spite_of_noise():
    r = np.linspace(0.01, 6.0, 600)
    g = 1 / (1 + np.exp((2.4 - r) / 0.05)) + 2 * np.exp(-((r - 2.75) ** 2) / 0.02)
    g += 0.5 * np.exp(-((r - 4.5) ** 2) / 0.1) - 0.3 * np.exp(-((r - 3.4) ** 2) / 0.05)
    noise = 0.02 * np.random.default_rng(0).normal(size=600)
    assert first_minimum(r, g + noise) == pytest.approx(3.4, abs=0.08)
    with pytest.raises(MlFinetuneError, match="no first minimum"):
        first_minimum(r[:300], g[:300])


def test_noise_is_no_minimum_where_the_errors_say_so():
    """A curve that is flat beyond its first shell, but for noise as large as its errors; then one with a minimum."""
    r = np.linspace(0.05, 6.0, 120)
    shell = 1 / (1 + np.exp((2.4 - r) / 0.05)) + 2 * np.exp(-((r - 2.75) ** 2) / 0.02)
    noise = 0.15 * np.random.default_rng(3).normal(size=120)
    error = np.full(120, 0.15)
    first_minimum(r, shell + noise)  # without errors it cannot be told
    with pytest.raises(MlFinetuneError, match="stands out of its errors"):
        first_minimum(r, shell + noise, error)
    real = shell - 0.8 * np.exp(-((r - 3.5) ** 2) / 0.05)
    assert first_minimum(r, real + noise, error) == pytest.approx(3.5, abs=0.15)


def test_beads_of_a_step_are_one_sample():
    """Two equal beads a step give the curve and the errors of one; the centroids are what moves."""
    gas = ideal_gas(60, 4)
    images = [
        Atoms(gas.numbers, positions=position, cell=cell, pbc=True)
        for block in gas.blocks()
        for position, cell in zip(block.positions, block.cells, strict=True)
        for _ in range(2)
    ]
    twice = FramesTrajectory(Frames.from_atoms(images, steps=np.repeat(np.arange(60), 2).tolist()), n_beads=2)
    single = radial_distributions(gas, [("Ar", "Ar")], 3.0, 6)[0]
    double = radial_distributions(twice, [("Ar", "Ar")], 3.0, 6)[0]
    np.testing.assert_allclose(double.g, single.g)
    np.testing.assert_allclose(double.error, single.error)
    np.testing.assert_allclose(double.coordination, single.coordination)
    assert (double.n_frames, double.n_independent) == (60, pytest.approx(single.n_independent))
