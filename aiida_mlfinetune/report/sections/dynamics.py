"""MD with the model, and the density along it."""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.data.assessments import assessment_problem
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.plotting import new_figure, plot_density, to_svg
from aiida_mlfinetune.report.graph import chains, role
from aiida_mlfinetune.report.page import Figure, Section, Table
from aiida_mlfinetune.report.sections.results import observables
from aiida_mlfinetune.report.sections.trajectories import md_figure, thinned
from aiida_mlfinetune.report.text import number, with_error

__all__ = ("density_section", "dynamics_section")

HEADER = ("run", "system", "ensemble", "T / K", "p / bar", "steps", "time step / fs", "beads")


def dynamics_section(node: orm.ProcessNode) -> Section:
    """Return the section about all MD runs with a model."""
    rows, figures = [], []
    problems: dict[str, None] = {}
    for chain in chains(node, "dynamics"):
        if "model" in chain.inputs and (problem := assessment_problem(chain.inputs.model)) is not None:
            problems[problem] = None
        settings = chain.inputs.parameters.get_dict() if "parameters" in chain.inputs else {}
        structure = chain.inputs.structure
        rows.append(
            (
                f"{role(chain) or 'dynamics'} ({chain.pk})",
                structure.get_formula(mode="hill") + ("" if any(structure.pbc) else ", gas"),
                str(settings.get("ensemble", "–")),
                number(settings.get("temperature_K")),
                number(settings.get("pressure_bar") if "npt" in str(settings.get("ensemble")) else None),
                number(settings.get("n_steps")),
                number(settings.get("timestep_fs")),
                number(settings.get("n_beads", 1)),
            )
        )
        if "properties" in chain.outputs:
            n_atoms = len(structure.sites)
            svg = md_figure(chain.outputs.properties, f"dynamics{chain.pk}", n_atoms, settings.get("temperature_K"))
            caption = f"i-PI MD of {structure.get_formula(mode='hill')} with the model ({role(chain) or chain.pk})."
            figures.append(Figure(svg, caption))
    return Section(
        title="Dynamics",
        paragraphs=("Molecular dynamics with the fine-tuned model, in i-PI.",) if rows else (),
        tables=(Table(HEADER, tuple(rows)),) if rows else (),
        figures=tuple(figure for figure in figures if figure.svg),
        warnings=tuple(problems),
    )


def density_section(node: orm.ProcessNode) -> Section:
    """Return the section about the density against time, empty without a density."""
    found = observables(node).get("density")
    if found is None:
        return Section("Density")
    details = found.details
    names = {
        "n_samples": "samples",
        "equilibration_fs": "left out as equilibration / fs",
        "correlation_time_fs": "correlation time / fs",
        "block_error": "error from blocks / (g/cm³)",
        "standard_deviation": "standard deviation of a sample / (g/cm³)",
    }
    rows = [("density / (g/cm³)", with_error(found.value, found.error)), ("method", found.method)]
    rows += [(title, number(details[name])) for name, title in names.items() if name in details]
    rows.append(("independent samples", number(found.n_independent)))
    figure = _figure(found)
    return Section(
        title="Density",
        tables=(Table((), tuple(rows)),),
        figures=() if figure is None else (figure,),
        warnings=tuple(found.warnings),
    )


def _figure(density: ObservableData) -> Figure | None:
    arrays = density.arrays()
    if not {"time_fs", "density"} <= set(arrays):
        return None
    figure, (ax,) = new_figure(1, width=6.4, height=3.2)
    keep = thinned(len(arrays["time_fs"]))
    start = density.details.get("equilibration_fs")
    start_fs = None if start is None else float(arrays["time_fs"][0]) + float(start)
    plot_density(ax, arrays["time_fs"][keep], arrays["density"][keep], start_fs, density.value, density.error)
    return Figure(to_svg(figure, f"density{density.pk}"), "Density along the MD; the band is the mean and its error.")
