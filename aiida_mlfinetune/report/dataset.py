"""The report of a dataset: its levels, the quality of their labels, and where they come from."""

from __future__ import annotations

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.report.page import Page
from aiida_mlfinetune.report.provenance import provenance_section
from aiida_mlfinetune.report.sections.levels import comparison_section, content_section
from aiida_mlfinetune.report.sections.quality import dataset_quality_section

__all__ = ("collect_dataset",)


def collect_dataset(dataset: DatasetData) -> Page:
    """Return the report's content from a dataset."""
    formulas = ", ".join(dataset.base.attributes.get("formulas"))
    return Page(
        title=dataset.label or f"{dataset.n_frames} frames of {formulas}",
        subtitle=f"Dataset {dataset.pk}, {dataset.ctime:%Y-%m-%d}, {dataset.uuid}",
        state="",
        headlines=(),
        sections=(
            content_section(dataset),
            dataset_quality_section(dataset),
            comparison_section(dataset),
            provenance_section([dataset]),
        ),
    )
