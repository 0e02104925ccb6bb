"""Tables of a study: densities and sublimation enthalpies, the order of the polymorphs, levels, error budgets."""

from __future__ import annotations

import math
from typing import Any

from aiida_mlfinetune.plotting import new_figure, plot_budget, plot_levels, to_svg
from aiida_mlfinetune.report.page import Figure, Section, Table
from aiida_mlfinetune.report.sections.convergence import KINDS
from aiida_mlfinetune.report.sections.study_results import StudyResults, named
from aiida_mlfinetune.report.text import number, settings_rows, with_error
from aiida_mlfinetune.science.conclusions.ranking import SIGNIFICANT

__all__ = (
    "budget_table_section",
    "failed_section",
    "levels_section",
    "order_section",
    "setup_section",
    "table_section",
)

SIGN = "ΔH = H(gas) − H(crystal), positive for a stable crystal; table I of Kaur et al. (2025) lists its negative."


def table_section(results: StudyResults) -> Section:
    """Return the table of densities and sublimation enthalpies, model beside reference."""
    rows: list[tuple[str, ...]] = []
    warnings: dict[str, None] = {}
    for crystal in results.crystals:
        model, reference = results.production(crystal), results.reference(crystal)
        if not model:
            continue
        measured = results.experiment(crystal)
        rows.append(
            (
                named(crystal),
                f"{named(results.label(crystal))}",
                results.cell(model, "density"),
                results.cell(reference, "density"),
                results.shift(reference, "density"),
                results.cell(model, "sublimation_enthalpy"),
                results.cell(reference, "sublimation_enthalpy"),
                results.shift(reference, "sublimation_enthalpy"),
                number(measured.get("density")),
                number(measured.get("sublimation_enthalpy")),
            )
        )
        rows += _further_rows(results, crystal)
        for source, found in (("model", model), ("reference", reference)):
            for one in found.values():
                warnings |= {f"{named(crystal)}, {source}: {text}": None for text in one.warnings}
    header = (
        "crystal",
        "model or run",
        "ρ model / (g/cm³)",
        "ρ reference / (g/cm³)",
        "reference − model",
        "ΔH model / (kJ/mol)",
        "ΔH reference / (kJ/mol)",
        "reference − model",
        "ρ measured",
        "ΔH measured",
    )
    text = (
        f"{SIGN} The reference is the average over the run of the model, moved by the difference that its labelled and "
        "reweighted frames make."
    )
    sources = dict.fromkeys(
        f"{named(crystal)}: measured by {own['source']}."
        for crystal in results.crystals
        if (own := results.experiment(crystal)).get("source")
    )
    if not rows:
        return Section("Table I")
    return Section("Table I", (text, *sources), (Table(header, tuple(rows)),), warnings=tuple(warnings))


def _further_rows(results: StudyResults, crystal: str) -> list[tuple[str, ...]]:
    """Return the rows of further runs and of the upgraded model."""
    found = [
        (named(run), own)
        for run in results.at("production_runs")
        if (own := results.at("production_runs", run, crystal))
    ]
    if upgraded := results.at("upgraded", crystal):
        found.append(("upgraded", upgraded))
    return [
        (
            "",
            name,
            results.cell(own, "density"),
            "–",
            "–",
            results.cell(own, "sublimation_enthalpy"),
            "–",
            "–",
            "",
            "",
        )
        for name, own in found
    ]


def order_section(results: StudyResults) -> Section:
    """Return the order of the polymorphs with the significance of each ordering."""
    tables, paragraphs, ranked_by = [], [], set()
    for source in ("model", "reference"):
        node = results.at("ranking").get(source)
        if node is None:
            continue
        ranked_by.add(node.details["ranked_by"])
        arrays, order = node.arrays(), node.details["order"]
        rows = []
        for place, crystal in enumerate(order):
            value, error = arrays["enthalpy_kJmol"][place], arrays["enthalpy_error_kJmol"][place]
            text = "0" if place == 0 else with_error(float(value), float(error))
            cells = [
                ""
                if place == other
                else f"{arrays['sigma'][place, other]:+.1f} ({arrays['probability'][place, other]:.2f})"
                for other in range(len(order))
            ]
            rows.append((str(place + 1), named(crystal), results.link(node, text), *cells))
        header = ("", "crystal", "H − H(first) / (kJ/mol)", *(f"before {named(name)}" for name in order))
        title = f"{source}: standard errors between two, and the probability that the row is the more stable"
        tables.append(Table(header, tuple(rows), title))
        paragraphs += [f"{source}: {named(sentence)}." for sentence in node.details["sentences"]]
    if not tables:
        return Section("Order of the polymorphs")
    text = f"By enthalpy, without entropy. An ordering is called significant from {SIGNIFICANT:g} standard errors on. "
    if ranked_by == {"enthalpy_crystal"}:
        text += "The gas, being the same for all polymorphs of one model, drops out."
    else:
        text += (
            "Every polymorph has a model of its own, so that each H is that of the crystal less that of the gas with "
            "the same model, and the errors of the gas count."
        )
    return Section("Order of the polymorphs", (text, *paragraphs), tuple(tables))


