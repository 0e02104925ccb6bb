"""Nested splits as views, correlation times of runs, and a curve from the errors of trainings."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType

from aiida_mlfinetune.calculations.functions import learning_curve as functions
from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.sources import source_runs
from tests.fixtures.curves import LEVEL, made_up_curve, made_up_errors, water_dataset
from tests.fixtures.frames import make_frames


@pytest.fixture
def dataset(aiida_profile):
    return DatasetData(make_frames(20, 0)).store()


def run_of(frames_stride: int = 10, tau: float = 4.0, n: int = 400) -> orm.ArrayData:
    rng = np.random.default_rng(3)
    rho = tau / (1 + tau)
    energy = [0.0]
    for _ in range(n - 1):
        energy.append(rho * energy[-1] + rng.normal())
    node = orm.ArrayData()
    node.set_array("step", frames_stride * np.arange(n))
    node.set_array("potential_energy_eV", np.array(energy))
    return node


def split(dataset, **parameters):
    return functions.nested_splits(dataset, orm.Dict({"valid": 4, "seed": 1, **parameters}))


def test_nested_splits_are_views_with_equal_hashes_whatever_else_is_asked_for(dataset):
    one, three = split(dataset, train=[4]), split(dataset, train=[2, 4, 8], test=0)
    assert set(three) == {"train_2", "train_4", "train_8", "valid", "sizes"}
    for name in ("train_4", "valid"):
        assert one[name].is_subset
        assert one[name].base.caching.compute_hash() == three[name].base.caching.compute_hash()
    assert set(three["train_2"].indices) < set(three["train_4"].indices) < set(three["train_8"].indices)
    sizes = three["sizes"].get_dict()
    assert (sizes["train"], sizes["valid"], sizes["test"], sizes["separation"]) == ([2, 4, 8], 4, 0, "none")


def test_the_separation_is_the_correlation_time_unless_one_is_given(dataset):
    correlation = functions.correlation_time(slow=run_of(tau=4.0), fast=run_of(tau=0.5))
    assert correlation.details["run"] == "slow"
    assert (correlation.unit, correlation.value) == ("steps", pytest.approx(40, rel=0.6))
    separation = correlation.details["separation"]
    made = functions.nested_splits(dataset, orm.Dict({"train": [3], "valid": 4, "seed": 1}), correlation)
    assert made["sizes"]["min_separation_steps"] == separation == int(np.ceil(correlation.value))
    assert made["sizes"]["n_left_out"] > 0
    steps = dataset.frames.steps
    gaps = np.abs(steps[made["train_3"].indices][:, None] - steps[made["valid"].indices][None, :])
    assert gaps.min() >= separation
    given = orm.Dict({"train": [3], "valid": 4, "seed": 1, "min_separation": 0})
    assert functions.nested_splits(dataset, given, correlation)["sizes"]["separation"] == "given"


def test_runs_are_found_in_the_graph(aiida_profile):
    run = orm.CalcJobNode()
    run.store()
    properties = run_of()
    properties.base.links.add_incoming(run, LinkType.CREATE, "properties")
    properties.store()
    frames = make_frames(4, 3)
    known = DatasetData(frames.with_source(run.uuid))
    assert {name: node.uuid for name, node in source_runs(known).items()} == {"run_00": properties.uuid}
    assert source_runs(DatasetData(frames)) == {}


def test_no_run_has_no_correlation_time(aiida_profile):
    with pytest.raises(StudyError, match="at least one run"):
        functions.correlation_times({})
    with pytest.raises(MlFinetuneError, match="too few"):
        functions.correlation_times({"short": run_of(n=12)})


def test_equal_frames_are_no_split(aiida_profile):
    frames = make_frames(6, 0)
    doubled = DatasetData(frames.concatenate([frames, frames.select([2])]))
    with pytest.raises(FramesError, match="equal to others"):
        split(doubled, train=[2], valid=2)


def test_each_mode_gets_each_seed(aiida_profile):
    made = functions.seeded_parameters(orm.List([3, 5]), a=orm.Dict({"mode": "scratch", "seed": 9}), b=orm.Dict({}))
    assert {name: node["seed"] for name, node in made.items()} == {"a_s3": 3, "a_s5": 5, "b_s3": 3, "b_s5": 5}
    assert made["a_s5"].get_dict() == {"mode": "scratch", "seed": 5}


def test_a_curve_holds_every_error_with_its_bars_and_a_sentence(aiida_profile):
    curve = made_up_curve(target={"forces_meV_A": 60.0})
    arrays = curve.arrays()
    assert arrays["sizes"].tolist() == [10, 20, 40, 80]
    assert arrays["seeds"].tolist() == [1, 2, 3]
    assert arrays["scratch/forces_O_meV_A"].shape == (4, 3)
    assert curve.conditions == {"level": LEVEL.key, "set": "valid", "mode": "naive", "n_train": 80}
    assert (curve.unit, curve.value) == ("meV/A", pytest.approx(float(arrays["naive/forces_meV_A"][3].mean())))
    assert curve.error == pytest.approx(float(arrays["naive/forces_meV_A"][3].std(ddof=1)) / np.sqrt(3))
    assert curve.details["conclusions"]["naive"]["smallest"] == 10
    assert "naive: 10 frames are the smallest set that meets the target" in curve.details["sentence"]
    assert "scratch: " in curve.details["sentence"]
    assert curve.details["fits"]["scratch"]["forces_meV_A"]["b"] == pytest.approx(0.8, abs=0.1)
    assert functions.SEEDS_ONLY in curve.warnings
    assert functions.NOT_SEPARATED in curve.warnings


def test_percent_are_of_the_spread_of_the_judged_labels(aiida_profile):
    curve = made_up_curve()
    labels = water_dataset().frames.labels(LEVEL.key)
    spread = 1000 * np.sqrt(np.mean(labels.forces**2))
    assert curve.details["spreads"]["forces_meV_A"] == pytest.approx(spread)
    arrays = curve.arrays()
    np.testing.assert_allclose(arrays["naive/forces_percent"], 100 * arrays["naive/forces_meV_A"] / spread)
    np.testing.assert_allclose(
        arrays["naive/energy_percent"],
        100 * arrays["naive/energy_kJ_mol"] / curve.details["spreads"]["energy_kJ_mol"],
    )


def test_missing_trainings_are_missing_and_named(aiida_profile):
    curve = made_up_curve(missing=["naive_n80_s2", "naive_n80_s3", "scratch_n10_s1"])
    assert np.isnan(curve.arrays()["naive/forces_meV_A"][3]).tolist() == [False, True, True]
    assert curve.error == np.inf
    assert any("one training is left" in text for text in curve.warnings)
    assert any("3 trainings failed and are missing: naive_n80_s2" in text for text in curve.warnings)
    assert curve.details["failed"]["naive_n80_s2"] == "the loss is not a number"


def test_one_seed_says_that_it_has_no_error_bars(aiida_profile):
    curve = made_up_curve(seeds=(1,))
    assert functions.ONE_SEED in curve.warnings
    assert curve.error == np.inf


def test_nothing_gives_no_curve(aiida_profile):
    with pytest.raises(StudyError, match="at least one training"):
        made_up_curve(missing=list(made_up_errors((10, 20, 40, 80), (1, 2, 3))))
