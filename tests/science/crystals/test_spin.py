"""Spin states of isolated atoms."""

import pytest

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.crystals.spin import atom_multiplicities, multiplicities_problem


@pytest.mark.parametrize(
    ("element", "expected"),
    [("H", [2]), ("He", [1]), ("C", [1, 3, 5]), ("N", [2, 4, 6]), ("O", [1, 3, 5]), ("F", [2, 4]), ("Fe", [3, 5, 7])],
)
def test_multiplicities_near_the_ground_state(element, expected):
    assert atom_multiplicities(element) == expected
    assert multiplicities_problem(element, expected) is None


def test_what_is_no_element_is_refused():
    with pytest.raises(StudyError, match="no element 'X'"):
        atom_multiplicities("X")
    assert "no element" in multiplicities_problem("Qq", [1])


@pytest.mark.parametrize("value", [0, 1, 4, 2.0])
def test_multiplicities_that_an_atom_cannot_have_are_named(value):
    assert multiplicities_problem("H", [2, value]) == f"H has 1 electrons and cannot have multiplicity {value!r}"
    assert "no multiplicities" in multiplicities_problem("H", [])
