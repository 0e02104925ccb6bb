"""The error budget of a sublimation enthalpy: from stored averages, its runs, and what is refused."""

from __future__ import annotations

import pytest
from aiida import orm
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager

from aiida_mlfinetune.calculations.functions.error_budget import changed_parameters, sublimation_budget
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.report.sections.convergence import budget_section
from aiida_mlfinetune.workchains.error_budget import ErrorBudgetWorkChain
from tests.fixtures.averages import (
    OVERRIDES,
    STATE,
    TEACHER,
    TEACHER_KEY,
    finished,
    ice_and_molecule,
    moved,
    observable,
)

CODES = ErrorBudgetWorkChain.exit_codes
BEADS = {"n_beads": 8}


def enthalpies():
    """Return what the calcfunction takes."""
    return {
        "crystal": observable("enthalpy_crystal", -60.0, 0.3),
        "gas": observable("enthalpy_gas", -2.0, 0.2),
        "crystal_reference": moved("enthalpy_crystal", -60.0, 0.4, (0.3, 0.04)),
        "gas_reference": moved("enthalpy_gas", -2.0, 0.1, (0.2, 0.03)),
        "crystal_quantum": observable("enthalpy_crystal", -52.0, 0.2, BEADS),
        "gas_quantum": observable("enthalpy_gas", 7.0, 0.1, BEADS),
        "crystal_large": observable("enthalpy_crystal", -60.5, 0.1, None, n_molecules=4),
    }


def test_the_budget_is_a_node_with_every_term(aiida_profile):
    result = sublimation_budget(**enthalpies())
    assert result.value == pytest.approx(58.0 - 0.3 + 1.0 + 0.5)
    assert result.conditions["n_beads"] == 8
    assert result.conditions["level"] == TEACHER_KEY
    assert result.details["classical"] == {"value": 58.0, "error": pytest.approx(0.36, abs=0.001)}
    kinds = result.details["kinds"]
    assert {kind: one["value"] for kind, one in kinds.items()} == {
        "statistics": 0.0,
        "model": pytest.approx(-0.3),
        "nuclei": pytest.approx(1.0),
        "cell": pytest.approx(0.5),
    }
    assert len(result.details["terms"]) == 7
    assert result.warnings == []


def test_the_report_shows_every_term_with_its_sign(aiida_profile):
    total = sublimation_budget(**enthalpies())
    section = budget_section(finished(label="ErrorBudgetWorkChain", sublimation_enthalpy=total))
    (table,) = section.tables
    assert table.rows[0] == ("classical, with the model", "", "58.00 ± 0.36")
    assert ("reference − model", "crystal", "-0.400 ± 0.040") in table.rows
    assert ("path integral − classical", "gas", "+9.00 ± 0.22") in table.rows
    assert ("larger cell − smaller cell", "crystal", "+0.50 ± 0.32") in table.rows
    assert table.rows[-1][2].startswith("59.20 ± ")
    assert section.figures[0].svg.startswith("<svg")


def test_what_was_not_run_is_warned_about(aiida_profile):
    given = enthalpies()
    result = sublimation_budget(crystal=given["crystal"], gas=given["gas"])
    assert result.value == pytest.approx(58.0)
    (warning,) = result.warnings
    assert "lacks the difference of model and reference, nuclear quantum effects, the size of the cell" in warning


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("crystal", lambda: observable("density", 0.9), "must be the observable 'enthalpy_crystal'"),
        ("crystal_quantum", lambda: observable("enthalpy_crystal", -52.0), "was run with 1 beads"),
        (
            "crystal_quantum",
            lambda: observable("enthalpy_crystal", -52.0, 0.1, {"n_beads": 8, "pressure_bar": 2e4}),
            "was run with pressure_bar 20000.0, the crystal with 1.0",
        ),
        (
            "crystal_large",
            lambda: observable("enthalpy_crystal", -60.5, 0.1, {"ensemble": "npt-isotropic"}, n_molecules=4),
            "was run with ensemble 'npt-isotropic'",
        ),
        ("gas_quantum", lambda: observable("enthalpy_gas", 7.0, 0.1, {"n_beads": 16}), "different numbers of beads"),
        ("crystal_large", lambda: observable("enthalpy_crystal", -60.5), "has 2 molecules, no more than"),
        ("gas", lambda: observable("enthalpy_gas", -2.0, 0.1, {"temperature_K": 200.0}), "was run at 200.0 K"),
        ("gas", lambda: observable("enthalpy_gas", -2.0, 0.1, formula="CO2"), "is made of CO2, not H2O"),
    ],
)
def test_enthalpies_that_cannot_be_compared_are_refused(aiida_profile, name, wrong, message):
    with pytest.raises(MlFinetuneError, match=message):
        sublimation_budget(**{**enthalpies(), name: wrong()})


