"""Nodes to one self-contained HTML page."""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.plotting import look
from aiida_mlfinetune.report.dataset import collect_dataset
from aiida_mlfinetune.report.graph import owner
from aiida_mlfinetune.report.learning_curve import LEARNING_CURVE, collect_learning_curve
from aiida_mlfinetune.report.page import Page, render
from aiida_mlfinetune.report.study import STUDY, collect_study
from aiida_mlfinetune.report.sublimation import collect_process

__all__ = ("Page", "collect", "render")


def collect(node: orm.Node) -> Page:
    """Return the report's content: of a dataset by itself, else of a process or of the one behind a result.

    Raises:
        ValueError: data that no process made, other than a dataset.
    """
    if isinstance(node, DatasetData):
        with look():
            return collect_dataset(node)
    process = owner(node)
    collectors = {LEARNING_CURVE: collect_learning_curve, STUDY: collect_study}
    with look():
        return collectors.get(process.process_label, collect_process)(process)
