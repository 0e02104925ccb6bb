"""The report of a study: what its sections say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aiida_mlfinetune.calculations.functions.study import rank_polymorphs
from aiida_mlfinetune.report.sections.study import order_section
from tests.fixtures.averages import observable

DROPS_OUT = "The gas, being the same for all polymorphs of one model, drops out."
OWN_MODELS = "Every polymorph has a model of its own"


@pytest.mark.parametrize(
    ("name", "first", "told", "untold"),
    [("enthalpy_crystal", "b", DROPS_OUT, OWN_MODELS), ("sublimation_enthalpy", "a", OWN_MODELS, DROPS_OUT)],
)
def test_the_order_says_what_becomes_of_the_gas(aiida_profile, name, first, told, untold):
    ranking = {"model": rank_polymorphs(a=observable(name, -57.0), b=observable(name, -59.0))}
    results = SimpleNamespace(at=lambda _: ranking, link=lambda _, text: text)
    section = order_section(results)
    assert told in section.paragraphs[0]
    assert untold not in section.paragraphs[0]
    assert section.tables[0].rows[0][1] == first
