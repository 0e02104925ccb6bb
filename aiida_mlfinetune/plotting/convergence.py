"""Averages against the size of the training set beside the reference, like figure 3 of Kaur et al. (2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from aiida_mlfinetune.plotting.learning_curve import MARKERS, PlottedCurve
from aiida_mlfinetune.plotting.style import INK, PALETTE, add_legend


def plot_convergence(
    ax: Axes,
    curves: Mapping[str, PlottedCurve],
    label: str,
    reference: tuple[float, float],
    allowed: float | None = None,
) -> Axes:
    """Plot averages with error bars against the number of training frames, and the reference as a line with a band.

    Args:
        ax: to draw on.
        curves: by mode; the mean of an average over seeds, with its standard error.
        label: of the vertical axis, with its unit.
        reference: its value and standard error; the band is one standard error wide on each side.
        allowed: how far from the reference an average may be, as dotted lines.
    """
    value, error = reference
    ax.axhline(value, color=INK, linewidth=1.0, label="reference")
    if np.isfinite(error):
        ax.axhspan(value - error, value + error, color=INK, alpha=0.2, linewidth=0)
    if allowed is not None:
        for sign, name in ((-1, None), (1, "target")):
            ax.axhline(value + sign * allowed, color=INK, linewidth=0.9, linestyle=":", label=name)
    drawn: set[int] = set()
    for number, (name, curve) in enumerate(curves.items()):
        there = np.isfinite(curve.mean)
        if not there.any():
            continue
        bars = np.where(np.isfinite(curve.error[there]), curve.error[there], 0.0)
        sizes = curve.sizes[there] * (1.0 + 0.02 * number)  # bars of several modes stand beside each other
        ax.errorbar(
            sizes,
            curve.mean[there],
            yerr=bars,
            fmt=MARKERS[number % len(MARKERS)],
            linestyle="-",
            linewidth=1.0,
            color=PALETTE[number % len(PALETTE)],
            markersize=5,
            capsize=2.5,
            label=name,
        )
        drawn |= set(curve.sizes[there].tolist())
    if drawn:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(sorted(drawn)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    add_legend(ax)
    ax.set_xlabel("training frames")
    ax.set_ylabel(label)
    return ax


def plot_budget(ax: Axes, names: Sequence[str], values: Sequence[float], errors: Sequence[float]) -> Axes:
    """Plot the terms of an error budget as bars with their standard errors, the first one uppermost.

    Args:
        ax: to draw on.
        names: (n,) of the terms.
        values: (n,) kJ/mol, with their signs.
        errors: (n,) kJ/mol, infinite where one is not known.
    """
    places = np.arange(len(names))
    shown = [error if np.isfinite(error) else 0.0 for error in errors]
    ax.barh(places, list(values), xerr=shown, color=PALETTE[0], height=0.6, ecolor=INK, capsize=2.5)
    ax.axvline(0.0, color=INK, linewidth=0.8)
    ax.set_yticks(places, list(names))
    ax.invert_yaxis()
    ax.set_xlabel("contribution / (kJ/mol)")
    return ax
