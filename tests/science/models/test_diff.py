"""Two models beside each other: the inputs that differ, and the errors that moved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aiida_mlfinetune.science.models.diff import compare_models, diff_text
from tests.science.models.histories import foundation, passport, trained


def test_a_model_does_not_differ_from_itself():
    diff = compare_models(trained(), trained())
    assert (diff.inputs, diff.properties, diff.errors, diff.one_sided) == ((), (), (), ())
    assert diff.n_same_errors == 2
    text = diff_text(diff)
    assert text.count("  none") == 3
    assert "2 more are the same" in text


def test_inputs_that_differ_are_named_with_both_values():
    diff = compare_models(trained(), trained(lr=5e-4, n_train=6))
    assert {entry.name: (entry.first, entry.second) for entry in diff.inputs} == {
        "parameters.lr": ("0.001", "0.0005"),
        "data.train": ("4 frames, hash train-0-4000, 4 shared", "6 frames, hash train-0-6000, 4 shared"),
    }


def test_a_seed_a_parent_a_code_and_a_set_that_is_missing_are_inputs():
    other = trained()
    other = replace(
        other,
        settings={**other.settings, "parameters": {"mode": "naive", "lr": 1e-3, "seed": 8}},
        parents=(("foundation", replace(foundation(), passport=passport("0"))),),
        process=replace(other.process, code="python@cluster", versions={**other.process.versions, "mace-torch": "0.4"}),
        datasets=other.datasets[:1],
    )
    names = [entry.name for entry in compare_models(trained(), other).inputs]
    assert names == ["parameters.seed", "foundation.sha256", "code", "version of mace-torch", "data.valid"]


def test_reference_energies_and_levels_of_the_files_are_compared():
    other = trained(e0s={"Default": {"H": -13.5 + 1e-8, "O": -432.0}}, n_parameters=7)
    diff = compare_models(trained(), other)
    assert {entry.name: (entry.first, entry.second) for entry in diff.properties} == {
        "n_parameters": ("90840", "7"),
        "E0 of O, head Default (eV)": ("-432.250000", "-432.000000"),
    }


def test_errors_that_moved_are_named_with_their_change():
    errors = {"energy_rmse_meV_per_atom": 1.2, "forces_by_element": {"O": {"rmse_meV_A": 40.0}}, "stress_rmse": 1.0}
    diff = compare_models(trained(), trained(errors=errors))
    (change,) = diff.errors
    assert (change.head, change.frames, change.measure) == ("Default", "valid", "energy_rmse_meV_per_atom")
    assert change.change_percent == pytest.approx(-20.0)
    assert change.same_frames
    assert diff.n_same_errors == 1
    assert diff.one_sided == (("Default", "valid", "stress_rmse"),)
    text = diff_text(diff)
    assert "-20.0 %" in text
    assert "1 more are there for one of the two only" in text


def test_errors_on_other_frames_are_marked():
    other = trained(errors={"energy_rmse_meV_per_atom": 1.2})
    other = replace(other, datasets=(other.datasets[0], replace(other.datasets[1], content_hash="x" * 20)))
    diff = compare_models(trained(), other)
    assert diff.errors[0].same_frames is False
    text = diff_text(diff)
    assert "-20.0 % other frames" in text
    assert "do not compare the models" in text
    unknown = compare_models(trained(), replace(other, datasets=()))
    assert unknown.errors[0].same_frames is None
    assert "frames unknown" in diff_text(unknown)


def test_a_change_from_nothing_has_no_percentage():
    zero = trained(errors={"energy_rmse_meV_per_atom": 0.0})
    assert compare_models(zero, trained()).errors[0].change_percent is None


def test_models_without_a_graph_are_compared_by_what_is_known():
    diff = compare_models(foundation(), trained())
    assert {"process", "data.train", "data.valid", "parameters.lr", "foundation.sha256"} <= {
        entry.name for entry in diff.inputs
    }
    assert "none that both models have" in diff_text(diff)
