"""The report of a run from a crystal to its density and sublimation enthalpy, or of what there is of it."""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.report.graph import owner
from aiida_mlfinetune.report.page import Page
from aiida_mlfinetune.report.provenance import provenance_section
from aiida_mlfinetune.report.sections.assessment import assessment_section
from aiida_mlfinetune.report.sections.convergence import (
    budget_section,
    convergence_section,
    loop_section,
    reference_section,
)
from aiida_mlfinetune.report.sections.dynamics import density_section, dynamics_section
from aiida_mlfinetune.report.sections.labelling import labelling_section
from aiida_mlfinetune.report.sections.method import crystal_of, method_section
from aiida_mlfinetune.report.sections.observables import observables_section
from aiida_mlfinetune.report.sections.processes import citation_section, codes_section, processes_section
from aiida_mlfinetune.report.sections.quality import quality_section
from aiida_mlfinetune.report.sections.reference_energies import reference_energies_section
from aiida_mlfinetune.report.sections.results import headlines, observables
from aiida_mlfinetune.report.sections.reweighting import reweighting_section
from aiida_mlfinetune.report.sections.sampling import sampling_section
from aiida_mlfinetune.report.sections.training import training_section
from aiida_mlfinetune.report.state import state_of

__all__ = ("collect_process",)


def collect_process(node: orm.Node) -> Page:
    """Return the report's content from a work chain, or from the outermost one behind a result.

    A process that has not ended, or that failed, gives a page of what there is, which says so.

    Raises:
        ValueError: data that no process made.
    """
    process = owner(node)
    crystal = crystal_of(process)
    formula = "" if crystal is None else crystal.get_formula(mode="hill")
    title = process.label or f"{process.process_label} {formula}".strip()
    found = observables(process)
    return Page(
        title=title,
        subtitle=f"{process.process_label} {process.pk}, {process.ctime:%Y-%m-%d}, {process.uuid}",
        state=state_of(process),
        headlines=headlines(process),
        sections=(
            method_section(process),
            convergence_section(process),
            loop_section(process),
            budget_section(process),
            reference_section(process),
            density_section(process),
            reweighting_section(process),
            training_section(process),
            reference_energies_section(process),
            sampling_section(process),
            labelling_section(process),
            quality_section(process),
            assessment_section(process),
            dynamics_section(process),
            observables_section(process),
            provenance_section(found.values()),
            processes_section(process),
            codes_section(process),
            citation_section(),
        ),
    )


def _state(process: orm.ProcessNode) -> str:
    if process.is_finished_ok:
        return ""
    if process.is_terminated:
        reason = process.exit_message or (process.exception or "").strip().splitlines()[-1:] or process.process_state
        return f"The run failed: {reason}. The page shows what there is."
    return "The run has not ended. The page shows what there is so far."
