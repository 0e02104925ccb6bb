"""Averages of runs at the reference level, beside those of the runs themselves."""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.plotting import new_figure, plot_distributions, plot_weights, to_svg
from aiida_mlfinetune.report.graph import chains, role
from aiida_mlfinetune.report.page import Figure, Section, Table
from aiida_mlfinetune.report.sections.results import UNITS, observables
from aiida_mlfinetune.report.text import number, with_error

__all__ = ("reweighting_section",)

HEADER = ("quantity", "run", "reweighted", "cumulant", "reweighted − run", "in sigma", "node")


def reweighting_section(node: orm.ProcessNode) -> Section:
    """Return the section about all reweighted runs of a process, empty where there are none."""
    paragraphs: list[str] = []
    tables: list[Table] = []
    figures: list[Figure] = []
    warnings: list[str] = []
    for chain in chains(node, "reweighting"):
        found = {name: one for name, one in observables(chain).items() if "raw" in one.details}
        if not found or "verdict" not in chain.outputs:
            continue
        verdict = chain.outputs.verdict.get_dict()
        name = f"{role(chain) or 'run'} ({chain.pk})"
        judged = "are reliable" if verdict["reliable"] else "are NOT reliable"
        paragraphs.append(
            f"{name}: {verdict['n_frames']} frames of {verdict['sampled_level']} at {verdict['reference_level']}, "
            f"{verdict['temperature_K']:g} K. Its averages {judged}: N_eff {number(verdict['n_effective'])}, largest "
            f"weight {verdict['largest_share']:.1%}, overlap {number(verdict['overlap'])}, spread of the energy "
            f"difference {number(verdict['spread_kT'])} kT."
        )
        warnings += [f"{name}: {reason}" for reason in verdict["reasons"]]
        tables.append(Table(HEADER, tuple(_row(one) for one in found.values()), name))
        for one in found.values():
            figures += _figures(one, first=one is next(iter(found.values())))
    return Section("Reweighting to the reference", tuple(paragraphs), tuple(tables), tuple(figures), tuple(warnings))


def _row(observable: ObservableData) -> tuple[str, ...]:
    details = observable.details
    averages = [
        with_error(details[key]["value"], details[key]["error"]) for key in ("raw", "reweighted", "cumulant", "shift")
    ]
    unit = UNITS.get(observable.unit, observable.unit)
    quantity = f"{observable.name.replace('_', ' ')} / ({unit})"
    return (quantity, *averages, number(details["shift_sigma"]), str(observable.pk))


def _figures(observable: ObservableData, *, first: bool) -> list[Figure]:
    arrays = observable.arrays()
    figures = []
    if first:
        figure, (ax,) = new_figure(1)
        plot_weights(ax, arrays["difference_kT"], arrays["weights"])
        figures.append(Figure(to_svg(figure, f"weights{observable.pk}"), "Weights of the frames."))
    if "bin_edges" in arrays:
        figure, (ax,) = new_figure(1)
        names = ("raw_distribution", "raw_distribution_error", "reweighted_distribution")
        curves = [arrays[name] for name in (*names, "reweighted_distribution_error")]
        label = f"{observable.name.replace('_', ' ')} / ({UNITS.get(observable.unit, observable.unit)})"
        plot_distributions(ax, arrays["bin_edges"], *curves, label)
        caption = f"Distribution of the {observable.name.replace('_', ' ')} in the run and at the reference level."
        figures.append(Figure(to_svg(figure, f"distribution{observable.pk}"), caption))
    return figures
