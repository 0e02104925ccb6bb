"""Molecular dynamics against time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from aiida_mlfinetune.common.units import EV_MEV
from aiida_mlfinetune.plotting.style import INK, PALETTE, add_legend

FloatArray = NDArray[np.float64]
FS_PER_PS = 1000.0


def plot_energies(
    ax: Axes, time_fs: FloatArray, potential: FloatArray, conserved: FloatArray | None = None, n_atoms: int = 1
) -> Axes:
    """Plot the potential energy and the conserved quantity, per atom and relative to their means.

    Args:
        ax: to draw on.
        time_fs: (n,) time in fs.
        potential: (n,) potential energy in eV.
        conserved: (n,) conserved quantity in eV.
        n_atoms: number of atoms, by which both are divided.
    """
    time = np.asarray(time_fs) / FS_PER_PS
    for values, label, colour in ((potential, "potential", PALETTE[0]), (conserved, "conserved", PALETTE[1])):
        if values is not None and np.isfinite(values).any():
            relative = (np.asarray(values) - np.nanmean(values)) / n_atoms * EV_MEV
            ax.plot(time, relative, color=colour, linewidth=1.1, label=label)
    ax.set_xlabel("time / ps")
    ax.set_ylabel("energy − mean / (meV/atom)")
    add_legend(ax)
    return ax


def plot_temperature(ax: Axes, time_fs: FloatArray, temperature: FloatArray, target: float | None = None) -> Axes:
    """Plot the temperature (n,) in K, its running mean, and the thermostat's target."""
    time = np.asarray(time_fs) / FS_PER_PS
    ax.plot(time, temperature, color=PALETTE[0], linewidth=0.8, alpha=0.55)
    ax.plot(time, running_mean(temperature), color=PALETTE[0], linewidth=1.6, label="running mean")
    if target is not None:
        ax.axhline(target, color=PALETTE[1], linewidth=1.0, linestyle="--", label=f"target {target:g} K")
    ax.set_xlabel("time / ps")
    ax.set_ylabel("temperature / K")
    add_legend(ax)
    return ax


def plot_density(
    ax: Axes,
    time_fs: FloatArray,
    density: FloatArray,
    start_fs: float | None = None,
    mean: float | None = None,
    error: float | None = None,
) -> Axes:
    """Plot the density along the MD with its mean over the equilibrated part.

    Args:
        ax: to draw on.
        time_fs: (n,) time in fs.
        density: (n,) in g/cm^3.
        start_fs: end of the equilibration; what comes before is shaded.
        mean: density that is reported, in g/cm^3.
        error: its standard error, drawn as a band.
    """
    time = np.asarray(time_fs) / FS_PER_PS
    ax.plot(time, density, color=PALETTE[0], linewidth=0.8, alpha=0.55)
    used = np.ones(len(time), dtype=bool) if start_fs is None else np.asarray(time_fs) >= start_fs
    if start_fs is not None and not used.all():
        ax.axvspan(time[0], start_fs / FS_PER_PS, color=INK, alpha=0.15, linewidth=0, label="equilibration")
    if used.any():
        ax.plot(
            time[used], running_mean(np.asarray(density)[used]), color=PALETTE[0], linewidth=1.6, label="running mean"
        )
    if mean is not None:
        ax.axhline(mean, color=PALETTE[1], linewidth=1.0, linestyle="--", label=f"mean {mean:.4g}")
        if error is not None and np.isfinite(error):
            ax.axhspan(mean - error, mean + error, color=PALETTE[1], alpha=0.2, linewidth=0)
    ax.set_xlabel("time / ps")
    ax.set_ylabel("density / (g/cm³)")
    add_legend(ax)
    return ax


def plot_densities(ax: Axes, runs: Mapping[str, tuple[FloatArray, FloatArray]]) -> Axes:
    """Plot the running means of the densities of several runs.

    Args:
        ax: to draw on.
        runs: by name, time (n,) in fs and density (n,) in g/cm^3.
    """
    for number, (name, (time_fs, values)) in enumerate(runs.items()):
        colour = PALETTE[number % len(PALETTE)]
        time = np.asarray(time_fs) / FS_PER_PS
        ax.plot(time, values, color=colour, linewidth=0.6, alpha=0.35)
        ax.plot(time, running_mean(values), color=colour, linewidth=1.5, label=name)
    ax.set_xlabel("time / ps")
    ax.set_ylabel("density / (g/cm³)")
    add_legend(ax)
    return ax


def plot_levels(ax: Axes, values: Mapping[str, tuple[float, float]], label: str, measured: float | None = None) -> Axes:
    """Plot one quantity at several levels with its standard errors, and what was measured as a line.

    Args:
        ax: to draw on.
        values: by level, value and standard error (infinite where unknown).
        label: of the vertical axis, with its unit.
        measured: the experiment's value.
    """
    for number, (value, error) in enumerate(values.values()):
        bar = error if np.isfinite(error) else 0.0
        ax.errorbar([number], [value], yerr=[bar], fmt="o", color=PALETTE[number % len(PALETTE)], capsize=3)
    if measured is not None:
        ax.axhline(measured, color=INK, linewidth=1.0, linestyle="--", label="experiment")
    ax.set_xticks(range(len(values)), list(values))
    ax.set_xlim(-0.5, len(values) - 0.5)
    ax.set_ylabel(label)
    add_legend(ax)
    return ax


def running_mean(values: FloatArray) -> FloatArray:
    """Return the mean of all values up to each one, same shape (n,); values that are not finite are skipped."""
    array = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(array)
    sums = np.cumsum(np.where(finite, array, 0.0))
    return np.asarray(sums / np.maximum(np.cumsum(finite), 1))
