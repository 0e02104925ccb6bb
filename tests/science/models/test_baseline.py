"""Which model may be added to which."""

from __future__ import annotations

import pytest

from aiida_mlfinetune.common.errors import ModelError
from aiida_mlfinetune.science.models.baseline import baseline_head, required_baseline
from aiida_mlfinetune.science.models.passport import Passport


def passport(letter: str, heads: tuple[str, ...] = ("Default",), **settings) -> Passport:
    e0s = {head: {"H": -1.0} for head in heads}
    return Passport(letter * 64, "0.3.16", 3.5, ["H"], list(heads), e0s, "float64", 1, settings=settings)


def difference(**baseline) -> Passport:
    return passport("d", baseline={"sha256": "b" * 64, "head": "Default", "level": "low", **baseline})


def test_a_difference_is_added_to_the_head_that_it_was_trained_with():
    two = passport("b", ("low", "high"))
    assert baseline_head(difference(head="high"), two) == "high"
    assert baseline_head(difference(head=None), passport("b")) == "Default"
    assert required_baseline(difference())["level"] == "low"


def test_a_whole_model_needs_no_baseline():
    assert required_baseline(passport("a")) is None
    assert baseline_head(passport("a"), None) is None


@pytest.mark.parametrize(
    ("model", "baseline", "message"),
    [
        (difference(), None, "means nothing without it: pass that model as `baseline`"),
        (difference(), passport("c"), "difference to the model bbbbbbbb, but the baseline given is cccccccc"),
        (difference(), passport("b", baseline={"sha256": "e" * 64}), "itself a difference"),
        (difference(head="pbe"), passport("b"), "has no head 'pbe': it has \\['Default'\\]"),
        (difference(head=None), passport("b", ("low", "high")), "has no head None"),
        (difference(sha256=None), passport("b"), "the level 'low', which is no MACE model"),
        (passport("a"), passport("b"), "is no difference between two levels"),
    ],
)
def test_what_cannot_be_added_is_refused(model, baseline, message):
    with pytest.raises(ModelError, match=message):
        baseline_head(model, baseline)
