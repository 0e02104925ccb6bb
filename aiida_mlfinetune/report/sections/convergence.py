"""Averages of models beside those of their reference: against the training set, round by round, term by term."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from aiida import orm

from aiida_mlfinetune.calculations.functions.convergence import TITLES
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.plotting import PlottedCurve, new_figure, plot_budget, plot_convergence, to_svg
from aiida_mlfinetune.report.graph import chains, role
from aiida_mlfinetune.report.page import Figure, Section, Table
from aiida_mlfinetune.report.sections.results import UNITS
from aiida_mlfinetune.report.text import number, with_error
from aiida_mlfinetune.science.averages.thermodynamics import Estimate
from aiida_mlfinetune.science.conclusions.targets import mean_over_seeds

__all__ = ("budget_section", "convergence_section", "convergence_svg", "loop_section", "reference_section")

CAPTION = (
    "Averages of runs with each model, mean over seeds with one standard error, against the size of its training set; "
    "line and band: the reference, from a run whose frames were labelled and reweighted, and one standard error; "
    "dotted: the target."
)
ROUNDS_CAPTION = (
    "How far the averages with the model of each round are from those at the reference level, with one standard error, "
    "against the frames that it was trained on; dotted: the target."
)
KINDS = {
    "statistics": "finite classical runs",
    "model": "reference − model",
    "nuclei": "path integral − classical",
    "cell": "larger cell − smaller cell",
}


def convergence_section(process: orm.ProcessNode) -> Section:
    """Return the section about averages against the training set, empty where there are none."""
    paragraphs: list[str] = []
    tables: list[Table] = []
    figures: list[Figure] = []
    warnings: list[str] = []
    for chain in chains(process, "convergence"):
        if "convergence" not in chain.outputs:
            continue
        result = chain.outputs.convergence
        name = f"{role(chain) or 'models'} ({chain.pk})"
        paragraphs += [f"{name}, {mode}: {text}." for mode, text in result.details["sentences"].items()]
        tables += _convergence_tables(result)
        figures.append(Figure(convergence_svg(result, f"convergence{result.pk}"), CAPTION))
        warnings += result.warnings
        warnings += [f"{label} is missing: {reason}" for label, reason in sorted(result.details["failed"].items())]
    return Section(
        "Averages against the training set", tuple(paragraphs), tuple(tables), tuple(figures), tuple(warnings)
    )


def convergence_svg(result: ObservableData, name: str = "convergence") -> str:
    """Return the figure of a convergence, one panel for each quantity, as an SVG element."""
    details, arrays = result.details, result.arrays()
    shown = [
        quantity for quantity in ("sublimation_enthalpy", "potential_energy", "density") if _has(details, quantity)
    ]
    figure, axes = new_figure(len(shown), width=3.9, height=3.3)
    for ax, quantity in zip(axes, shown, strict=True):
        reference = details["reference"][quantity]
        zero = reference["value"] if quantity == "potential_energy" else 0.0
        curves = {mode: _curve(arrays, mode, quantity, zero) for mode in details["verdicts"]}
        unit = UNITS.get(reference["unit"], reference["unit"])
        title = f"{TITLES[quantity]} − reference" if zero else TITLES[quantity]
        error = math.nan if reference["error"] is None else reference["error"]
        allowed = _allowed(details, quantity)
        plot_convergence(ax, curves, f"{title} / ({unit})", (reference["value"] - zero, error), allowed)
    return to_svg(figure, name)


def loop_section(process: orm.ProcessNode) -> Section:
    """Return the section about the rounds of a closed loop, empty where there is none."""
    paragraphs: list[str] = []
    tables: list[Table] = []
    figures: list[Figure] = []
    for chain in chains(process, "closed_loop"):
        if "rounds" not in chain.outputs:
            continue
        found = sorted((node.get_dict() for node in chain.outputs.rounds.values()), key=lambda one: one["round"])
        rows = [row for one in found for row in _round_rows(one)]
        header = ("round", "frames", "labels", "quantity", "model", "reference", "difference", "gained", "verdict")
        tables.append(Table(header, tuple(rows), f"{role(chain) or 'rounds'} ({chain.pk})"))
        paragraphs.append(f"After {len(found)} rounds: {found[-1]['reason']}. {found[-1].get('outlook', '')}".strip())
        figures.append(Figure(_rounds_svg(found, f"rounds{chain.pk}"), ROUNDS_CAPTION))
    return Section("What each round bought", tuple(paragraphs), tuple(tables), tuple(figures))


def _rounds_svg(found: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return the differences of each round to its reference, one panel for each quantity of the target."""
    shown = [quantity for quantity, row in found[-1]["quantities"].items() if "allowed" in row]
    figure, axes = new_figure(len(shown), width=3.9, height=3.3)
    frames = np.array([one["n_frames"] for one in found])
    for ax, quantity in zip(axes, shown, strict=True):
        rows = [one["quantities"][quantity] for one in found]
        errors = np.array([np.nan if row["error"] is None else row["error"] for row in rows])
        curve = PlottedCurve(frames, np.array([row["difference"] for row in rows]), errors)
        title = f"{TITLES[quantity]}, model − reference / ({UNITS.get(rows[-1]['unit'], rows[-1]['unit'])})"
        plot_convergence(ax, {"rounds": curve}, title, (0.0, math.nan), float(rows[-1]["allowed"]))
    return to_svg(figure, name)


