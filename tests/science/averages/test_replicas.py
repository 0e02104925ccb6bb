"""Pooling of independent replicas, against cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.replicas import pool, replica_seeds


def test_two_replicas_by_hand():
    result = pool([1.0, 3.0], [1.0, 2.0])
    assert (result.value, result.error) == pytest.approx((2.0, math.sqrt(5) / 2))
    assert result.between == pytest.approx(1.0)
    centre = (1.0 + 3.0 / 4) / (1 + 1 / 4)
    assert result.chi_squared == pytest.approx((1 - centre) ** 2 + (3 - centre) ** 2 / 4)
    assert result.probability == pytest.approx(math.erfc(math.sqrt(result.chi_squared / 2)))  # one degree of freedom
    assert not result.warnings


def test_the_pooled_error_covers_and_agreement_is_judged_as_it_should_be():
    rng = np.random.default_rng(0)
    results = [pool(rng.normal(size=5), np.ones(5)) for _ in range(2000)]
    z = np.array([result.value / result.within for result in results])
    assert abs(z.std() - 1) < 4 / math.sqrt(2 * 2000)
    low = np.mean([result.probability < 0.2 for result in results])
    assert abs(low - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 2000)


def test_replicas_that_disagree_are_told_and_get_the_error_of_their_spread():
    result = pool([0.0, 10.0, 0.1, 9.9], [0.1] * 4)
    assert "the 4 replicas disagree" in result.warnings[0]
    assert result.error == pytest.approx(np.std([0, 10, 0.1, 9.9], ddof=1) / 2)


def test_without_errors_of_their_own_the_spread_is_the_error():
    result = pool([1.0, 2.0, 3.0], [0.1, math.inf, 0.1])
    assert result.error == pytest.approx(1 / math.sqrt(3))
    assert "too short" in result.warnings[0]


@pytest.mark.parametrize(("values", "errors"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, math.nan], [1, 1])])
def test_what_cannot_be_pooled_is_refused(values, errors):
    with pytest.raises(MlFinetuneError):
        pool(values, errors)


def test_seeds_differ_and_do_not_change_with_their_number():
    seeds = replica_seeds(7, 50)
    assert seeds[0] == 7
    assert len(set(seeds)) == 50
    assert all(0 < seed < 2**31 for seed in seeds)
    assert replica_seeds(7, 3) == seeds[:3]
    assert replica_seeds(8, 3)[1:] != seeds[1:3]
