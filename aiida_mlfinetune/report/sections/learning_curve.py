"""The learning curve: errors by mode and number of frames, and what more frames would bring."""

from __future__ import annotations

import numpy as np
from aiida import orm

from aiida_mlfinetune.calculations.functions.learning_curve import curves_of
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.plotting import PlottedCurve, new_figure, plot_learning_curve, to_svg
from aiida_mlfinetune.report.page import Figure, Headline, Section, Table
from aiida_mlfinetune.report.text import number, with_error
from aiida_mlfinetune.science.training.learning_curve import Curve, title_of, unit_of

__all__ = ("curve_headline", "curve_section", "learning_curve_svg", "split_section", "trainings_section")

UNITS = {"meV/A^3": "meV/Å³", "meV/A": "meV/Å"}
ENERGIES = ("energy_kJ_mol", "energy_meV_per_atom")
CAPTION = (
    "Root mean square errors after training on nested sets, mean over seeds with its standard error; dashed: power "
    "laws, drawn on to twice the largest set; right scale: percent of the standard deviation of the reference."
)


def curve_headline(curve: ObservableData) -> Headline:
    """Return what stands at the top of the page."""
    where = curve.conditions
    return Headline(
        title=f"Best {title_of(_quantity(curve, where['mode']))}",
        value=with_error(curve.value, curve.error),
        unit=UNITS.get(curve.unit, curve.unit),
        conditions=f"mode {where['mode']}, {where['n_train']} training frames, {_set_name(curve)} set",
        note=curve.details["sentence"],
        warnings=tuple(curve.warnings),
        pk=curve.pk,
    )


def curve_section(curve: ObservableData) -> Section:
    """Return the section with figure, numbers and conclusions of a learning curve."""
    details = curve.details
    quantities = _shown(curve)
    tables = [_value_table(curve, quantity) for quantity in quantities]
    tables.append(_law_table(curve, quantities))
    sentences = tuple(f"{mode}: {each['sentence']}" for mode, each in details["conclusions"].items())
    failed = tuple(f"{name} is missing: {reason}" for name, reason in sorted(details["failed"].items()))
    return Section(
        title="Learning curve",
        paragraphs=(f"{curve.method}.", *sentences),
        tables=tuple(tables),
        figures=(Figure(learning_curve_svg(curve, f"curve{curve.pk}"), CAPTION),),
        warnings=failed,
    )


def learning_curve_svg(curve: ObservableData, name: str = "learning-curve") -> str:
    """Return the figure of a learning curve: energies, then forces element by element, as an SVG element."""
    quantities = _shown(curve)
    figure, axes = new_figure(len(quantities), width=3.9, height=3.3)
    by_mode, details = curves_of(curve), curve.details
    for ax, quantity in zip(axes, quantities, strict=True):
        drawn = {
            mode: PlottedCurve(
                own[quantity].sizes, own[quantity].mean, own[quantity].error, _law(curve, mode, quantity)
            )
            for mode, own in by_mode.items()
            if quantity in own
        }
        unit = unit_of(quantity)
        plot_learning_curve(
            ax,
            drawn,
            title_of(quantity),
            UNITS.get(unit, unit),
            details["spreads"].get(quantity),
            details["target"].get(quantity),
        )
    return to_svg(figure, name)


def split_section(curve: ObservableData) -> Section:
    """Return the section about the sets."""
    split = curve.details["split"]
    rows = (
        ("training sets, each within the next", ", ".join(map(str, split["train"]))),
        ("validation frames", str(split["valid"])),
        ("test frames", str(split["test"])),
        ("frames in all", str(split["n_frames"])),
        ("frames in no set, too close to another in time", str(split["n_left_out"])),
        ("separation", f"{split['min_separation_steps']} steps ({split['separation']})"),
        ("seed of the split", str(split["seed"])),
    )
    return Section("Sets", tables=(Table((), rows),))


def trainings_section(process: orm.ProcessNode) -> Section:
    """Return a table of all trainings of a process."""
    rows = []
    links = process.base.links.get_outgoing(node_class=orm.WorkChainNode).all()
    for link in sorted(links, key=lambda one: one.link_label):
        node = link.node
        errors = node.outputs.errors.get_dict() if "errors" in node.outputs else {}
        own = errors.get("test") or errors.get("valid") or {}
        values = (own.get("energy_rmse_meV_per_atom"), own.get("forces_rmse_meV_A"))
        state = "done" if node.is_finished_ok else _failure(node)
        rows.append((link.link_label, str(node.pk), *(number(value) for value in values), state))
    header = ("training", "pk", "energy RMSE / (meV/atom)", "force RMSE / (meV/Å)", "state")
    text = "`aiida-mlfinetune report PK` shows any of them with its loss curve and parity plots."
    return Section("Trainings", (text,), (Table(header, tuple(rows)),)) if rows else Section("Trainings")


def _failure(node: orm.ProcessNode) -> str:
    if node.exit_status is None:
        return str(node.process_state.value)
    return f"[{node.exit_status}] {node.exit_message}"


def _shown(curve: ObservableData) -> list[str]:
    """Return the quantities of the figure: one of the energies, the forces of each element."""
    there = list(dict.fromkeys(quantity for own in curves_of(curve).values() for quantity in own))
    energy = [next((name for name in ENERGIES if name in there), None)]
    forces = [name for name in there if name.startswith("forces_") and name.count("_") == 3 and name.endswith("meV_A")]
    return [name for name in (*energy, *sorted(forces)) if name is not None] or there[:1]


def _value_table(curve: ObservableData, quantity: str) -> Table:
    by_mode = {mode: own[quantity] for mode, own in curves_of(curve).items() if quantity in own}
    spread = curve.details["spreads"].get(quantity)
    first = next(iter(by_mode.values()))
    rows = tuple(
        (str(size), *(_cell(own, place, spread) for own in by_mode.values()))
        for place, size in enumerate(first.sizes.tolist())
    )
    unit = unit_of(quantity)
    relative = "" if spread is None else f"; in brackets % of the standard deviation, {number(spread)}"
    return Table(("frames", *by_mode), rows, f"{title_of(quantity)} / ({UNITS.get(unit, unit)}){relative}")


def _cell(own: Curve, place: int, spread: float | None) -> str:
    mean, error = float(own.mean[place]), float(own.error[place])
    if not np.isfinite(mean):
        return "–"
    text = with_error(mean, error) if np.isfinite(error) else number(mean)
    return text if not spread else f"{text} ({100 * mean / spread:.3g} %)"


def _law_table(curve: ObservableData, quantities: list[str]) -> Table:
    rows = []
    for mode, laws in curve.details["fits"].items():
        for quantity in quantities:
            if quantity in laws:
                law = laws[quantity]
                values = (_pair(law["a"], law["a_error"]), _pair(law["b"], law["b_error"]))
                rows.append((mode, title_of(quantity), *values, str(law["n_points"])))
    return Table(("mode", "quantity", "a", "b", "sizes"), tuple(rows), "Power laws a n^−b, with standard errors")


def _pair(value: float, error: float | None) -> str:
    return with_error(value, float("inf") if error is None else error)


def _law(curve: ObservableData, mode: str, quantity: str) -> tuple[float, float] | None:
    law = curve.details["fits"].get(mode, {}).get(quantity)
    return None if law is None else (law["a"], law["b"])


def _quantity(curve: ObservableData, mode: str) -> str:
    quantity: str = curve.details["conclusions"][mode]["quantity"]
    return quantity


def _set_name(curve: ObservableData) -> str:
    return "test" if curve.conditions["set"] == "test" else "validation"
