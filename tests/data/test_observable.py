"""The observable node: a value never stands without its error, unit and warnings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from aiida import orm
from aiida.engine import calcfunction
from aiida.manage.caching import enable_caching

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.observable import ObservableData

pytestmark = pytest.mark.usefixtures("aiida_profile_clean")


def density(**changes) -> ObservableData:
    values = {
        "name": "density",
        "value": 0.9345678,
        "error": 0.0023,
        "unit": "g/cm^3",
        "conditions": {"temperature_K": 100.0, "pressure_bar": 1.0, "ensemble": "npt-flexible", "n_beads": 1},
        "method": "block average",
        "n_independent": 17.5,
        "warnings": ["short run"],
        "arrays": {"time_fs": np.arange(4.0), "density": np.array([0.9, 0.91, 0.92, 0.93])},
        "details": {"n_molecules": 8},
    }
    return ObservableData(**{**values, **changes})


@calcfunction
def observed(scale):
    return density(value=0.9 * scale.value)


def test_everything_comes_back():
    back = orm.load_node(density().store().pk)
    assert (back.name, back.value, back.error, back.unit) == ("density", 0.9345678, 0.0023, "g/cm^3")
    assert back.conditions["temperature_K"] == 100.0
    assert (back.method, back.n_independent, back.warnings) == ("block average", 17.5, ["short run"])
    assert back.details == {"n_molecules": 8}
    np.testing.assert_array_equal(back.arrays()["density"], [0.9, 0.91, 0.92, 0.93])
    assert str(back) == "density = 0.9346 +- 0.0023 g/cm^3"


def test_the_same_content_has_the_same_hash():
    reference = density().store().base.caching.get_hash()
    arrays = {"density": np.array([0.9, 0.91, 0.92, 0.93]), "time_fs": np.arange(4.0)}
    assert density(arrays=arrays).store().base.caching.get_hash() == reference
    assert density(error=0.0024).store().base.caching.get_hash() != reference
    assert density(arrays={**arrays, "time_fs": np.arange(4.0) + 1}).store().base.caching.get_hash() != reference


def test_a_cached_clone_reads_back_equal():
    first = observed(orm.Float(1.0))
    with enable_caching():
        clone, process = observed.run_get_node(orm.Float(1.0))
    assert process.base.caching.get_cache_source() is not None
    assert clone.value == first.value
    np.testing.assert_array_equal(clone.arrays()["time_fs"], first.arrays()["time_fs"])


def test_observables_are_found_by_their_conditions():
    cold, warm = density().store(), density(conditions={"temperature_K": 250.0}).store()
    filters = {"attributes.name": "density", "attributes.conditions.temperature_K": 250.0}
    assert orm.QueryBuilder().append(ObservableData, filters=filters).all(flat=True) == [warm]
    assert cold.pk != warm.pk


def test_a_scalar_has_no_arrays():
    assert orm.load_node(density(arrays=None).store().pk).arrays() == {}


def test_an_unknown_error_needs_a_warning():
    node = density(error=math.inf).store()
    assert node.error == math.inf
    assert str(node) == "density = 0.934568 g/cm^3 (error unknown)"
    with pytest.raises(MlFinetuneError, match="say why in a warning"):
        density(error=math.inf, warnings=[])


@pytest.mark.parametrize(
    "changes", [{"value": None}, {"error": None}, {"value": math.nan}, {"error": math.nan}, {"error": -1.0}]
)
def test_a_value_without_an_error_is_refused(changes):
    with pytest.raises(MlFinetuneError, match="'density' needs a value and a standard error"):
        density(**changes)


def test_an_empty_observable_cannot_be_stored():
    with pytest.raises(MlFinetuneError, match="empty observable cannot be stored"):
        ObservableData().store()
