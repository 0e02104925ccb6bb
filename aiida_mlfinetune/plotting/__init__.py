"""Figures: functions of an axis and arrays."""

from __future__ import annotations

from aiida_mlfinetune.plotting.assessment import plot_scans, plot_volume_curve
from aiida_mlfinetune.plotting.dynamics import plot_density, plot_energies, plot_temperature
from aiida_mlfinetune.plotting.labels import (
    plot_coverage,
    plot_energy_scores,
    plot_force_distribution,
    plot_net_force,
)
from aiida_mlfinetune.plotting.learning_curve import PlottedCurve, plot_learning_curve
from aiida_mlfinetune.plotting.style import INK, PALETTE, new_figure, to_svg
from aiida_mlfinetune.plotting.training import plot_loss, plot_parity, plot_rmse

__all__ = (
    "INK",
    "PALETTE",
    "PlottedCurve",
    "new_figure",
    "plot_coverage",
    "plot_density",
    "plot_energies",
    "plot_energy_scores",
    "plot_force_distribution",
    "plot_learning_curve",
    "plot_loss",
    "plot_net_force",
    "plot_parity",
    "plot_rmse",
    "plot_scans",
    "plot_temperature",
    "plot_volume_curve",
    "to_svg",
)
