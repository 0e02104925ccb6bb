"""The report of a study of polymorphs: the figures and the table of Kaur et al. (2025), or what there is of them.

Nodes are named by their uuids, never by their numbers in one database: a page that is made of an archive in another
database is the same page.
"""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.report.page import Headline, Page
from aiida_mlfinetune.report.sections.processes import citation_section
from aiida_mlfinetune.report.sections.study import (
    budget_table_section,
    failed_section,
    levels_section,
    order_section,
    setup_section,
    table_section,
)
from aiida_mlfinetune.report.sections.study_figures import (
    convergence_figures,
    curve_figures,
    density_figures,
    distribution_figures,
)
from aiida_mlfinetune.report.sections.study_results import StudyResults, named
from aiida_mlfinetune.report.state import state_of
from aiida_mlfinetune.report.text import conditions, with_error

__all__ = ("STUDY", "collect_study")

STUDY = "StudyWorkChain"
"""Name of the class of the work chain."""


def collect_study(process: orm.ProcessNode) -> Page:
    """Return the report's content from a process ``mlfinetune.study``."""
    results = StudyResults(process)
    headlines = _headlines(results)
    sections = (
        table_section(results),
        order_section(results),
        levels_section(results),
        curve_figures(results),
        distribution_figures(results),
        convergence_figures(results),
        density_figures(results),
        budget_table_section(results),
        setup_section(results),
        failed_section(results),
    )
    return Page(
        title=process.label or f"Study of {', '.join(map(named, results.crystals))}",
        subtitle=f"{process.process_label}, {process.ctime:%Y-%m-%d}, {process.uuid}",
        state=state_of(process),
        headlines=headlines,
        sections=(*sections, results.nodes_section(), citation_section()),
    )


def _headlines(results: StudyResults) -> tuple[Headline, ...]:
    made = []
    for crystal in results.crystals:
        one = results.production(crystal).get("sublimation_enthalpy")
        if one is None:
            continue
        reference = results.reference(crystal).get("sublimation_enthalpy")
        note = "with the model alone"
        if reference is not None:
            note = f"at the reference level: {with_error(reference.value, reference.error)} kJ/mol"
        made.append(
            Headline(
                title=f"Sublimation enthalpy, {named(crystal)}",
                value=with_error(one.value, one.error),
                unit="kJ/mol",
                conditions=conditions(one),
                note=note,
                warnings=(),
                pk=None,
                target=results.link(one).target,
            )
        )
    return tuple(made)
