"""Ratios of errors against those of the foundation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.common.units import EV_MEV
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from aiida_mlfinetune.science.models.forgetting import ABOUT_SHIFTS, forgetting_ratios
from tests.fixtures.frames import make_frames, random_labels

KEYS = ("dft", "tuned", "foundation")
NOISE = {"tuned": 3.0, "foundation": 1.0}
"""Size of the errors of either model."""


def judged(n_crystal: int, n_gas: int, seed: int = 0, shifts: tuple[float, float] = (0.0, 0.0)) -> Frames:
    """Return frames of C and O with labels, and predictions of known noise, those of ``tuned`` shifted by element."""
    rng = np.random.default_rng(seed)
    frames = make_frames(n_crystal, n_gas, seed)
    reference = random_labels(frames, Level("dft"), rng)
    frames = frames.with_labels(reference)
    carbons = np.add.reduceat((frames.numbers == 6).astype(int), frames.offsets[:-1])
    for key, size in NOISE.items():
        shift = carbons * shifts[0] + (frames.n_atoms - carbons) * shifts[1] if key == "tuned" else 0.0
        frames = frames.with_labels(
            Labels.build(
                Level(key),
                frames.offsets,
                reference.energy + shift + rng.normal(scale=0.001 * size, size=len(frames)) * frames.n_atoms,
                reference.forces + rng.normal(scale=0.01 * size, size=reference.forces.shape),
                reference.stress + rng.normal(scale=0.001 * size, size=reference.stress.shape),
            )
        )
    return frames


def test_ratios_are_those_of_the_errors_and_their_error_covers_the_truth():
    frames = judged(60, 60)
    found = forgetting_ratios({"a": frames}, *KEYS)
    assert set(found.pooled) == {"energy", ABOUT_SHIFTS, "forces", "stress"}
    for ratio in found.pooled.values():
        assert 0 < ratio.error < 1
        assert abs(ratio.ratio - 3.0) < 4 * ratio.error
    forces = found.pooled["forces"]
    reference, tuned = frames.labels("dft"), frames.labels("tuned")
    rmse = np.sqrt(np.mean((tuned.forces - reference.forces) ** 2)) * EV_MEV
    assert forces.rmse_model == pytest.approx(rmse)
    assert forces.ratio == pytest.approx(forces.rmse_model / forces.rmse_foundation)
    assert found.pooled["stress"].n_frames == 60
    assert found.by_set["a"]["forces"] == forces


def test_the_error_is_the_spread_over_independent_sets():
    sets = [{"a": judged(10, 10, seed)} for seed in range(40)]
    found = [forgetting_ratios(frames, *KEYS, n_bootstrap=200).pooled["forces"] for frames in sets]
    spread = np.std([ratio.ratio for ratio in found], ddof=1)
    assert 0.6 < np.mean([ratio.error for ratio in found]) / spread < 1.5


def test_sets_are_pooled_by_their_values():
    sets = {"few": judged(4, 0, 1), "many": judged(30, 20, 2)}
    found = forgetting_ratios(sets, *KEYS)
    joined = forgetting_ratios({"all": Frames.concatenate(list(sets.values()))}, *KEYS)
    for quantity, ratio in found.pooled.items():
        assert ratio.ratio == pytest.approx(joined.pooled[quantity].ratio)
        assert ratio.n_frames == joined.pooled[quantity].n_frames
    assert found.by_set["few"]["forces"].n_frames == 4


def test_other_reference_energies_are_no_forgetting():
    plain = forgetting_ratios({"a": judged(20, 20)}, *KEYS).pooled
    shifted = forgetting_ratios({"a": judged(20, 20, shifts=(30.0, -700.0))}, *KEYS).pooled
    assert shifted["energy"].ratio > 1e4
    assert shifted[ABOUT_SHIFTS].ratio == pytest.approx(plain[ABOUT_SHIFTS].ratio, rel=1e-6)


def test_the_same_model_has_forgotten_nothing():
    found = forgetting_ratios({"a": judged(3, 3)}, "dft", "foundation", "foundation").pooled
    assert all((ratio.ratio, ratio.error) == (1.0, 0.0) for ratio in found.values())


def test_one_frame_has_no_error():
    found = forgetting_ratios({"a": judged(1, 0)}, *KEYS).pooled
    assert math.isinf(found["forces"].error)
    assert ABOUT_SHIFTS not in found


def test_what_cannot_be_judged_is_refused():
    frames = judged(3, 3)
    with pytest.raises(LabelsError, match="no dataset"):
        forgetting_ratios({}, *KEYS)
    with pytest.raises(LabelsError, match="no labels at level 'pbe'"):
        forgetting_ratios({"a": frames}, "pbe", "tuned", "foundation")
    with pytest.raises(LabelsError, match="no error at all in the energy of set 'a': these labels are its own"):
        forgetting_ratios({"a": frames}, "foundation", "tuned", "foundation")
    empty = frames.with_labels(Labels.build(Level("empty"), frames.offsets))
    with pytest.raises(LabelsError, match="no frame has energy, forces or stress at all of the levels"):
        forgetting_ratios({"a": empty}, "empty", "tuned", "foundation")
