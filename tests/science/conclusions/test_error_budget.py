"""The error budget: signs, the sum of its terms, and errors that know which run stands in several of them."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.thermodynamics import Estimate
from aiida_mlfinetune.science.conclusions.error_budget import (
    CELL,
    MODEL,
    NUCLEI,
    STATISTICS,
    PhaseEnthalpies,
    error_budget,
)

E = Estimate
CRYSTAL = PhaseEnthalpies(E(-60.0, 0.3), E(0.4, 0.04), E(-52.0, 0.2), E(-60.5, 0.1))
GAS = PhaseEnthalpies(E(-2.0, 0.2), E(0.1, 0.03), E(7.0, 0.1))


def test_every_term_has_the_sign_that_it_adds_to_the_sublimation_enthalpy_with():
    budget = error_budget(CRYSTAL, GAS)
    assert budget.classical == E(58.0, pytest.approx(np.hypot(0.3, 0.2)))
    assert {(term.kind, term.phase): term.value for term in budget.terms} == {
        (STATISTICS, "crystal"): 0.0,
        (STATISTICS, "gas"): 0.0,
        (MODEL, "crystal"): pytest.approx(-0.4),
        (MODEL, "gas"): pytest.approx(0.1),
        (NUCLEI, "crystal"): pytest.approx(-8.0),
        (NUCLEI, "gas"): pytest.approx(9.0),
        (CELL, "crystal"): pytest.approx(0.5),
    }
    assert budget.total.value == pytest.approx(58.0 - 0.3 + 1.0 + 0.5)
    assert budget.of(NUCLEI) == E(pytest.approx(1.0), pytest.approx(np.sqrt(0.3**2 + 0.2**2 + 0.2**2 + 0.1**2)))
    assert budget.missing == ()


@pytest.mark.parametrize("terms", [(), ("quantum",), ("large",), ("quantum", "large")])
def test_the_error_of_the_total_is_that_of_the_sum_of_all_runs(terms):
    """Runs of which every average is drawn anew; the same run stands in several terms."""
    rng = np.random.default_rng(len(terms))
    names = {"classical", "shift", *terms}
    totals, budget = [], None
    for _ in range(4000):
        drawn = []
        for own in (CRYSTAL, GAS):
            values = {name: getattr(own, name) for name in names if getattr(own, name) is not None}
            drawn.append(PhaseEnthalpies(**{n: E(rng.normal(e.value, e.error), e.error) for n, e in values.items()}))
        budget = error_budget(*drawn)
        totals.append(budget.total.value)
    assert np.std(totals) == pytest.approx(budget.total.error, rel=0.05)


def test_what_was_not_run_is_missing():
    budget = error_budget(PhaseEnthalpies(E(-60.0, 0.3)), PhaseEnthalpies(E(-2.0, 0.4)))
    assert budget.total == E(58.0, pytest.approx(0.5))
    assert budget.missing == (MODEL, NUCLEI, CELL)
    assert budget.of(CELL) is None


def test_corrections_of_one_phase_are_refused():
    bare = PhaseEnthalpies(E(-60.0, 0.3))
    for crystal, gas, message in (
        (bare, PhaseEnthalpies(E(-2.0, 0.2), quantum=E(7.0, 0.1)), "a path integral is given for one phase only"),
        (PhaseEnthalpies(E(-60.0, 0.3), E(0.1, 0.1)), bare, "a reference is given for one phase only"),
        (bare, PhaseEnthalpies(E(-2.0, 0.2), large=E(7.0, 0.1)), "a gas has no cell"),
    ):
        with pytest.raises(MlFinetuneError, match=message):
            error_budget(crystal, gas)
