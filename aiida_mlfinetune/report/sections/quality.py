"""The quality of labels, judged from the labels themselves and from the frames that they were chosen from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from aiida import orm

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.plotting import (
    new_figure,
    plot_coverage,
    plot_energy_scores,
    plot_force_distribution,
    plot_net_force,
    to_svg,
)
from aiida_mlfinetune.report.graph import chains, role
from aiida_mlfinetune.report.origins import origins
from aiida_mlfinetune.report.page import Figure, Section, Table
from aiida_mlfinetune.report.text import number
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.label_quality import OUTLIER_SCORE, LabelQuality, assess_labels, quality_warnings

__all__ = ("dataset_quality_section", "quality_rows", "quality_section")

TITLE = "Quality of the labels"
INTRODUCTION = (
    "What the labels tell about themselves. The net force is the norm of the summed force over all atoms of a frame: "
    "zero for exact forces, so that what is left is noise of grids, of incomplete convergence, or of stochastic "
    "methods. An energy is an outlier where it lies further from the median of its composition than "
    f"{OUTLIER_SCORE:g} robust standard deviations."
)
COVERAGE_HEADER = ("system", "quantity", "labelled", "sampled", "spread labelled", "spread sampled", "shift", "covered")


def quality_section(node: orm.ProcessNode) -> Section:
    """Return the section about the labels that the labelling runs of a process made."""
    parts = []
    for chain in chains(node, "labelling"):
        if "dataset" in chain.outputs and "level" in chain.inputs:
            key = chain.inputs.level["key"]
            if key in chain.outputs.dataset.levels:
                parts.append((role(chain) or f"labelling {chain.pk}", chain.outputs.dataset, key))
    return _section(parts)


def dataset_quality_section(dataset: DatasetData) -> Section:
    """Return the section about the labels of a dataset at all of its levels."""
    return _section([(key, dataset, key) for key in dataset.levels])


def _section(parts: Sequence[tuple[str, DatasetData, str]]) -> Section:
    tables: list[Table] = []
    figures: list[Figure] = []
    warnings: list[str] = []
    for name, dataset, key in parts:
        if not any(dataset.levels[key]["counts"].values()):
            continue
        title = key if name == key else f"{key}, {name}"
        try:
            sampled = [origin.frames for origin in origins(dataset)]
            chosen_from = Frames.concatenate(sampled) if sampled else None
        except MlFinetuneError as error:
            chosen_from = None
            warnings.append(f"{title}: the frames that these were chosen from cannot be read: {error}")
        quality = assess_labels(dataset.frames, key, chosen_from)
        tables.append(Table((), tuple(quality_rows(quality)), f"Labels at {title}"))
        if coverage := _coverage_rows(quality):
            tables.append(Table(COVERAGE_HEADER, coverage, "Labelled frames against those they were chosen from"))
        warnings += [f"{title}: {text}" for text in quality_warnings(quality).values()]
        slug = f"labels{dataset.pk}-{sorted(dataset.levels).index(key)}"
        figures += _figures(quality, title, slug)
    return Section(
        title=TITLE,
        paragraphs=(INTRODUCTION,) if tables else (),
        tables=tuple(tables),
        figures=tuple(figures),
        warnings=tuple(warnings),
    )


def quality_rows(quality: LabelQuality) -> list[tuple[str, str]]:
    """Return what was found about labels as rows of a table: what, and the numbers with their units."""
    rows = [("frames with labels", str(len(quality.frames)))]
    if (net := quality.net_forces) is not None:
        text = (
            f"mean {number(float(net.values.mean()))}, median {number(float(np.median(net.values)))}, "
            f"largest {number(float(net.values.max()))} (frame {int(np.nanargmax(net.norms))})"
        )
        rows.append(("net force of a frame / (meV/Å)", text))
        text = f"{number(net.per_component)}, of {number(net.rms_component)} root mean square"
        rows.append(("as noise of a force component / (meV/Å)", text))
    if (energies := quality.energies) is not None:
        judged = int((~np.isnan(energies.scores)).sum())
        found = f"{len(energies.outliers)} of {judged}" if judged else "not judged: too few frames of a composition"
        named = ", ".join(str(index) for index in energies.outliers[:10])
        rows.append(("energy outliers", found + (f" (frames {named})" if named else "")))
        rows += [
            (f"robust spread of energies, {formula} / (kJ/mol of molecules)", number(scale))
            for formula, scale in energies.scale.items()
        ]
    rows.append(("frames equal to another", str(quality.duplicates.n_surplus)))
    rows.append(("pairs equal but for order, place, orientation", str(len(quality.duplicates.near))))
    for pair, column in zip(quality.distances.pairs, quality.distances.values.T, strict=True):
        place = int(np.nanargmin(column))
        rows.append((f"smallest {pair} distance / Å", f"{column[place]:.3f} (frame {place})"))
    for element, forces in quality.forces.items():
        text = f"{number(forces.rms)}; largest force {number(forces.largest)} (frame {forces.largest_frame})"
        rows.append((f"root mean square force component on {element} / (eV/Å)", text))
    return rows


def _coverage_rows(quality: LabelQuality) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            each.formula,
            f"{name} / ({each.unit} per molecule)",
            str(len(each.labelled)),
            str(len(each.sampled)),
            *(number(spread) for spread in each.spreads),
            number(each.shift),
            f"{100 * each.covered:.0f} %",
        )
        for name, found in (("energy", quality.energy_coverage), ("volume", quality.volume_coverage))
        for each in found
    )


def _figures(quality: LabelQuality, title: str, slug: str) -> list[Figure]:
    figures = []
    drawn = [found is not None for found in (quality.net_forces, quality.net_forces, quality.energies)]
    figure, axes = new_figure(sum(drawn), width=3.9) if any(drawn) else (None, [])
    remaining = list(axes)
    if quality.net_forces is not None:
        plot_net_force(remaining.pop(0), quality.net_forces.norms)
        edges = next(iter(quality.forces.values())).edges
        counts = {element: forces.counts for element, forces in quality.forces.items()}
        plot_force_distribution(remaining.pop(0), edges, counts)
    if quality.energies is not None:
        plot_energy_scores(remaining.pop(0), quality.energies.scores, OUTLIER_SCORE)
    if figure is not None:
        figures.append(Figure(to_svg(figure, slug), f"Net forces, force components and energies at {title}."))
    formulas = dict.fromkeys(each.formula for each in (*quality.energy_coverage, *quality.volume_coverage))
    figures += [_coverage_figure(quality, formula, title, f"{slug}-{formula}") for formula in formulas]
    return figures


def _coverage_figure(quality: LabelQuality, formula: str, title: str, slug: str) -> Figure:
    """Return the distributions of energy and volume in the labelled and in the sampled set."""
    found = [
        (f"energy − mean of {'the sampled' if each.same_scale else 'its set'}", each, float(each.sampled.mean()))
        for each in quality.energy_coverage
        if each.formula == formula
    ]
    found += [("volume", each, 0.0) for each in quality.volume_coverage if each.formula == formula]
    figure, axes = new_figure(len(found))
    for ax, (name, each, origin) in zip(axes, found, strict=True):
        plot_coverage(ax, each.labelled - origin, each.sampled - origin, f"{name} / ({each.unit} per molecule)")
    levels = quality.energy_levels
    at = ""
    if levels is not None and levels.labelled == levels.sampled:
        at = f"; energies at {levels.labelled}"
    elif levels is not None:
        at = f"; energies at {levels.labelled} and at {levels.sampled}, each about its mean"
    return Figure(to_svg(figure, slug), f"{formula} labelled at {title}, against the sampled frames{at}.")
