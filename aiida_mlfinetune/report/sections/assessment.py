"""The assessment of a model: every check, and the curves behind them."""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.data.assessments import latest_assessment
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.plotting import new_figure, plot_scans, plot_volume_curve, to_svg
from aiida_mlfinetune.report.graph import chains
from aiida_mlfinetune.report.page import Figure, Section, Table
from aiida_mlfinetune.report.sections.trajectories import md_figure
from aiida_mlfinetune.report.text import number

__all__ = ("assessment_section", "check_rows")

HEADER = ("check", "of", "found", "asked for", "passed")
VERDICTS = {True: "yes", False: "NO", None: "not judged"}
HIGHEST_EV = 10.0
SCANS = {
    "dissociation": "factor of all distances in the molecule",
    "distance": "distance of two atoms of rigid molecules / Å",
    "diatomic": "distance of two bare atoms / Å",
}


def assessment_section(node: orm.ProcessNode) -> Section:
    """Return the section about the assessments in a process, else about those of the models that it made."""
    paragraphs: list[str] = []
    tables: list[Table] = []
    figures: list[Figure] = []
    warnings: list[str] = []
    found = {chain.outputs.assessment.pk: chain for chain in chains(node, "assess") if "assessment" in chain.outputs}
    verdicts = [orm.load_node(pk) for pk in found]
    verdicts += [] if found else _of_models(node)
    for verdict in verdicts:
        passed = verdict.details["passed"]
        model = verdict.conditions["model_sha256"][:12]
        judged = verdict.details["n_judged"]
        outcome = f"passed all of {judged} checks" if passed else f"failed {verdict.value:.0f} of {judged} checks"
        paragraphs.append(f"The model {model} {outcome} on {verdict.conditions['formula']} (node {verdict.pk}).")
        tables.append(Table(HEADER, tuple(check_rows(verdict)), "Every check with its number and threshold"))
        warnings += verdict.warnings
        left_out = verdict.details["left_out"]
        warnings += [f"not checked: {name}, as {reason}" for name, reason in left_out.items()]
        figures += _figures(verdict)
        chain = found.get(verdict.pk)
        if chain is not None and "dynamics" in chain.outputs and "properties" in chain.outputs.dynamics:
            run = chain.inputs.dynamics.parameters
            n_atoms = len(chain.inputs.structure.sites)
            svg = md_figure(chain.outputs.dynamics.properties, f"nvt{verdict.pk}", n_atoms, run["temperature_K"])
            figures.append(Figure(svg, f"NVT at {run['temperature_K']:g} K."))
    return Section(
        "Assessment of the model", tuple(paragraphs), tuple(tables), tuple(f for f in figures if f.svg), tuple(warnings)
    )


def check_rows(verdict: ObservableData) -> list[tuple[str, ...]]:
    """Return the checks of a verdict as rows of texts."""
    rows = []
    for check in verdict.details["checks"]:
        value = "not finite" if check["value"] is None else number(check["value"])
        asked = "–" if check["threshold"] is None else f"{check['relation']} {number(check['threshold'])}"
        rows.append(
            (
                check["name"].replace("_", " "),
                check["of"],
                f"{value} {check['unit']}".strip(),
                asked,
                VERDICTS[check["passed"]],
            )
        )
    return rows


def _of_models(node: orm.ProcessNode) -> list[ObservableData]:
    """Return the last verdict on each model that a process, or a training below it, made."""
    made: dict[str, ObservableData | None] = {}
    for process in (node, *chains(node, "training")):
        for model in process.base.links.get_outgoing(node_class=MaceModelData).all_nodes():
            made[model.sha256] = latest_assessment(model.sha256)
    return [verdict for verdict in made.values() if verdict is not None]


def _figures(verdict: ObservableData) -> list[Figure]:
    arrays = verdict.arrays()
    figures = []
    volume = next(
        (name.removesuffix("_x") for name in arrays if name.startswith("volume_") and name.endswith("_x")), None
    )
    if volume is not None:
        figure, (ax,) = new_figure(1)
        minimum = verdict.details.get("volume", {}).get("minimum_A3")
        plot_volume_curve(ax, arrays[f"{volume}_x"], EV_KJMOL * arrays[f"{volume}_eV"], minimum)
        figures.append(Figure(to_svg(figure, f"volume{verdict.pk}"), "Energy of the cell against its volume."))
    for kind, label in SCANS.items():
        names = [name.removesuffix("_x") for name in arrays if name.startswith(f"{kind}_") and name.endswith("_x")]
        if names:
            figure, (ax,) = new_figure(1)
            scans = {name.removeprefix(f"{kind}_"): (arrays[f"{name}_x"], arrays[f"{name}_eV"]) for name in names}
            plot_scans(ax, scans, label, HIGHEST_EV)
            figures.append(Figure(to_svg(figure, f"{kind}{verdict.pk}"), f"Energy against the {label}."))
    return figures
