"""The forgetting ratio as observables."""

from __future__ import annotations

import math

import pytest
from aiida import orm

from aiida_mlfinetune.calculations.functions.forgetting import forgetting_ratio
from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.models.forgetting import forgetting_ratios
from tests.science.models.test_forgetting import judged

LEVELS = {"reference": "dft", "model": "tuned", "foundation": "foundation"}


@pytest.mark.usefixtures("aiida_profile")
def test_observables_hold_ratio_error_and_each_dataset():
    sets = {"ices": judged(12, 0, 1), "gas": judged(0, 8, 2)}
    nodes = {name: DatasetData(frames) for name, frames in sets.items()}
    found, node = forgetting_ratio.run_get_node(orm.Dict({**LEVELS, "n_bootstrap": 200, "seed": 7}), **nodes)
    assert node.is_finished_ok
    expected = forgetting_ratios(sets, *LEVELS.values(), n_bootstrap=200, seed=7)
    assert set(found) == set(expected.pooled)
    forces = found["forces"]
    assert forces.name == "forgetting_forces"
    assert (forces.value, forces.error) == pytest.approx(
        (expected.pooled["forces"].ratio, expected.pooled["forces"].error)
    )
    assert forces.conditions == LEVELS
    assert forces.n_independent == 20
    assert forces.details["rmse_model_meV_A"] == pytest.approx(expected.pooled["forces"].rmse_model)
    assert set(forces.details["by_dataset"]) == {"ices", "gas"}
    assert set(found["stress"].details["by_dataset"]) == {"ices"}
    assert not forces.warnings
    assert "= " in str(forces)


@pytest.mark.usefixtures("aiida_profile")
def test_other_reference_energies_are_warned_about():
    found = forgetting_ratio(orm.Dict(LEVELS), one=DatasetData(judged(4, 4, shifts=(30.0, -700.0))))
    assert "reference energies of another level" in found["energy"].warnings[0]
    assert not found["energy_about_shifts"].warnings
    single = forgetting_ratio(orm.Dict(LEVELS), one=DatasetData(judged(1, 0)))
    assert math.isinf(single["forces"].error)
    assert "one frame only" in single["forces"].warnings[0]


@pytest.mark.usefixtures("aiida_profile")
def test_levels_are_named_in_full():
    dataset = DatasetData(judged(2, 0)).store()
    with pytest.raises(LabelsError, match="lack \\['foundation'\\]"):
        forgetting_ratio(orm.Dict({"reference": "dft", "model": "tuned"}), one=dataset)
    with pytest.raises(LabelsError, match="unknown entries \\['seeds'\\]"):
        forgetting_ratio(orm.Dict({**LEVELS, "seeds": 3}), one=dataset)
