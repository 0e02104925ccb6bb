"""Nodes to one self-contained HTML page."""

from __future__ import annotations

from aiida_mlfinetune.report.page import Page, render
from aiida_mlfinetune.report.sublimation import collect

__all__ = ("Page", "collect", "render")
