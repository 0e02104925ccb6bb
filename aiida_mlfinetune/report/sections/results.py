"""The results at the top of a report."""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.report.page import Headline
from aiida_mlfinetune.report.text import conditions, with_error

__all__ = ("headlines", "observables")

TITLES = {
    "sublimation_enthalpy_total": "Sublimation enthalpy with its corrections",
    "sublimation_enthalpy": "Sublimation enthalpy",
    "density": "Density",
    "enthalpy_crystal": "Enthalpy of the crystal",
    "enthalpy_gas": "Enthalpy of the gas",
}
UNITS = {"g/cm^3": "g/cm³"}
MAIN = ("sublimation_enthalpy_total", "sublimation_enthalpy", "density")


def observables(node: orm.ProcessNode) -> dict[str, ObservableData]:
    """Return the observables that a process returned by their names, in their order; those in namespaces left out."""
    links = sorted(node.base.links.get_outgoing(node_class=ObservableData).all(), key=lambda link: link.link_label)
    return {link.node.name: link.node for link in links if "__" not in link.link_label}


def headlines(node: orm.ProcessNode) -> tuple[Headline, ...]:
    """Return the results of a process, the main ones first; intermediate enthalpies are left to the tables."""
    found = observables(node)
    names = [name for name in MAIN if name in found]
    names += [name for name in found if name not in TITLES]
    return tuple(_headline(found[name]) for name in names)


def _headline(observable: ObservableData) -> Headline:
    independent = observable.n_independent
    note = observable.method
    if independent is not None:
        note += f". {independent:.3g} independent samples."
    return Headline(
        title=TITLES.get(observable.name, observable.name.replace("_", " ").capitalize()),
        value=with_error(observable.value, observable.error),
        unit=UNITS.get(observable.unit, observable.unit),
        conditions=conditions(observable),
        note=note,
        warnings=tuple(observable.warnings),
        pk=observable.pk,
    )
