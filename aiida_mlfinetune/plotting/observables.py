"""Curves of observables with their error bands."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from aiida_mlfinetune.plotting.style import INK, PALETTE, add_legend

FloatArray = NDArray[np.float64]


def plot_radial_distribution(
    ax: Axes,
    r: FloatArray,
    g: FloatArray,
    error: FloatArray,
    label: str = "",
    reference: tuple[FloatArray, FloatArray] | None = None,
) -> Axes:
    """Plot a radial distribution function with its band.

    Args:
        ax: to draw on; may hold other curves already.
        r: (k,) angstrom.
        g: (k,) the function.
        error: (k,) standard error.
        label: of the curve.
        reference: distances (l,) in angstrom and values (l,) of a curve to stand beside.
    """
    colour = PALETTE[len(ax.collections) % len(PALETTE)]
    ax.fill_between(r, g - error, g + error, color=colour, alpha=0.25, linewidth=0)
    ax.plot(r, g, color=colour, linewidth=1.3, label=label or None)
    if reference is not None:
        ax.plot(*reference, color=INK, linewidth=1.1, linestyle="--", label="reference")
    ax.axhline(1.0, color=INK, linewidth=0.6)
    ax.set_xlabel("r / Å")
    ax.set_ylabel("g(r)")
    add_legend(ax)
    return ax


def plot_mean_squared_displacement(
    ax: Axes, lag: FloatArray, msd: FloatArray, error: FloatArray, slope: float, fit_range: tuple[float, float]
) -> Axes:
    """Plot a mean squared displacement (k,) in angstrom^2 against lags (k,) in ps, with its band and the fitted slope.

    Args:
        ax: to draw on.
        lag: ps.
        msd: angstrom^2.
        error: (k,) standard error in angstrom^2; infinite where unknown, and then not drawn.
        slope: angstrom^2/ps, six times the diffusion coefficient.
        fit_range: first and last lag of the fit in ps.
    """
    known = np.isfinite(error)
    band = np.where(known, error, 0.0)
    ax.fill_between(lag, msd - band, msd + band, color=PALETTE[0], alpha=0.25, linewidth=0)
    ax.plot(lag, msd, color=PALETTE[0], linewidth=1.3)
    inside = (lag >= fit_range[0]) & (lag <= fit_range[1])
    ends = np.array(fit_range)
    line = msd[inside].mean() + slope * (ends - lag[inside].mean())
    ax.plot(ends, line, color=PALETTE[1], linewidth=1.2, linestyle="--", label=f"slope {slope:.3g} Å²/ps")
    ax.set_xlabel("time / ps")
    ax.set_ylabel("mean squared displacement / Å²")
    add_legend(ax)
    return ax


def plot_histogram(ax: Axes, centres: FloatArray, density: FloatArray, error: FloatArray, label: str) -> Axes:
    """Plot a probability density (k,) with error bars against the centres (k,) of its bins; ``label`` has the unit."""
    width = float(centres[1] - centres[0]) if len(centres) > 1 else 1.0
    ax.bar(centres, density, width=0.92 * width, color=PALETTE[0], alpha=0.6, linewidth=0)
    ax.errorbar(centres, density, yerr=error, fmt="none", ecolor=INK, elinewidth=0.9, capsize=1.5)
    ax.set_xlabel(label)
    ax.set_ylabel("probability density")
    ax.set_ylim(bottom=0)
    return ax


def plot_free_energy(ax: Axes, coordination: FloatArray, free_energy: FloatArray, error: FloatArray) -> Axes:
    """Plot a free energy (k,) in kJ/mol with its band along a coordination number (k,); NaN leaves a gap."""
    ax.fill_between(coordination, free_energy - error, free_energy + error, color=PALETTE[0], alpha=0.25, linewidth=0)
    ax.plot(coordination, free_energy, color=PALETTE[0], linewidth=1.3, marker=".", markersize=4)
    ax.set_xlabel("coordination number")
    ax.set_ylabel("free energy / (kJ/mol)")
    return ax
