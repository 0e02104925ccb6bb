"""What was measured on runs with a model, beside density and enthalpies: a table, and the curves with their bands."""

from __future__ import annotations

from aiida import orm
from aiida.common.links import LinkType

from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.plotting import (
    new_figure,
    plot_free_energy,
    plot_histogram,
    plot_mean_squared_displacement,
    plot_radial_distribution,
    to_svg,
)
from aiida_mlfinetune.report.graph import chains, role
from aiida_mlfinetune.report.page import Figure, Section, Table
from aiida_mlfinetune.report.sections.results import UNITS
from aiida_mlfinetune.report.text import number, with_error

__all__ = ("measured_on", "observables_section")

ELSEWHERE = ("density", "enthalpy_crystal", "enthalpy_gas", "sublimation_enthalpy")
"""Observables that have a section of their own, or stand at the top of the page."""
HEADER = ("run", "quantity", "value", "independent samples", "correlation time / fs", "node")
HISTOGRAMS = {
    "potential_energy": ("energy_kJmol", "potential energy / (kJ/mol)"),
    "density_histogram": ("density_g_cm3", "density / (g/cm³)"),
}
"""Name of the array of the bins, and label of the axis."""


def observables_section(node: orm.ProcessNode) -> Section:
    """Return the section about all that was measured on the runs of a process, empty where nothing was."""
    rows: list[tuple[str, ...]] = []
    figures: list[Figure] = []
    warnings: list[str] = []
    for chain in chains(node, "dynamics"):
        run = f"{role(chain) or 'dynamics'} ({chain.pk})"
        found = [one for one in measured_on(chain) if one.name not in ELSEWHERE]
        rows += [_row(run, one) for one in found]
        warnings += [f"{run}, {title(one)}: {warning}" for one in found for warning in one.warnings]
        figures += _figures(run, found)
    return Section(
        title="Observables",
        tables=(Table(HEADER, tuple(rows)),) if rows else (),
        figures=tuple(figures),
        warnings=tuple(warnings),
    )


def measured_on(chain: orm.ProcessNode) -> list[ObservableData]:
    """Return what was computed from the trajectory and the properties of a run, whoever asked for it, oldest first."""
    found: dict[int, ObservableData] = {}
    data = [chain.outputs[name] for name in ("trajectory", "properties") if name in chain.outputs]
    while data:
        node = data.pop()
        for process in node.base.links.get_outgoing(orm.CalcFunctionNode, LinkType.INPUT_CALC).all_nodes():
            for made in process.base.links.get_outgoing(ObservableData, LinkType.CREATE).all_nodes():
                if made.pk in found:
                    continue
                found[made.pk] = made
                if made.name == "radial_distribution":
                    data.append(made)  # comparisons with a reference are made of it
    return [found[pk] for pk in sorted(found)]


def title(observable: ObservableData) -> str:
    """Return what an observable is, in words."""
    details = observable.details
    what = observable.name.replace("_", " ")
    if "pair" in details:
        return f"{what} {'-'.join(details['pair'])}"
    if "element" in details:
        return f"{what} of {details['element']}"
    if "centre" in details:
        return f"{what} of {details['centre']} by {details['neighbour']}"
    return what


def _row(run: str, observable: ObservableData) -> tuple[str, ...]:
    unit = UNITS.get(observable.unit, observable.unit)
    value = with_error(observable.value, observable.error)
    return (
        run,
        title(observable),
        f"{value} {unit}".strip(),
        number(observable.n_independent),
        number(observable.details.get("correlation_time_fs")),
        str(observable.pk),
    )


def _figures(run: str, found: list[ObservableData]) -> list[Figure]:
    figures = []
    curves = [one for one in found if one.name == "radial_distribution"]
    if curves:
        figure, (ax,) = new_figure(1)
        for one in curves:
            arrays = one.arrays()
            label = "-".join(one.details["pair"])
            plot_radial_distribution(ax, arrays["r_A"], arrays["g"], arrays["g_error"], label, _reference(one))
        caption = f"Radial distribution functions of {run}, with bands of one standard error."
        figures.append(Figure(to_svg(figure, f"rdf{curves[0].pk}"), caption))
    for one in found:
        arrays = one.arrays()
        figure, (ax,) = new_figure(1)
        if one.name == "diffusion_coefficient":
            bands = arrays["lag_ps"], arrays["msd_A2"], arrays["msd_error_A2"]
            plot_mean_squared_displacement(ax, *bands, 6 * one.value, tuple(one.details["fit_range_ps"]))
            caption = f"Mean squared displacement of {one.details['element']} in {run}."
        elif one.name == "coordination_number":
            curve = arrays["coordination"], arrays["free_energy_kJmol"], arrays["free_energy_error_kJmol"]
            plot_free_energy(ax, *curve)
            caption = f"Free energy along the {title(one)} in {run}."
        elif one.name in HISTOGRAMS and "probability_density" in arrays:
            axis, label = HISTOGRAMS[one.name]
            plot_histogram(ax, arrays[axis], arrays["probability_density"], arrays["probability_density_error"], label)
            caption = f"Histogram of the {title(one).removesuffix(' histogram')} in {run}."
        else:
            continue
        figures.append(Figure(to_svg(figure, f"{one.name}{one.pk}"), caption))
    return figures


def _reference(curve: ObservableData) -> tuple[object, object] | None:
    """Return the curve that this one was compared with last, if it was."""
    comparisons = curve.base.links.get_outgoing(orm.CalcFunctionNode, LinkType.INPUT_CALC).all_nodes()
    for process in sorted(comparisons, key=lambda one: one.pk, reverse=True):
        if "reference" in process.inputs:
            reference = process.inputs.reference
            return reference.get_array("r_A"), reference.get_array("g")
    return None
