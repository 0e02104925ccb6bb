"""Known shifts of reference energies are recovered, and what labels cannot determine is said."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from ase import Atoms

from aiida_mlfinetune.calculations.functions.reference_energies import (
    diagnose_reference_energies,
    frames_to_predict,
)
from aiida_mlfinetune.common.errors import FramesError, LabelsError, ModelError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.atomic_energies import composition_matrix
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from tests.fixtures.models import TINY_E0S, make_tiny_model

LEVEL = Level("pbe/made-up", engine="made-up")
MODEL = Level("tiny/mace", engine="mace")
SHIFT = {"H": 0.731, "O": -2.345}
MIXED, ICE = ("H2O", "H2", "O2", "H2O2", "H4O2"), ("H2O", "H4O2", "H8O4", "H16O8", "H6O3")


def frames_of(formulas, seed: int = 0) -> Frames:
    rng = np.random.default_rng(seed)
    return Frames.from_atoms([Atoms(formula, 3 * rng.uniform(size=(len(Atoms(formula)), 3))) for formula in formulas])


def predictions(frames: Frames, atom_errors=None) -> np.ndarray:
    """Return what the model says: its reference energies, and a binding energy that isolated atoms do not have."""
    totals = composition_matrix(frames, frames.elements) @ np.array([TINY_E0S[element] for element in frames.elements])
    bound = np.where(frames.n_atoms > 1, -0.3 * frames.n_atoms + np.sin(np.arange(len(frames))), 0.0)
    lone = [(atom_errors or {}).get(formula, 0.0) for formula in frames.formulas]  # a single atom's formula is its name
    return totals + bound + np.array(lone)


def labelled(frames: Frames, level: Level, energy: np.ndarray) -> DatasetData:
    return DatasetData(frames.with_labels(Labels.build(level, frames.offsets, energy)))


def diagnose(model, train_formulas, valid_formulas=("H2O", "H4O2"), noise: float = 0.0, atom_errors=None, **more):
    bare = [frames_of(train_formulas, 1), frames_of(valid_formulas, 2)]
    unlabelled = [DatasetData(frames) for frames in bare]
    asked = frames_to_predict(*unlabelled)
    predicted = labelled(asked.frames, MODEL, predictions(asked.frames, atom_errors))
    told = dict(zip(asked.frames.content_hashes(), predictions(asked.frames), strict=True))
    rng = np.random.default_rng(3)
    sets = []
    for frames in bare:
        shift = composition_matrix(frames, frames.elements) @ np.array([SHIFT[e] for e in frames.elements])
        own = np.array([told[digest] for digest in frames.content_hashes()])
        sets.append(labelled(frames, LEVEL, own + shift + noise * rng.normal(size=len(frames))))
    return diagnose_reference_energies(*sets, orm.Str(LEVEL.key), model=model, predicted=predicted, **more)


def test_known_shifts_are_recovered_from_a_mixed_set(tiny_model):
    found = diagnose(tiny_model, MIXED)
    assert found.details["shift_eV"] == pytest.approx(SHIFT, abs=1e-6)
    assert found.details["values_eV"] == pytest.approx({e: TINY_E0S[e] + SHIFT[e] for e in SHIFT}, abs=1e-6)
    assert found.details["determination"]["rank"] == 2
    assert found.details["determination"]["sentence"] == "H and O are determined"
    first = found.details["first_validation_meV_per_atom"]
    # 2 H + O is shifted by -0.883 eV, and that is the only combination that the validation frames have
    assert first["before"] == pytest.approx(1000 * abs(2 * SHIFT["H"] + SHIFT["O"]) / 3)
    assert first["after"] == pytest.approx(0.0, abs=1e-6)
    assert found.value == first["after"]
    assert found.warnings == []


def test_pure_ice_is_reported_as_rank_deficient_and_keeps_the_split(tiny_model):
    found = diagnose(tiny_model, ICE, noise=0.002)
    known = found.details["determination"]
    assert (known["rank"], known["condition"]) == (1, pytest.approx(1.0))
    assert (known["determined"], known["undetermined"]) == (["2 H + O"], ["H +1, O -2"])
    assert known["sentence"] == "H and O separately are not determined: only 2 H + O"
    (warning,) = found.warnings
    assert "The split between elements is that of the start, shifted as little as possible" in warning
    shift = found.details["shift_eV"]
    assert 2 * shift["H"] + shift["O"] == pytest.approx(2 * SHIFT["H"] + SHIFT["O"], abs=0.01)
    assert shift["H"] == pytest.approx(2 * shift["O"])
    first = found.details["first_validation_meV_per_atom"]
    assert first["after"] < 5 < 200 < first["before"]


def test_dissociation_is_checked_against_the_energies_of_isolated_atoms(tiny_model):
    check = diagnose(tiny_model, MIXED).details["dissociation"]
    assert check["passed"]
    assert check["largest_meV"] == pytest.approx(0.0, abs=1e-6)
    wrong = diagnose(tiny_model, MIXED, atom_errors={"O": 0.05})
    assert wrong.details["dissociation"]["atom_minus_e0_meV"] == pytest.approx({"H": 0.0, "O": 50.0}, abs=1e-6)
    assert "does not dissociate to them" in wrong.warnings[0]


def test_a_training_from_scratch_starts_at_zero(aiida_profile):
    sets = [frames_of(MIXED, 1), frames_of(("H2O", "H4O2"), 2)]
    nodes = [labelled(each, LEVEL, composition_matrix(each, ["H", "O"]) @ np.array([-13.0, -430.0])) for each in sets]
    found = diagnose_reference_energies(*nodes, orm.Str(LEVEL.key))
    assert found.details["values_eV"] == pytest.approx({"H": -13.0, "O": -430.0}, abs=1e-6)
    assert (found.details["start"], found.value) == ("zero", pytest.approx(0.0, abs=1e-6))
    assert "dissociation" not in found.details


def test_an_element_of_the_validation_set_alone_is_warned_about(aiida_profile):
    sets = [frames_of(("H2", "H4"), 1), frames_of(("H2O", "H3"), 2)]
    nodes = [labelled(each, LEVEL, -3.0 * each.n_atoms) for each in sets]
    found = diagnose_reference_energies(*nodes, orm.Str(LEVEL.key))
    assert any("['O'], which no training frame does" in text for text in found.warnings)


def test_one_job_predicts_both_sets_and_each_isolated_atom_once(aiida_profile):
    train, valid = frames_of(("H2O", "H", "O2"), 1), frames_of(("H2O",), 2)
    train.positions[3] = 0.0  # the lone H at the origin
    asked = frames_to_predict(DatasetData(train), DatasetData(valid)).frames
    assert asked.formulas == ["H2O", "H", "O2", "H2O", "O"]


def test_what_does_not_fit_is_refused(tiny_model, tmp_path, make_model_data):
    same = labelled(frames_of(MIXED), LEVEL, np.zeros(len(MIXED)))
    with pytest.raises(FramesError, match="validation frames are training frames"):
        diagnose_reference_energies(same, same, orm.Str(LEVEL.key))
    sets = [labelled(frames_of(MIXED, seed), LEVEL, np.zeros(len(MIXED))) for seed in (1, 2)]
    with pytest.raises(LabelsError, match="needs its energies"):
        diagnose_reference_energies(*sets, orm.Str(LEVEL.key), model=tiny_model)
    only = labelled(sets[0].frames.without_level(LEVEL.key), MODEL, np.zeros(len(MIXED)))
    with pytest.raises(LabelsError, match="5 frames of the set 'valid' are missing"):
        diagnose_reference_energies(*sets, orm.Str(LEVEL.key), model=tiny_model, predicted=only)
    with pytest.raises(ModelError, match="no head 'pbe'"):
        diagnose(tiny_model, MIXED, parameters=orm.Dict({"head": "pbe"}))
    two = make_model_data(make_tiny_model(tmp_path / "two.model", ("H", "O"), ("a", "b")))
    with pytest.raises(ModelError, match=r"heads \['a', 'b'\]"):
        diagnose(two, MIXED)
    assert diagnose(two, MIXED, parameters=orm.Dict({"head": "b"})).details["dissociation"]["passed"]