def budget_section(process: orm.ProcessNode) -> Section:
    """Return the section about the error budgets of sublimation enthalpies, empty where there are none."""
    tables: list[Table] = []
    figures: list[Figure] = []
    warnings: list[str] = []
    for chain in chains(process, "error_budget"):
        if "sublimation_enthalpy" not in chain.outputs:
            continue
        result = chain.outputs.sublimation_enthalpy
        terms = result.details["terms"]
        rows = [("classical, with the model", "", _pair(result.details["classical"]))]
        rows += [(KINDS[term["kind"]], term["phase"], _signed(term)) for term in terms]
        rows.append(("total", "", with_error(result.value, result.error)))
        tables.append(Table(("term", "phase", "ΔH / (kJ/mol)"), tuple(rows), f"{role(chain) or 'total'} ({result.pk})"))
        figure, (ax,) = new_figure(1)
        names = [f"{KINDS[term['kind']]}, {term['phase']}" for term in terms]
        errors = [math.inf if term["error"] is None else term["error"] for term in terms]
        plot_budget(ax, names, [term["value"] for term in terms], errors)
        figures.append(Figure(to_svg(figure, f"budget{result.pk}"), "What each term adds to the sublimation enthalpy."))
        warnings += result.warnings
    text = (
        "ΔH = H(gas) − H(crystal), positive for a stable crystal. A run that stands in several terms is counted once "
        "in the error of the total, which is therefore not the sum of the errors of the terms."
    )
    return Section("Error budget", (text,) if tables else (), tuple(tables), tuple(figures), tuple(warnings))


def reference_section(process: orm.ProcessNode) -> Section:
    """Return the section with averages of models beside those at the reference level, empty where there are none."""
    tables = []
    for chain in chains(process, "averages"):
        if "reference" not in chain.outputs:
            continue
        rows = []
        for name in sorted(chain.outputs.reference):
            one = chain.outputs.reference[name]
            run, shift = one.details["run"], one.details["shift"]
            unit = UNITS.get(one.unit, one.unit)
            quantity = f"{name.replace('_', ' ')} / ({unit})"
            rows.append((quantity, _pair(run), with_error(one.value, one.error), _signed(shift), str(one.pk)))
        header = ("quantity", "model", "reference", "reference − model", "node")
        tables.append(Table(header, tuple(rows), f"{role(chain) or 'averages'} ({chain.pk})"))
    text = (
        "The reference is the average over the whole run with the model, moved by the difference that the labelled "
        "frames of that run make when they are reweighted."
    )
    return Section("Model and reference", (text,) if tables else (), tuple(tables))


def _convergence_tables(result: ObservableData) -> list[Table]:
    details = result.details
    tables = []
    for quantity, reference in details["reference"].items():
        modes = list(details["verdicts"])
        arrays = result.arrays()
        rows = []
        for place, size in enumerate(arrays["sizes"].tolist()):
            cells = [_cell(arrays, mode, quantity, place, details["verdicts"][mode].get(str(size))) for mode in modes]
            rows.append((str(size), *cells))
        rows.append(("reference", *[_pair(reference)] * len(modes)))
        unit = UNITS.get(reference["unit"], reference["unit"])
        allowed = _allowed(details, quantity)
        asked = "" if allowed is None else f"; in brackets the difference to the reference, {number(allowed)} allowed"
        tables.append(Table(("frames", *modes), tuple(rows), f"{TITLES[quantity]} / ({unit}){asked}"))
    return tables


def _cell(arrays: Mapping[str, Any], mode: str, quantity: str, place: int, row: Mapping[str, Any] | None) -> str:
    mean = _mean(arrays, mode, quantity, place)
    if mean is None:
        return "–"
    text = with_error(mean.value, mean.error)
    if row is None or quantity not in row:
        return text
    own = row[quantity]
    return f"{text} ({_signed({'value': own['difference'], 'error': own['error']})} {own.get('verdict', '')})".replace(
        " )", ")"
    )


def _mean(arrays: Mapping[str, Any], mode: str, quantity: str, place: int) -> Estimate | None:
    values, errors = arrays[f"{mode}/{quantity}"][place], arrays[f"{mode}/{quantity}_error"][place]
    there = [Estimate(float(v), float(e)) for v, e in zip(values, errors, strict=True) if np.isfinite(v)]
    return mean_over_seeds(there) if there else None


def _curve(arrays: Mapping[str, Any], mode: str, quantity: str, zero: float) -> PlottedCurve:
    means = [_mean(arrays, mode, quantity, place) for place in range(len(arrays["sizes"]))]
    return PlottedCurve(
        arrays["sizes"],
        np.array([np.nan if one is None else one.value - zero for one in means]),
        np.array([np.nan if one is None else one.error for one in means]),
    )


def _has(details: Mapping[str, Any], quantity: str) -> bool:
    return quantity in details["reference"]


def _allowed(details: Mapping[str, Any], quantity: str) -> float | None:
    """Return what the target allows of a quantity, as it was used; None if nothing was asked."""
    for rows in details["verdicts"].values():
        for row in rows.values():
            if "allowed" in row.get(quantity, {}):
                return float(row[quantity]["allowed"])
    return None


def _round_rows(one: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, own in one["quantities"].items():
        gained = one["gained"].get(name)
        rows.append(
            (
                str(one["round"]),
                str(one["n_frames"]),
                str(one["labels"]),
                f"{TITLES[name]} / ({UNITS.get(own['unit'], own['unit'])})",
                _pair(own["run"]),
                _pair(own["reference"]),
                _signed({"value": own["difference"], "error": own["error"]}),
                "–" if gained is None else f"{gained:+.3g}",
                own.get("verdict", "–"),
            )
        )
    return rows


def _pair(pair: Mapping[str, Any]) -> str:
    return with_error(pair["value"], math.inf if pair["error"] is None else pair["error"])


def _signed(pair: Mapping[str, Any]) -> str:
    text = _pair(pair)
    return text if text.startswith("-") else f"+{text}"
