"""The report of a learning curve, or of what there is of it."""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.report.page import Page, Section
from aiida_mlfinetune.report.provenance import provenance_section
from aiida_mlfinetune.report.sections.learning_curve import (
    curve_headline,
    curve_section,
    split_section,
    trainings_section,
)
from aiida_mlfinetune.report.sections.processes import citation_section, codes_section, processes_section
from aiida_mlfinetune.report.state import state_of

__all__ = ("LEARNING_CURVE", "collect_learning_curve")

LEARNING_CURVE = "LearningCurveWorkChain"
"""Name of the class of the work chain."""


def collect_learning_curve(process: orm.ProcessNode) -> Page:
    """Return the report's content from a process ``mlfinetune.learning_curve``."""
    curve = process.outputs.curve if "curve" in process.outputs else None
    own: tuple[Section, ...] = () if curve is None else (curve_section(curve), split_section(curve))
    level = process.inputs.level.value if "level" in process.inputs else ""
    return Page(
        title=process.label or f"Learning curve at {level}",
        subtitle=f"{process.process_label} {process.pk}, {process.ctime:%Y-%m-%d}, {process.uuid}",
        state=state_of(process),
        headlines=() if curve is None else (curve_headline(curve),),
        sections=(
            *own,
            trainings_section(process),
            provenance_section([] if curve is None else [curve]),
            processes_section(process),
            codes_section(process),
            citation_section(),
        ),
    )
