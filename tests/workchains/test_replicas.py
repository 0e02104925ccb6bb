"""``mlfinetune.replicas`` with made-up runs, and (long) with real i-PI."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node

from aiida_mlfinetune.calculations.functions.replicas import pool_observables
from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.workchains.replicas import ReplicasWorkChain
from tests.calculations.test_ipi import ice_cell
from tests.fixtures.study import stand_in_for_runs
from tests.workchains.test_dynamics import SHORT


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.long)], ids=["stand-ins", "real"])
def test_replicas_differ_and_are_pooled(ipi_code, tiny_model, monkeypatch, real):
    """The runs are made up, or real ones."""
    crystal = orm.StructureData(ase=ice_cell())
    if not real:
        tiny_model.label = "naive_n20_s1"
        stand_in_for_runs(monkeypatch, ReplicasWorkChain, binding={"replica_0": 0.6, "replica_1": 0.6})
    builder = ReplicasWorkChain.get_builder_from_protocol(
        ipi_code, crystal, tiny_model, 2, "demo", {"parameters": {**SHORT, "seed": 3}}
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    names = ["replica_0", "replica_1"]
    assert sorted(outputs["trajectories"]) == sorted(outputs["properties"]) == names
    ends = [outputs["trajectories"][name].frames.positions[-6:] for name in names]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
    for name in ("potential_energy", "density"):
        pooled = outputs[name]
        assert pooled.details["n_replicas"] == 2
        assert pooled.value == pytest.approx(pooled.arrays()["replica_value"].mean())
        assert "2 independent replicas" in pooled.method


def test_bad_numbers_and_misspelt_inputs_are_refused(ipi_code, tiny_model, aiida_profile):
    crystal = orm.StructureData(ase=ice_cell())
    with pytest.raises(StudyError, match="n_replicas is 1, but must be 2 at least"):
        ReplicasWorkChain.get_builder_from_protocol(ipi_code, crystal, tiny_model, 1)
    with pytest.raises(StudyError, match=r"n_replicas is 2\.5"):
        ReplicasWorkChain.get_builder_from_protocol(ipi_code, crystal, tiny_model, 2.5)
    with pytest.raises(StudyError, match="temperature_K is -1"):
        ReplicasWorkChain.get_builder_from_protocol(ipi_code, crystal, tiny_model, 2, temperature_K=-1)
    builder = ReplicasWorkChain.get_builder_from_protocol(ipi_code, crystal, tiny_model, 2)
    with pytest.raises(AttributeError, match="modle"):
        builder.dynamics.modle = tiny_model


def test_a_replica_that_failed_is_named_and_the_others_are_kept(aiida_profile):
    good = SimpleNamespace(outputs={"trajectory": "frames"}, is_finished_ok=True)
    bad = SimpleNamespace(outputs={}, is_finished_ok=False, exit_status=320, exit_message="it exploded")
    kept = {}
    chain = SimpleNamespace(
        ctx=type("Context", (dict,), {"parameters": ["replica_0", "replica_1"]})(replica_0=bad, replica_1=good),
        exit_codes=ReplicasWorkChain.exit_codes,
        out=kept.__setitem__,
    )
    code = ReplicasWorkChain.inspect_replicas(chain)
    assert code.status == ReplicasWorkChain.exit_codes.ERROR_REPLICA_FAILED.status
    assert code.message == "replica_0 failed with [320] it exploded"
    assert kept == {"trajectories.replica_1": "frames"}


def test_observables_of_different_runs_are_not_pooled(aiida_profile):
    def one(temperature):
        return ObservableData(
            name="density", value=1.0, error=0.1, unit="g/cm^3", conditions={"temperature_K": temperature}
        )

    with pytest.raises(MlFinetuneError, match="differ in conditions"):
        pool_observables(a=one(100.0), b=one(200.0))
