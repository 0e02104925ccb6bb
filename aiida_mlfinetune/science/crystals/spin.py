"""Spin states of isolated atoms."""

from __future__ import annotations

from collections.abc import Iterable

from ase.data import atomic_numbers, ground_state_magnetic_moments

from aiida_mlfinetune.common.errors import StudyError


def atom_multiplicities(element: str) -> list[int]:
    """Return the spin multiplicities worth trying for a neutral atom, ascending.

    They are that of the experimental ground state (as ``ase.data`` lists it), and those with one electron pair more or
    less: a density functional may order them otherwise. Closed shells stay closed.

    Raises:
        StudyError: an unknown element.
    """
    if element not in atomic_numbers or element == "X":
        raise StudyError(f"there is no element {element!r}: give chemical symbols")
    number = atomic_numbers[element]
    ground = round(float(ground_state_magnetic_moments[number])) + 1
    closed = number in (2, 10, 18, 36, 54, 86)
    return [ground] if closed else [m for m in (ground - 2, ground, ground + 2) if 1 <= m <= number + 1]


def multiplicities_problem(element: str, multiplicities: Iterable[int]) -> str | None:
    """Return which multiplicity the neutral atom cannot have, or None."""
    number = atomic_numbers.get(element)
    chosen = list(multiplicities)
    if number is None or element == "X":
        return f"there is no element {element!r}: give chemical symbols"
    if not chosen:
        return f"no multiplicities are given for {element}: leave the element out to try those of its low states"
    for value in chosen:
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not 1 <= value <= number + 1
            or (value + number) % 2 == 0
        ):
            return f"{element} has {number} electrons and cannot have multiplicity {value!r}"
    return None