def levels_section(results: StudyResults) -> Section:
    """Return both levels beside each other and beside the experiment, empty where nothing was upgraded."""
    upgraded = results.at("upgraded")
    if not upgraded:
        return Section("Upgrade")
    process = results.process
    levels = (
        process.inputs.labelling.level["key"],
        process.inputs.upgrade_labelling.level["key"],
    )
    rows: list[tuple[str, ...]] = []
    figures = []
    for crystal in upgraded:
        measured = results.experiment(crystal)
        for quantity, label in (("density", "ρ / (g/cm³)"), ("sublimation_enthalpy", "ΔH / (kJ/mol)")):
            pair = [results.production(crystal), results.at("upgraded", crystal)]
            rows.append(
                (
                    named(crystal),
                    label,
                    *(results.cell(found, quantity) for found in pair),
                    number(measured.get(quantity)),
                )
            )
            there = {
                level: (found[quantity].value, found[quantity].error)
                for level, found in zip(levels, pair, strict=True)
                if quantity in found
            }
            if there:
                figure, (ax,) = new_figure(1)
                plot_levels(ax, there, label, measured.get(quantity))
                caption = f"{named(crystal)}: models trained on labels at two levels, and the experiment."
                figures.append(Figure(to_svg(figure, f"level-{crystal}-{quantity}"), caption))
    header = ("crystal", "quantity", *levels, "measured")
    text = "Frames of the smallest sufficient set, labelled again at the higher level, and a model trained on it."
    return Section("Upgrade", (text,), (Table(header, tuple(rows)),), tuple(figures))


def budget_table_section(results: StudyResults) -> Section:
    """Return the error budget of each polymorph's sublimation enthalpy."""
    tables, figures = [], []
    warnings: dict[str, None] = {}
    for crystal, node in results.at("budget").items():
        details = node.details
        rows: list[tuple[str, ...]] = [("classical, with the model", "", _pair(details["classical"]))]
        rows += [(KINDS[term["kind"]], term["phase"], _signed(term)) for term in details["terms"]]
        rows.append(("total", "", results.link(node)))
        tables.append(Table(("term", "phase", "ΔH / (kJ/mol)"), tuple(rows), named(crystal)))
        figure, (ax,) = new_figure(1)
        terms = details["terms"]
        errors = [math.inf if term["error"] is None else term["error"] for term in terms]
        names = [f"{KINDS[term['kind']]}, {term['phase']}" for term in terms]
        plot_budget(ax, names, [term["value"] for term in terms], errors)
        figures.append(Figure(to_svg(figure, f"budget-{crystal}"), f"{named(crystal)}: what each term adds."))
        warnings |= {f"{named(crystal)}: {text}": None for text in node.warnings}
    if not tables:
        return Section("Error budget")
    text = "A run that stands in several terms is counted once in the error of the total."
    return Section("Error budget", (SIGN, text), tuple(tables), tuple(figures), tuple(warnings))


def setup_section(results: StudyResults) -> Section:
    """Return what was studied: crystals, levels, models, runs."""
    inputs = results.process.inputs
    rows = []
    for crystal in results.crystals:
        node = inputs.crystals[crystal]
        lengths = ", ".join(f"{value:.2f}" for value in node.cell_lengths)
        rows.append((named(crystal), results.link(node, f"{node.get_formula(mode='hill')}, {lengths} Å")))
    if "sampling_model" in inputs:
        steps = inputs.model_sampling_crystal.dynamics.parameters["n_steps"]
        sampled = results.link(inputs.sampling_model, f"model with sha256 {inputs.sampling_model.sha256[:16]}…")
        rows += [("sampling", sampled), ("steps of the sampling", number(steps))]
    else:
        steps = inputs.sampling_crystal.md["n_steps"]
        rows.append(("sampling", f"{inputs.sampling_crystal.level['key']}, {steps} steps"))
    rows.append(("reference", inputs.labelling.level["key"]))
    if "dataset" in results.tree:
        dataset = results.tree["dataset"]
        rows.append(("labelled frames", results.link(dataset, str(dataset.n_frames))))
    if "foundation" in inputs:
        rows.append(("foundation", results.link(inputs.foundation, f"sha256 {inputs.foundation.sha256[:16]}…")))
    rows.append(("one model for all", "yes" if inputs.pool.value else "no"))
    rows += [(f"run: {name}", value) for name, value in settings_rows(_run(inputs.dynamics_crystal.parameters))]
    for name in sorted(inputs.runs) if "runs" in inputs else ():
        run = inputs.runs[name]
        changed = ", ".join(f"{key} {number(value)}" for key, value in _run(run["crystal"]).items()) or "as above"
        repeat = f"; cells repeated {run['repeat'].get_list()}" if "repeat" in run else ""
        rows.append((f"further run: {named(name)}", changed + repeat))
    return Section("What was run", tables=(Table((), tuple(rows)),))


def failed_section(results: StudyResults) -> Section:
    """Return what failed, empty where nothing did."""
    failed = results.tree.get("failed")
    texts = {} if failed is None else failed.get_dict()
    return Section("Missing", warnings=tuple(f"{named(name)}: {reason}" for name, reason in sorted(texts.items())))


def _run(parameters: Any) -> dict[str, Any]:
    """Return the parameters of a run without matrices."""
    return {name: value for name, value in parameters.get_dict().items() if not isinstance(value, dict)}


def _pair(pair: dict[str, Any]) -> str:
    return with_error(pair["value"], math.inf if pair["error"] is None else pair["error"])


def _signed(pair: dict[str, Any]) -> str:
    text = _pair(pair)
    return text if text.startswith("-") else f"+{text}"
