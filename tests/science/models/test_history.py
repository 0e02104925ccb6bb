"""The history of a model as text answers how exactly it was made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aiida_mlfinetune.science.models.history import columns, error_values, flat, history_text, text_of
from aiida_mlfinetune.science.references import level_references
from tests.science.models.histories import LEVEL, foundation, passport, trained


def test_the_text_names_all_that_a_model_was_made_from():
    text = history_text(trained())
    for wanted in (
        "ice, made by MaceTrainCalculation (20)",
        "a" * 64,
        "MaceTrainCalculation <20> finished",
        "TrainingWorkChain <18>",
        "aiida-core 2.9.4, aiida-mlfinetune 0.1.0, mace-torch 0.3.16",
        "python@localhost",
        "parameters.lr",
        "0.001",
        "split.seed",
        "revPBE-D3(zero)",
        "1200 Ry",
        "2023.1",
        "revpbe-d3/cp2k (4, 4, 0)",
        "4 x H16O8",
        "Parent model: foundation",
        "f" * 64,
        "wb97m-d3/spice",
        "forces_by_element.O.rmse_meV_A",
    ):
        assert wanted in text, wanted
    assert all(len(line) < 200 for line in text.splitlines())


def test_what_is_not_in_the_graph_is_said():
    text = history_text(replace(foundation(), settings={"frames": 519}, licence=""))
    assert "What its passport tells about the training" in text
    assert "Licence       not stated" in text
    assert "Made by" not in text


def test_the_licence_of_a_parent_and_a_baseline_are_said():
    text = history_text(trained(licence="ASL", settings={"baseline": {"sha256": "b" * 64}}))
    assert "Licence       not stated; of what it was made from: ASL" in text
    assert f"this model is a difference: its energies count together with those of the model {'b' * 64}" in text


def test_ancestors_are_named_once_each_with_their_role():
    grandparent = replace(foundation(), passport=passport("0"), name="first")
    parent = replace(foundation(), parents=(("foundation", grandparent), ("baseline", grandparent)), name="second")
    child = replace(trained(), parents=(("foundation", parent), ("baseline", grandparent)))
    assert [(role, found.name) for role, found in child.ancestors()] == [
        ("foundation", "second"),
        ("baseline", "first"),
    ]


def test_errors_are_flat_and_without_counts_and_spreads():
    errors = {
        "a": {"test": {"n_energy": 3, "energy_rmse": 1, "energy_std_meV": 9.0, "molecule": "H2O", "H": {"x": 2.0}}}
    }
    assert error_values(errors) == {("a", "test", "energy_rmse"): 1.0, ("a", "test", "H.x"): 2.0}


def test_small_helpers_of_text():
    assert flat({"a": {"b": {"c": 1}}, "d": {}}) == {"a.b.c": 1}
    assert [text_of(value) for value in (True, None, 1e-3, [1, "x"], "y")] == ["yes", "none", "0.001", "1, x", "y"]
    assert columns([("a", "bb"), ("ccc", "d")], " ") == [" a    bb", " ccc  d"]
    assert columns([]) == []


@pytest.mark.parametrize(
    ("level", "names"),
    [
        (LEVEL.to_dict(), ["CP2K", "revPBE", "D3", "MOLOPT basis sets", "GTH potentials"]),
        (
            {"key": "pbe/vasp", "method": "PBE-D3(BJ)", "basis": "PAW"},
            ["VASP", "PAW in VASP", "PBE", "D3", "D3(BJ)"],
        ),
        ({"key": "gfn1-xtb/cp2k"}, ["CP2K", "GFN1-xTB"]),
        ({"key": "rpa-pbe0/cp2k", "method": "RPA@PBE0"}, ["CP2K", "PBE", "PBE0", "RPA in CP2K"]),
        ({"key": "revpbe/x", "method": "revPBE"}, ["revPBE"]),
    ],
)
def test_levels_are_cited_by_what_they_are(level, names):
    assert {citation.split(":")[0] for citation in level_references([level])} == set(names)
