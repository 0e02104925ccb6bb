"""Figures: functions of an axis and arrays."""

from __future__ import annotations

from aiida_mlfinetune.plotting.assessment import plot_scans, plot_volume_curve
from aiida_mlfinetune.plotting.convergence import plot_budget, plot_convergence
from aiida_mlfinetune.plotting.dynamics import (
    plot_densities,
    plot_density,
    plot_energies,
    plot_levels,
    plot_temperature,
)
from aiida_mlfinetune.plotting.labels import (
    plot_coverage,
    plot_energy_scores,
    plot_force_distribution,
    plot_net_force,
)
from aiida_mlfinetune.plotting.learning_curve import PlottedCurve, plot_learning_curve
from aiida_mlfinetune.plotting.observables import (
    plot_free_energy,
    plot_histogram,
    plot_mean_squared_displacement,
    plot_radial_distribution,
)
from aiida_mlfinetune.plotting.reweighting import plot_distributions, plot_weights
from aiida_mlfinetune.plotting.style import INK, PALETTE, look, new_figure, to_svg
from aiida_mlfinetune.plotting.training import plot_loss, plot_parity, plot_rmse

__all__ = (
    "INK",
    "PALETTE",
    "PlottedCurve",
    "look",
    "new_figure",
    "plot_budget",
    "plot_convergence",
    "plot_coverage",
    "plot_densities",
    "plot_density",
    "plot_distributions",
    "plot_energies",
    "plot_energy_scores",
    "plot_force_distribution",
    "plot_free_energy",
    "plot_histogram",
    "plot_learning_curve",
    "plot_levels",
    "plot_loss",
    "plot_mean_squared_displacement",
    "plot_net_force",
    "plot_parity",
    "plot_radial_distribution",
    "plot_rmse",
    "plot_scans",
    "plot_temperature",
    "plot_volume_curve",
    "plot_weights",
    "to_svg",
)
