"""Levels compared and subtracted inside the graph."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm

from aiida_mlfinetune.calculations.functions.levels import compare_levels, subtract_levels
from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from tests.fixtures.frames import PBE, XTB, make_frames, random_labels

pytestmark = pytest.mark.usefixtures("aiida_profile_clean")
HYBRID = Level("pbe0/cp2k", engine="cp2k", method="PBE0")


@pytest.fixture
def dataset() -> DatasetData:
    """Crystals of four CO2 and molecules; the hybrid 2 eV a molecule higher, +-0.01 eV, its forces 5 meV/A off."""
    frames = make_frames()
    low = random_labels(frames, XTB, np.random.default_rng(0))
    counts = frames.n_atoms / 3
    wiggle = np.array([1, -1, 1, -1, 1, -1, 0]) * 0.01
    high = Labels.build(HYBRID, frames.offsets, low.energy + counts * (2 + wiggle), low.forces + 0.005, low.stress)
    return DatasetData(frames.with_labels(low).with_labels(high), {XTB.key: ["job 1"], HYBRID.key: ["job 2"]}).store()


def test_levels_are_compared_as_observables(dataset):
    found = compare_levels(dataset, orm.Str(HYBRID.key), orm.Str(XTB.key))
    assert set(found) == {"energy", "forces", "stress"}
    energy, forces = found["energy"], found["forces"]
    assert (energy.name, energy.unit) == ("level_difference_energy", "kJ/mol")
    assert energy.value == pytest.approx(0.01 * np.sqrt(6 / 7) * EV_KJMOL)
    assert 0 < energy.error < energy.value
    assert energy.conditions == {"level_a": HYBRID.key, "level_b": XTB.key}
    carbon_dioxide = energy.details["per_molecule"]["CO2"]
    assert carbon_dioxide["shift_kJ_mol"] == pytest.approx(2 * EV_KJMOL)
    assert carbon_dioxide["n"] == 7
    assert energy.details["by_formula"]["C4O8"]["n"] == 4
    assert energy.details["element_rank"] == 1
    np.testing.assert_allclose(energy.arrays()["difference_kJ_mol"][:2], [2.01 * EV_KJMOL, 1.99 * EV_KJMOL])
    assert forces.value == pytest.approx(0, abs=1e-9)
    assert forces.details["by_element"]["O"]["shift_meV_A"] == pytest.approx(5)
    assert found["stress"].details["pressure"]["n"] == 4
    assert energy.creator.process_label == "compare_levels"


def test_one_frame_has_no_error_and_says_so(dataset):
    single = DatasetData.subset(dataset, [0]).store()
    energy = compare_levels(single, orm.Str(HYBRID.key), orm.Str(XTB.key))["energy"]
    assert energy.error == np.inf
    assert energy.warnings == ["one value only: its error is unknown"]


def test_energies_of_different_kinds_are_marked(labelled_frames):
    node = DatasetData(labelled_frames).store()
    energy = compare_levels(node, orm.Str(PBE.key), orm.Str(XTB.key))["energy"]
    assert any("'sigma0'" in warning for warning in energy.warnings)
    with pytest.raises(LabelsError, match="no difference of the methods"):
        subtract_levels(node, orm.Str(PBE.key), orm.Str(XTB.key))


def test_the_difference_is_a_dataset_to_train_on(dataset):
    difference = subtract_levels(dataset, orm.Str(HYBRID.key), orm.Str(XTB.key))
    (key,) = difference.levels
    assert key == "pbe0/cp2k-minus-gfn1-xtb/tblite"
    assert difference.levels[key]["counts"] == {"energy": 7, "forces": 7, "stress": 4}
    assert difference.level_sources == {key: ["job 2", "job 1"]}
    assert difference.levels[key]["level"]["settings"]["level_b"] == XTB.to_dict()
    np.testing.assert_allclose(difference.frames.labels(key).forces, 0.005)
    assert difference.creator.inputs.dataset.pk == dataset.pk
