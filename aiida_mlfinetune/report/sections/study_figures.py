"""The four figures of a study, after those of Kaur et al. (2025)."""

from __future__ import annotations

from typing import Any

from aiida_mlfinetune.plotting import (
    new_figure,
    plot_densities,
    plot_distributions,
    plot_radial_distribution,
    to_svg,
)
from aiida_mlfinetune.report.graph import chains
from aiida_mlfinetune.report.page import Figure, Section, Table
from aiida_mlfinetune.report.sections.convergence import convergence_svg
from aiida_mlfinetune.report.sections.learning_curve import learning_curve_svg
from aiida_mlfinetune.report.sections.results import UNITS, observables
from aiida_mlfinetune.report.sections.study_results import StudyResults, named

__all__ = ("convergence_figures", "curve_figures", "density_figures", "distribution_figures")

CLASSICAL, REFERENCE = "classical", "reference"
REWEIGHTED = "reweighted"
MOST_POINTS = 2000


def curve_figures(results: StudyResults) -> Section:
    """Return figure 1: errors of the models against the number of training frames."""
    figures, paragraphs = [], []
    rows: list[tuple[str, ...]] = []
    for name, curve in results.at("curves").items():
        which = "all crystals and the molecule" if name == "all" else f"{named(name)} and the molecule"
        caption = (
            f"Figure 1, {which}: errors on the {curve.conditions['set']} set after training on nested sets; dashed: "
            "power laws; right scale: percent of the standard deviation of the reference."
        )
        figures.append(Figure(learning_curve_svg(curve, f"curve-{name}"), caption))
        paragraphs += [f"{mode}: {one['sentence']}" for mode, one in curve.details["conclusions"].items()]
        where = f"{curve.conditions['mode']}, {curve.conditions['n_train']} frames"
        rows.append((which, where, results.link(curve), UNITS.get(curve.unit, curve.unit)))
    tables = (Table(("set", "best model", "error", "unit"), tuple(rows)),) if rows else ()
    return Section("Figure 1: learning curves", tuple(paragraphs), tables, tuple(figures))


def distribution_figures(results: StudyResults) -> Section:
    """Return figure 2: energies and densities that the production model's runs visit, and the reference would."""
    figures, paragraphs = [], []
    for chain in sorted(chains(results.process, "reweighting"), key=lambda one: (one.label, one.uuid)):
        found = {name: one for name, one in observables(chain).items() if name in ("potential_energy", "density")}
        drawn = {name: one for name, one in found.items() if "bin_edges" in one.arrays()}
        if not drawn or "verdict" not in chain.outputs:
            continue
        title = named(chain.label.removeprefix("reweighting: "))
        figure, axes = new_figure(len(drawn), width=3.9)
        for ax, (name, one) in zip(axes, drawn.items(), strict=True):
            arrays = one.arrays()
            keys = ("raw_distribution", "raw_distribution_error")
            keys += ("reweighted_distribution", "reweighted_distribution_error")
            label = f"{named(name)} / ({UNITS.get(one.unit, one.unit)})"
            plot_distributions(ax, arrays["bin_edges"], *(arrays[key] for key in keys), label)
        figures.append(
            Figure(
                to_svg(figure, f"distribution-{chain.uuid[:8]}"), f"Figure 2, {title}: run and reweighted reference."
            )
        )
        verdict = chain.outputs.verdict.get_dict()
        judged = "reliable" if verdict["reliable"] else "NOT reliable: " + "; ".join(verdict["reasons"])
        paragraphs.append(
            f"{title}: {verdict['n_frames']} frames labelled, N_eff {verdict['n_effective']:.1f}, overlap "
            f"{verdict['overlap']:.2f}; {judged}."
        )
    return Section("Figure 2: what the runs visit", tuple(paragraphs), (), tuple(figures))


def convergence_figures(results: StudyResults) -> Section:
    """Return figure 3: averages of energy and density against the number of training frames, and the reference."""
    figures, paragraphs = [], []
    rows: list[tuple[str, ...]] = []
    for crystal, node in results.at("convergence").items():
        caption = (
            f"Figure 3, {named(crystal)}: averages of runs with each model against the size of its training set; line "
            "and band: the reference and one standard error; dotted: the target."
        )
        figures.append(Figure(convergence_svg(node, f"convergence-{crystal}"), caption))
        paragraphs += [f"{named(crystal)}, {mode}: {text}." for mode, text in node.details["sentences"].items()]
        for label, found in sorted(results.at("averages", crystal).items(), key=_by_size):
            rows.append(
                (
                    named(crystal),
                    named(label),
                    *(results.cell(found, name) for name in ("potential_energy", "density", "sublimation_enthalpy")),
                )
            )
        moved = results.reference(crystal)
        rows.append(
            (
                named(crystal),
                "reference",
                *(results.cell(moved, name) for name in ("potential_energy", "density", "sublimation_enthalpy")),
            )
        )
    header = ("crystal", "model", "U / (kJ/mol)", "ρ / (g/cm³)", "ΔH / (kJ/mol)")
    tables = (Table(header, tuple(rows), "Every number of figure 3", folded=True),) if rows else ()
    return Section("Figure 3: averages against the training set", tuple(paragraphs), tables, tuple(figures))


def density_figures(results: StudyResults) -> Section:
    """Return figure 4: densities against time, and radial distribution functions."""
    figures = []
    rows: list[tuple[str, ...]] = []
    for crystal in results.crystals:
        runs = {CLASSICAL: results.production(crystal)}
        runs |= {run: results.at("production_runs", run, crystal) for run in results.at("production_runs")}
        runs |= {"upgraded": results.at("upgraded", crystal)}
        series = {named(run): _series(found["density"].arrays()) for run, found in runs.items() if "density" in found}
        curves = {run: results.at("structure", run, crystal) for run in results.at("structure")}
        pairs = list(dict.fromkeys(pair for found in curves.values() for pair in found))
        panels = bool(series) + len(pairs)
        if not panels:
            continue
        figure, axes = new_figure(panels, width=3.7)
        if series:
            plot_densities(axes[0], series)
        for ax, pair in zip(axes[bool(series) :], pairs, strict=True):
            for run, found in curves.items():
                if pair in found:
                    arrays, g, text = found[pair].arrays(), "g", None
                    if run == REFERENCE:
                        g, text = REWEIGHTED, f"{arrays['r_A'][arrays[REWEIGHTED].argmax()]:.3f}"
                    plot_radial_distribution(ax, arrays["r_A"], arrays[g], arrays[f"{g}_error"], named(run))
                    where = f"g(r) of {pair.replace('_', '–')}"
                    rows.append((named(crystal), named(run), where, results.link(found[pair], text)))
            ax.set_title(pair.replace("_", "–"))
        caption = f"Figure 4, {named(crystal)}: density against time with running means, and radial distributions" + (
            "; reference: the classical run, reweighted." if curves.get(REFERENCE) else "."
        )
        figures.append(Figure(to_svg(figure, f"densities-{crystal}"), caption))
    tables = (Table(("crystal", "run", "quantity", "highest maximum / Å"), tuple(rows)),) if rows else ()
    return Section("Figure 4: densities and structure", (), tables, tuple(figures))


def _series(arrays: dict[str, Any]) -> tuple[Any, Any]:
    """Return times and densities, thinned to what a figure can show."""
    step = max(1, len(arrays["time_fs"]) // MOST_POINTS)
    return arrays["time_fs"][::step], arrays["density"][::step]


def _by_size(item: tuple[str, Any]) -> tuple[int, str]:
    return int(item[0].split("_n")[-1].split("_s")[0]), item[0]
