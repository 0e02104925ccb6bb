"""Faults that were planted in labels are found, with their numbers; sound labels raise no alarm."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.science.datasets.coverage import Coverage, energy_coverage, volume_coverage
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.label_quality import assess_labels, energy_scores, net_forces, quality_warnings
from aiida_mlfinetune.science.datasets.levels import Labels, Level

KEY, LOW = "rpa/cp2k", "gfn1-xtb/cp2k"
WATER = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])


def water_frames(n: int, n_molecules: int = 2, seed: int = 0) -> Frames:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        length = 6 * n_molecules * rng.uniform(0.95, 1.05)
        positions = np.concatenate([WATER + np.array([0, 0, 5.0 * number]) for number in range(n_molecules)])
        images.append(
            Atoms(
                "OHH" * n_molecules,
                positions=positions + rng.normal(scale=0.03, size=positions.shape),
                cell=[6, 6, length],
                pbc=True,
            )
        )
    return Frames.from_atoms(images)


def labelled(frames: Frames, energy, forces=None, key: str = KEY, **settings) -> Frames:
    return frames.with_labels(Labels.build(Level(key, **settings), frames.offsets, energy, forces))


def sound(n: int = 30, seed: int = 1) -> Frames:
    """Return frames with plausible energies, and forces that sum to zero."""
    frames = water_frames(n, seed=seed)
    rng = np.random.default_rng(seed)
    forces = rng.normal(scale=0.5, size=(n, 6, 3))
    forces -= forces.mean(axis=1, keepdims=True)
    return labelled(frames, rng.normal(-940, 0.05, n), forces.reshape(-1, 3))


def test_net_forces_by_hand():
    frames = water_frames(3)
    forces = np.zeros((18, 3))
    forces[0], forces[1] = [0.03, 0, 0], [0, 0.04, 0]
    forces[6:12] = np.nan
    forces[17] = [0, 0, -0.1]
    found = net_forces(frames, Labels.build(Level(KEY), frames.offsets, None, forces))
    np.testing.assert_allclose(found.norms, [50, np.nan, 100])
    assert found.per_component == pytest.approx(np.sqrt((50**2 + 100**2) / 2 / 18))
    assert found.rms_component == pytest.approx(1000 * np.sqrt((0.03**2 + 0.04**2 + 0.1**2) / 36))
    np.testing.assert_allclose(found.values, [50, 100])


def test_noise_of_forces_is_recovered_from_the_net_forces():
    frames = sound(400)
    labels = frames.labels(KEY)
    noise = np.random.default_rng(2).normal(scale=0.020, size=labels.forces.shape)
    noisy = Labels.build(labels.level, frames.offsets, labels.energy, labels.forces + noise)
    found = net_forces(frames, noisy)
    assert found.per_component == pytest.approx(20, rel=0.05)
    warnings = quality_warnings(assess_labels(frames.without_level(KEY).with_labels(noisy), KEY))
    assert list(warnings) == ["net_force"]
    assert "meV/Å in each force component" in warnings["net_force"]
    assert quality_warnings(assess_labels(frames, KEY)) == {}


def test_scores_of_energies_by_hand():
    frames = Frames.concatenate([water_frames(9), water_frames(3, 1, seed=4)])
    energies = np.array([0, 1, -1, 2, -2, 3, -3, 4, 50, 7, 7, 7.0])
    found = energy_scores(frames, Labels.build(Level(KEY), frames.offsets, energies))
    # median 1 and median absolute deviation 2, per two molecules
    np.testing.assert_allclose(found.energies[:9], (energies[:9] - 1) / 2 * EV_KJMOL)
    assert found.scale["H4O2"] == pytest.approx(1.4826 * 2 / 2 * EV_KJMOL)
    assert found.scores[8] == pytest.approx(49 / 2 / 1.4826)
    assert found.outliers == (8,)
    assert np.isnan(found.scores[9:]).all()  # too few of one composition
    np.testing.assert_allclose(found.energies[9:], 0)


def test_outliers_come_worst_first_and_energies_that_are_mostly_equal_are_judged_too():
    frames = water_frames(12)
    energies = np.zeros(12)
    energies[[3, 7]] = [-30.0, 0.001]
    found = energy_scores(frames, Labels.build(Level(KEY), frames.offsets, energies))
    assert found.outliers == (3,)
    energies[:] = -5.0
    flat = energy_scores(frames, Labels.build(Level(KEY), frames.offsets, energies))
    assert flat.outliers == ()
    assert (flat.scores == 0).all()


def test_planted_faults_are_named_by_their_frames():
    frames = sound()
    labels = frames.labels(KEY)
    energy = labels.energy.copy()
    energy[[4, 17]] += [3.0, -9.0]
    frames = labelled(frames.without_level(KEY), energy, labels.forces)
    frames = Frames.concatenate([frames, frames.select([2])])
    quality = assess_labels(frames, KEY)
    assert quality.energies.outliers == (17, 4)
    assert quality.duplicates.equal == ((2, 30),)
    warnings = quality_warnings(quality)
    assert list(warnings) == ["energy_outliers", "duplicate_frames"]
    assert warnings["energy_outliers"].startswith("2 energies are outliers")
    assert "frames 17 (-" in warnings["energy_outliers"]
    assert "1 frames are equal to others (such as frames 2, 30)" in warnings["duplicate_frames"]


def test_frames_without_labels_are_not_judged_and_indices_are_those_of_the_whole_set():
    frames = sound(12)
    labels = frames.labels(KEY)
    energy, forces = labels.energy.copy(), labels.forces.copy()
    energy[:2], forces[: frames.offsets[2]] = np.nan, np.nan
    bare = frames.without_level(KEY)
    partial = labelled(Frames.concatenate([bare, bare.select([0, 5])]), np.r_[energy, np.nan, energy[5]])
    quality = assess_labels(partial, KEY)
    assert quality.frames.tolist() == [*range(2, 12), 13]
    assert quality.duplicates.equal == ((5, 13),)
    assert np.isnan(quality.distances.values[[0, 1, 12]]).all()
    assert (quality.distances.values[2:12, quality.distances.pairs.index("H-O")] < 1.1).all()
    assert quality.net_forces is None
    assert quality.forces == {}
    with pytest.raises(LabelsError, match="nothing to judge"):
        assess_labels(labelled(bare, np.full(12, np.nan)), KEY)


def test_forces_are_distributed_by_element():
    frames = water_frames(2)
    forces = np.zeros((12, 3))
    forces[6] = [3.0, 0, -4.0]  # an oxygen of the second frame
    forces[1] = [0, 0.5, 0]
    quality = assess_labels(labelled(frames, np.zeros(2), forces), KEY)
    oxygen, hydrogen = quality.forces["O"], quality.forces["H"]
    assert (oxygen.largest, oxygen.largest_frame, oxygen.n_atoms) == (5.0, 1, 4)
    assert oxygen.rms == pytest.approx(np.sqrt(25 / 12))
    assert (hydrogen.largest, hydrogen.largest_frame, hydrogen.n_atoms) == (0.5, 0, 8)
    assert (oxygen.counts.sum(), hydrogen.counts.sum()) == (12, 24)
    assert (oxygen.edges[0], oxygen.edges[-1]) == (-4.0, 4.0)


def test_labelled_volumes_are_set_against_the_sampled_ones():
    sampled = water_frames(50)
    order = np.argsort(sampled.volumes)
    chosen = labelled(sampled.select(order[10:40]), np.zeros(30))
    (found,) = volume_coverage(chosen, KEY, sampled)
    assert (found.formula, found.unit, found.same_scale) == ("H4O2", "Å³", True)
    assert found.covered == pytest.approx(30 / 50)
    assert found.shift == pytest.approx((sampled.volumes[order[10:40]].mean() - sampled.volumes.mean()) / 2)
    assert found.spreads == pytest.approx((sampled.volumes[order[10:40]].std() / 2, sampled.volumes.std() / 2))


def test_volumes_of_a_run_at_constant_volume_have_no_spread():
    volumes = 32.0 + 1e-14 * np.arange(5)
    assert Coverage("H2O", "Å³", np.arange(31.0, 34.0), volumes, same_scale=True).spreads[1] == 0.0


def test_energies_are_compared_at_the_level_of_the_sampling_where_that_is_known():
    sampled = labelled(water_frames(20), np.arange(20.0), key=LOW)
    chosen = labelled(sampled.without_level(LOW).select(range(5, 10)), np.full(5, -900.0))
    levels, (found,) = energy_coverage(chosen, KEY, sampled)
    assert (levels.labelled, levels.sampled, found.same_scale) == (LOW, LOW, True)
    np.testing.assert_allclose(found.labelled, np.arange(5, 10) / 2 * EV_KJMOL)
    assert found.covered == pytest.approx(5 / 20)
    assert found.shift == pytest.approx((7 - 9.5) / 2 * EV_KJMOL)


def test_energies_at_different_levels_are_compared_about_their_means():
    sampled = labelled(water_frames(20), np.arange(20.0), key=LOW)
    elsewhere = labelled(water_frames(5, seed=9), np.arange(5.0) - 900)
    levels, (found,) = energy_coverage(elsewhere, KEY, sampled)
    assert (levels.labelled, levels.sampled, found.same_scale, found.shift) == (KEY, LOW, False, None)
    np.testing.assert_allclose(found.labelled, np.arange(-2, 3) / 2 * EV_KJMOL)
    assert found.covered == pytest.approx(4 / 20)
    same = labelled(water_frames(20), np.arange(20.0))
    levels, (found,) = energy_coverage(elsewhere, KEY, same)
    assert (levels.sampled, found.same_scale) == (KEY, True)
    assert energy_coverage(elsewhere, KEY, water_frames(20)) is None
