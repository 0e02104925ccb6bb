"""Any series of a run at the reference level."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm

from aiida_mlfinetune.calculations.functions.reweighting import reweighted_series, strided_frames
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.conclusions.reweighting import reweight, reweighting_weights
from tests.workchains.test_reweighting import DFT, MODEL, NPT, TEMPERATURE, crystal_run

SETTINGS = {"stride": 1, "equilibration": 0.0, "n_bootstrap": 100, "n_bins": 5}


@pytest.fixture
def run(aiida_profile):
    return DatasetData(crystal_run(n=60))


def average(run, **arrays):
    levels = {"sampled_level": orm.Str(MODEL.key), "reference_level": orm.Str(DFT.key)}
    state = {"conditions": orm.Dict(NPT), "settings": orm.Dict(SETTINGS)}
    return reweighted_series(run, **levels, **state, series=orm.ArrayData(arrays), unit=orm.Str("A"))


def test_numbers_and_curves_are_averaged_alike(run):
    rng = np.random.default_rng(5)
    scalar, curve = rng.normal(size=60), rng.normal(size=(60, 7)) + 3.0
    found = average(run, scalar=scalar, curve=curve)
    frames = run.frames
    energies = (frames.labels(key).energy for key in (MODEL.key, DFT.key))
    weights = reweighting_weights(*energies, TEMPERATURE)
    assert found["scalar"].value == pytest.approx(float(weights.weights @ scalar))
    assert found["scalar"].details["cumulant"]["error"] > 0
    expected = reweight(curve, weights, n_bootstrap=100, seed=1)
    arrays = found["curve"].arrays()
    np.testing.assert_allclose(arrays["reweighted"], expected.reweighted.value)
    np.testing.assert_allclose(arrays["reweighted_error"], expected.reweighted.error)
    np.testing.assert_allclose(arrays["raw"], curve.mean(axis=0))
    assert found["curve"].value == pytest.approx(float(arrays["reweighted"].mean()))
    assert found["curve"].unit == "A"
    assert found["curve"].details["verdict"].startswith("reliable")


def test_a_series_of_other_frames_is_refused(run):
    with pytest.raises(MlFinetuneError, match="do not go with 60 weights"):
        average(run, scalar=np.ones(59))


def test_frames_are_taken_as_a_view(run):
    view = strided_frames(run, orm.Str(MODEL.key), orm.Dict({**SETTINGS, "stride": 6}))
    assert view.is_subset
    assert view.indices.tolist() == list(range(5, 60, 6))
    with pytest.raises(MlFinetuneError, match="a stride of 7 leaves 9 frames"):
        strided_frames(run, orm.Str(MODEL.key), orm.Dict({**SETTINGS, "stride": 7}))
