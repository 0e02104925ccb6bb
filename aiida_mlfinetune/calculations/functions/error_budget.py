"""The error budget of a sublimation enthalpy, from the enthalpies of several runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import calcfunction
from ase.build import make_supercell

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.averages.thermodynamics import Estimate
from aiida_mlfinetune.science.conclusions import error_budget as science

METHOD = (
    "H_gas - H_crystal, positive for a stable crystal: the classical value of the model with all corrections that are "
    "known; the classical runs are counted once"
)
LACKS = {
    science.MODEL: "the difference of model and reference",
    science.NUCLEI: "nuclear quantum effects",
    science.CELL: "the size of the cell",
}


@calcfunction
def sublimation_budget(
    crystal: ObservableData,
    gas: ObservableData,
    crystal_reference: ObservableData | None = None,
    gas_reference: ObservableData | None = None,
    crystal_quantum: ObservableData | None = None,
    gas_quantum: ObservableData | None = None,
    crystal_large: ObservableData | None = None,
) -> ObservableData:
    """Return the sublimation enthalpy in kJ/mol with its error budget.

    Inputs are enthalpies: classical ones of the model; the same at the reference level (``reference_average``); those
    of path integrals; and that of the crystal in a larger cell. Details: ``terms`` (kind, phase, value, error),
    ``classical``, ``missing`` (kinds that are not known).

    Raises:
        MlFinetuneError: other observables, states that differ in more than they should, or corrections of one phase.
    """
    _check(crystal, gas, crystal_quantum, gas_quantum, crystal_large)
    budget = science.error_budget(
        science.PhaseEnthalpies(
            _estimate(crystal), _shift(crystal_reference), _optional(crystal_quantum), _optional(crystal_large)
        ),
        science.PhaseEnthalpies(_estimate(gas), _shift(gas_reference), _optional(gas_quantum)),
    )
    given = {
        "crystal": crystal,
        "gas": gas,
        "crystal at the reference": crystal_reference,
        "gas at the reference": gas_reference,
        "crystal, path integral": crystal_quantum,
        "gas, path integral": gas_quantum,
        "crystal, larger cell": crystal_large,
    }
    warnings = [f"{name}: {warning}" for name, one in given.items() if one is not None for warning in one.warnings]
    if budget.missing:
        warnings.append(f"the total lacks {', '.join(LACKS[kind] for kind in budget.missing)}: they were not run")
    if not math.isfinite(budget.total.error):
        warnings.append("one of the averages has no error")
    conditions = dict(crystal.conditions)
    conditions["n_beads"] = 1 if crystal_quantum is None else crystal_quantum.conditions["n_beads"]
    if crystal_reference is not None:
        conditions["level"] = crystal_reference.conditions["level"]
    return ObservableData(
        name="sublimation_enthalpy_total",
        value=budget.total.value,
        error=budget.total.error,
        unit="kJ/mol",
        conditions=conditions,
        method=METHOD,
        warnings=list(dict.fromkeys(warnings)),
        details={
            "formula": crystal.details["formula"],
            "n_molecules": crystal.details["n_molecules"],
            "n_molecules_large": None if crystal_large is None else crystal_large.details["n_molecules"],
            "classical": _json(budget.classical),
            "terms": [
                {"kind": term.kind, "phase": term.phase, **_json(Estimate(term.value, term.error))}
                for term in budget.terms
            ],
            "kinds": {
                kind: _json(found)
                for kind in (science.STATISTICS, science.MODEL, science.NUCLEI, science.CELL)
                if (found := budget.of(kind)) is not None
            },
            "missing": list(budget.missing),
            "reliable": all(one is None or bool(one.details["reliable"]) for one in (crystal_reference, gas_reference)),
        },
    )


@calcfunction
def changed_parameters(parameters: orm.Dict, changes: orm.Dict) -> orm.Dict:
    """Return the parameters of a run with some of them changed; with other beads all are evaluated in one batch."""
    return orm.Dict(with_changes(parameters.get_dict(), changes.get_dict()))


@calcfunction
def repeated_cell(structure: orm.StructureData, repeats: orm.List) -> orm.StructureData:
    """Return a crystal repeated along its three cell vectors."""
    n = repeats.get_list()
    matrix = [[n[0], 0, 0], [0, n[1], 0], [0, 0, n[2]]]
    return orm.StructureData(ase=make_supercell(structure.get_ase(), matrix))


def with_changes(parameters: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``changed_parameters`` does, as plain JSON types."""
    batch = {"batch_size": None} if "n_beads" in changes else {}
    return {**parameters, **batch, **changes}


def _check(
    crystal: ObservableData,
    gas: ObservableData,
    crystal_quantum: ObservableData | None,
    gas_quantum: ObservableData | None,
    crystal_large: ObservableData | None,
) -> None:
    """Refuse enthalpies that cannot be compared."""
    for name, expected, one in (
        ("crystal", "enthalpy_crystal", crystal),
        ("gas", "enthalpy_gas", gas),
        ("crystal_quantum", "enthalpy_crystal", crystal_quantum),
        ("gas_quantum", "enthalpy_gas", gas_quantum),
        ("crystal_large", "enthalpy_crystal", crystal_large),
    ):
        if one is None:
            continue
        if one.name != expected or one.unit != "kJ/mol":
            raise MlFinetuneError(f"{name!r} must be the observable {expected!r} in kJ/mol, got {one.name!r}")
        if one.details["formula"] != crystal.details["formula"]:
            raise MlFinetuneError(f"{name!r} is made of {one.details['formula']}, not {crystal.details['formula']}")
        temperatures = [each.conditions["temperature_K"] for each in (crystal, one)]
        if abs(temperatures[0] - temperatures[1]) > 1e-9 * temperatures[0]:
            raise MlFinetuneError(f"{name!r} was run at {temperatures[1]} K, the crystal at {temperatures[0]} K")
        if expected == "enthalpy_crystal":
            for key in ("pressure_bar", "ensemble"):
                if (own := one.conditions.get(key)) != (first := crystal.conditions.get(key)):
                    raise MlFinetuneError(f"{name!r} was run with {key} {own!r}, the crystal with {first!r}")
        beads = one.conditions["n_beads"]
        if name.endswith("quantum") != (beads > 1):
            raise MlFinetuneError(f"{name!r} was run with {beads} beads")
    if crystal_large is not None and crystal_large.details["n_molecules"] <= crystal.details["n_molecules"]:
        raise MlFinetuneError(
            f"the larger cell has {crystal_large.details['n_molecules']} molecules, no more than the smaller one"
        )
    if crystal_quantum is not None and gas_quantum is not None:
        beads = [one.conditions["n_beads"] for one in (crystal_quantum, gas_quantum)]
        if beads[0] != beads[1]:
            raise MlFinetuneError(f"the path integrals have different numbers of beads: {beads}")


def _estimate(observable: ObservableData) -> Estimate:
    return Estimate(observable.value, observable.error)


def _optional(observable: ObservableData | None) -> Estimate | None:
    return None if observable is None else _estimate(observable)


def _shift(reference: ObservableData | None) -> Estimate | None:
    if reference is None:
        return None
    shift: Mapping[str, Any] = reference.details["shift"]
    return Estimate(shift["value"], math.inf if shift["error"] is None else shift["error"])


def _json(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "error": estimate.error if math.isfinite(estimate.error) else None}
