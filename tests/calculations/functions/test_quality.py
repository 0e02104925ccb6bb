"""The quality of labels as observables in the graph."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm

from aiida_mlfinetune.calculations.functions.dataset import subset
from aiida_mlfinetune.calculations.functions.quality import assess_labels
from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.levels import Labels
from tests.fixtures.frames import PBE, XTB, make_frames, random_labels

pytestmark = pytest.mark.usefixtures("aiida_profile_clean")


def with_labels(frames, level, **changes):
    made = random_labels(frames, level, np.random.default_rng(7))
    return frames.with_labels(
        Labels.build(level, frames.offsets, changes.get("energy", made.energy), changes.get("forces", made.forces))
    )


def test_planted_faults_are_numbers_in_the_graph():
    frames = make_frames(12, 3)
    energy = np.random.default_rng(0).normal(scale=0.1, size=15)
    energy[5] = 40.0
    forces = np.zeros((len(frames.numbers), 3))
    forces[0], forces[frames.offsets[14]] = [0.3, 0.4, 0], [0, 0, 0.1]
    dataset = DatasetData(with_labels(frames, PBE, energy=energy, forces=forces)).store()
    found = assess_labels(dataset, orm.Str(PBE.key))
    assert set(found) == {
        "net_force",
        "forces",
        "energy_outliers",
        "duplicate_frames",
        "near_duplicates",
        "smallest_distance",
    }
    net = found["net_force"]
    assert (net.name, net.unit, net.value) == ("label_net_force", "meV/A", pytest.approx((500 + 100) / 15))
    assert (net.details["largest_meV_A"], net.details["largest_frame"]) == (pytest.approx(500), 0)
    assert net.conditions == {"level": PBE.key}
    assert "no model can be judged" in net.warnings[0]
    outliers = found["energy_outliers"]
    assert (outliers.value, outliers.error, outliers.unit) == (1, 0, "frames")
    assert outliers.details["outliers"][0]["frame"] == 5
    assert outliers.details["n_judged"] == 12
    assert np.isnan(outliers.arrays()["score"][12:]).all()
    assert found["duplicate_frames"].value == found["near_duplicates"].value == 0
    distance = found["smallest_distance"]
    assert distance.unit == "A"
    assert distance.value == distance.details["by_pair"]["C-O"]["smallest_A"]
    assert distance.arrays()["C-O_A"].min() == pytest.approx(distance.value)
    assert found["forces"].details["by_element"]["C"]["largest_eV_A"] == pytest.approx(0.5)
    assert {link.node.pk for link in net.base.links.get_incoming().all()} == {net.creator.pk}


def test_labelled_frames_are_set_against_any_number_of_sampled_sets():
    crystal = DatasetData(with_labels(make_frames(10, 0), XTB)).store()
    gas = DatasetData(with_labels(make_frames(0, 6, seed=4), XTB)).store()
    chosen = subset(crystal, orm.List([0, 2, 4, 6]))
    found = assess_labels(chosen, orm.Str(XTB.key), crystal=crystal, gas=gas)
    by_formula = found["energy_spread"].details["by_formula"]
    assert list(by_formula) == ["C4O8"]
    assert (by_formula["C4O8"]["n_labelled"], by_formula["C4O8"]["n_sampled"]) == (4, 10)
    energies = crystal.frames.labels(XTB.key).energy / 4
    assert by_formula["C4O8"]["shift"] == pytest.approx((energies[[0, 2, 4, 6]].mean() - energies.mean()) * EV_KJMOL)
    assert found["volume_spread"].unit == "A^3"
    assert found["volume_spread"].value == pytest.approx(chosen.frames.volumes.std() / 4)
    assert "energy_spread" not in assess_labels(chosen, orm.Str(XTB.key))


def test_duplicates_are_listed_by_group():
    frames = make_frames(3, 0)
    doubled = frames.select([0, 1, 2, 1])
    found = assess_labels(DatasetData(with_labels(doubled, XTB)).store(), orm.Str(XTB.key))
    assert found["duplicate_frames"].value == 1
    assert found["duplicate_frames"].details["groups"] == [[1, 3]]
    assert "cost labels and add nothing" in found["duplicate_frames"].warnings[0]
