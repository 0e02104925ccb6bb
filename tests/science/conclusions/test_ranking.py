"""The order of polymorphs and its significance, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.thermodynamics import Estimate
from aiida_mlfinetune.science.conclusions.ranking import rank


def test_the_lowest_enthalpy_comes_first_with_its_significance():
    ranking = rank({"b": Estimate(-57.0, 0.3), "a": Estimate(-58.0, 0.4), "c": Estimate(-56.9, 0.4)})
    assert ranking.names == ("a", "b", "c")
    np.testing.assert_allclose(ranking.enthalpy, [0.0, 1.0, 1.1])
    np.testing.assert_allclose(ranking.error, [0.0, 0.5, math.hypot(0.4, 0.4)])
    assert ranking.sigma[0, 1] == pytest.approx(2.0)
    assert ranking.sigma[1, 0] == pytest.approx(-2.0)
    assert ranking.probability[0, 1] == pytest.approx(0.97725, abs=1e-5)
    assert ranking.probability[0, 0] == 0.5
    assert "a is more stable than b by 1, 2.0 standard errors: significant" in ranking.sentences[0]
    assert "NOT significant" in ranking.sentences[1]


def test_an_order_that_rests_on_an_unreliable_enthalpy_says_so():
    enthalpies = {"a": Estimate(0.0, 0.1), "b": Estimate(5.0, 0.1), "c": Estimate(9.0, 0.1)}
    first, second = rank(enthalpies, doubtful=["c"]).sentences
    assert "rely" not in first
    assert second.endswith("if one could rely on c, which one cannot")


def test_probabilities_are_those_of_drawn_enthalpies():
    rng = np.random.default_rng(0)
    estimates = {"x": Estimate(0.0, 0.2), "y": Estimate(0.15, 0.1)}
    drawn = {name: rng.normal(one.value, one.error, 40000) for name, one in estimates.items()}
    assert rank(estimates).probability[0, 1] == pytest.approx((drawn["x"] < drawn["y"]).mean(), abs=0.01)


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "no polymorph"), ({"a": Estimate(1.0, math.inf), "b": Estimate(2.0, 0.1)}, r"\['a'\] have no error")],
)
def test_what_cannot_be_ranked_is_refused(given, message):
    with pytest.raises(MlFinetuneError, match=message):
        rank(given)