def test_other_beads_are_evaluated_in_one_batch(aiida_profile):
    parameters = orm.Dict({"n_beads": 1, "batch_size": 1, "n_steps": 5})
    changed = changed_parameters(parameters, orm.Dict({"n_beads": 8}))
    assert changed.get_dict() == {"n_beads": 8, "batch_size": None, "n_steps": 5}


@pytest.fixture
def build(ipi_code, python_code, tiny_model):
    def make(overrides=None, **kwargs):
        crystal, molecule = ice_and_molecule()
        layers = {"averages": {"protocol": "demo", **OVERRIDES}, **(overrides or {})}
        kwargs = {"reference_code": python_code, "reference_level": TEACHER, "reference_model": tiny_model, **kwargs}
        return ErrorBudgetWorkChain.get_builder_from_protocol(
            ipi_code, crystal, molecule, tiny_model, "demo", layers, **{**STATE, **kwargs}
        )

    return make


@pytest.fixture
def process(build):
    return instantiate_process(get_manager().get_runner(), build())


def test_three_kinds_of_runs_are_started(process, monkeypatch):
    submitted = {}

    def submit(_, **inputs):
        submitted[inputs["metadata"]["call_link_label"]] = inputs
        return finished()

    monkeypatch.setattr(process, "submit", submit)
    assert process.run_all() is None
    assert set(submitted) == {"classical", "quantum", "large"}
    assert "reweighting" in submitted["classical"]
    assert submitted["classical"]["dynamics_crystal"]["parameters"]["n_beads"] == 1
    for phase in ("crystal", "gas"):
        parameters = submitted["quantum"][f"dynamics_{phase}"]["parameters"].get_dict()
        assert (parameters["n_beads"], parameters["batch_size"], parameters["thermostat"]) == (8, None, "pile-l")
    assert "reweighting" not in submitted["quantum"]
    assert set(submitted["large"]) & {"reweighting", "molecule", "dynamics_gas"} == set()
    assert len(submitted["large"]["crystal"].sites) == 12


def test_runs_are_added_up(process, monkeypatch):
    given = enthalpies()
    monkeypatch.setattr(process, "out", lambda name, value: process.ctx.setdefault("outs", {}).update({name: value}))
    process.ctx.classical = finished(
        enthalpy_crystal=given["crystal"],
        enthalpy_gas=given["gas"],
        reference={"enthalpy_crystal": given["crystal_reference"], "enthalpy_gas": given["gas_reference"]},
    )
    process.ctx.quantum = finished(enthalpy_crystal=given["crystal_quantum"], enthalpy_gas=given["gas_quantum"])
    process.ctx.large = finished(enthalpy_crystal=given["crystal_large"])
    assert process.add_up() is None
    assert process.ctx.outs["sublimation_enthalpy"].value == pytest.approx(59.2)
    process.ctx.large = finished(enthalpy_crystal=observable("enthalpy_crystal", -60.0))
    assert process.add_up().status == CODES.ERROR_NO_BUDGET.status


def test_runs_that_fail_or_are_refused_end_the_chain(process, monkeypatch):
    process.ctx.names, process.ctx.quantum = ["quantum"], finished(353)
    code = process.inspect()
    assert code.status == CODES.ERROR_AVERAGES_FAILED.status
    assert "[353] no luck" in code.message

    def refuse(*_, **__):
        raise ValueError("no such code")

    monkeypatch.setattr(process, "submit", refuse)
    assert process.run_all().status == CODES.ERROR_STAGE_REFUSED.status


def test_what_cannot_be_run_is_refused(build):
    for arguments, message in (
        ({"supercell": [1, 1, 1]}, "must be three whole numbers of at least 1, one of them larger"),
        ({"supercell": [2, 1]}, "must be three whole numbers"),
        ({"overrides": {"path_integral": {"n_beads": 1}}}, "needs 'n_beads' of at least 2"),
        ({"overrides": {"path_integral": {"temperature_K": 50.0}}}, "has to be that of the classical run"),
        ({"overrides": {"path_integral": {"thermostat": "svr"}}}, "the path integral of the crystal cannot be run"),
        ({"overrides": {"path_integral": {"bead": 4}}}, "the path integral of the crystal cannot be run"),
        ({"overrides": {"super_cell": [2, 1, 1]}}, "unknown input 'super_cell'"),
    ):
        with pytest.raises(MlFinetuneError, match=message):
            build(**arguments)
    bare = build({"path_integral": None, "supercell": None})
    assert "path_integral" not in bare._inputs(prune=True)
