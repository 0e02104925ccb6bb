"""Which frames of a run are taken, and which of them are returned to train on."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import FramesError, StudyError
from aiida_mlfinetune.science.conclusions.reweighting import reweighting_weights
from aiida_mlfinetune.science.conclusions.reweighting_frames import (
    ReweightingSettings,
    SampledState,
    TrainBy,
    check_run_frames,
    frame_errors,
    frames_to_label,
    frames_to_train_on,
    indicators,
    units_of,
)
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from tests.fixtures.frames import PBE, XTB, make_frames
from tests.fixtures.waters import two_waters

FLAT = np.random.default_rng(0).normal(size=1000)


def taken(energies=FLAT, **settings):
    return frames_to_label(energies, ReweightingSettings(**settings)).tolist()


def test_frames_are_uniformly_spaced_and_end_with_the_last():
    assert taken(n_frames=100, equilibration=0.0) == list(range(9, 1000, 10))
    assert taken(n_frames=10, equilibration=0.5) == list(range(549, 1000, 50))
    assert taken(stride=100, equilibration=0.0) == list(range(99, 1000, 100))
    assert taken(stride=1, equilibration=0.0) == list(range(1000))
    assert taken(stride=7, equilibration=0.9)[-1] == 999


def test_equilibration_is_detected_where_it_is_not_given():
    drifting = FLAT + 20 * np.exp(-np.arange(1000) / 50)
    assert taken(stride=10)[0] < 100
    assert 150 < taken(drifting, stride=10)[0] <= 510


def test_a_stride_that_leaves_nine_frames_is_refused():
    assert len(taken(stride=100, equilibration=0.0)) == 10
    with pytest.raises(FramesError, match="a stride of 112 leaves 9 frames"):
        taken(stride=112, equilibration=0.0)
    with pytest.raises(StudyError, match="'n_frames' or by 'stride'"):
        ReweightingSettings()


def test_settings_come_back_from_their_dictionary():
    settings = ReweightingSettings(stride=3, train_by="weights")
    assert settings.train_by is TrainBy.WEIGHTS
    assert ReweightingSettings.from_dict(settings.to_dict()) == settings


def test_pressure_counts_for_a_barostat_only():
    nvt = SampledState.from_parameters({"temperature_K": 100, "ensemble": "nvt", "pressure_bar": 1.0})
    other = SampledState.from_parameters({"temperature_K": 100.0, "ensemble": "nvt", "pressure_bar": 7.0})
    assert nvt.difference(other) is None
    assert nvt.difference(SampledState(220.0, nvt.ensemble)) == "temperature 100 K, not at 220 K"


def test_errors_are_those_of_forces_where_both_levels_have_them():
    frames = make_frames(n_crystal=0, n_gas=4)
    n_atoms, energy = 3, np.array([0.0, 1.0, 2.0, 5.0])
    forces = np.zeros((4 * n_atoms, 3))
    wrong = forces.copy()
    wrong[3:6] = 0.2
    wrong[9:12] = -0.1

    def labelled(level, energy, forces=None):
        return Labels.build(level, frames.offsets, energy, forces)

    with_forces = frames.with_labels(labelled(XTB, 0 * energy, forces)).with_labels(labelled(PBE, energy, wrong))
    scale = np.sqrt((0.2**2 + 0.1**2) / 4)
    np.testing.assert_allclose(frame_errors(with_forces, XTB.key, PBE.key), np.array([0, 0.2, 0, 0.1]) / scale)
    without = frames.with_labels(labelled(XTB, 0 * energy, forces)).with_labels(labelled(PBE, energy))
    errors = frame_errors(without, XTB.key, PBE.key)
    np.testing.assert_allclose(errors, np.abs(energy - 2.0) / np.sqrt(3.5))


def test_the_largest_weights_or_errors_are_returned_in_order_of_time():
    difference = np.linspace(1.0, 0.0, 20)
    weights = reweighting_weights(np.zeros(20), difference, 1e4)
    errors = np.zeros(20)
    errors[[12, 3]] = 5.0, 7.0
    assert frames_to_train_on(weights, errors, 3, TrainBy.WEIGHTS).tolist() == [17, 18, 19]
    assert frames_to_train_on(weights, errors, 2, TrainBy.ERRORS).tolist() == [3, 12]


def test_energies_are_given_by_molecules_or_else_by_formula_units():
    waters = units_of(Frames.from_atoms([two_waters()]))
    assert (waters.formula, waters.count) == ("H2O", 2)
    gas = units_of(make_frames(n_crystal=0, n_gas=1))
    assert (gas.formula, gas.count) == ("CO2", 1)
    from ase.build import bulk

    salt = units_of(Frames.from_atoms([bulk("NaCl", "rocksalt", a=5.6, cubic=True)]))
    assert (salt.formula, salt.count) == ("ClNa", 4)


def test_histograms_are_means_of_what_frames_add():
    values = np.random.default_rng(3).normal(size=500)
    edges, shares = indicators(values, 8)
    expected, _ = np.histogram(values, bins=edges, density=True)
    np.testing.assert_allclose(shares.mean(axis=0), expected)


def test_frames_of_two_runs_are_refused():
    frames = make_frames()
    frames = frames.with_labels(Labels.build(Level("m/mace"), frames.offsets, np.zeros(len(frames))))
    with pytest.raises(FramesError, match="not those of one run"):
        check_run_frames(frames, "m/mace")
