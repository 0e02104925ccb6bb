"""Learning curves: errors against the number of training frames, like figure 1 of Kaur et al. (2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

from aiida_mlfinetune.plotting.style import INK, PALETTE, add_legend, make_logarithmic

FloatArray = NDArray[np.float64]
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


@dataclass(frozen=True)
class PlottedCurve:
    """One mode in a figure.

    Attributes:
        sizes: (n,) training frames.
        mean: (n,) errors, NaN where there is none.
        error: (n,) standard errors, NaN where they are not known.
        law: (a, b) of the power law a n^-b, if one was fitted.
    """

    sizes: NDArray[np.int64]
    mean: FloatArray
    error: FloatArray
    law: tuple[float, float] | None = None


def plot_learning_curve(
    ax: Axes,
    curves: Mapping[str, PlottedCurve],
    quantity: str,
    unit: str,
    spread: float | None = None,
    target: float | None = None,
) -> Axes:
    """Plot errors against the number of frames, both logarithmic, with the fitted power laws as thin lines.

    Args:
        ax: to draw on.
        curves: by mode; a mode keeps its colour and marker from figure to figure.
        quantity: what the errors are of, such as ``force RMSE of O``.
        unit: of the errors.
        spread: standard deviation of the reference in the same frames, for a second scale in percent of it.
        target: error that is asked for.
    """
    drawn: list[int] = []
    for number, (name, curve) in enumerate(curves.items()):
        there = np.isfinite(curve.mean)
        if not there.any():
            continue
        colour = PALETTE[number % len(PALETTE)]
        sizes, mean = curve.sizes[there], curve.mean[there]
        bars = np.where(np.isfinite(curve.error[there]), curve.error[there], 0.0)
        lower = np.minimum(bars, 0.95 * mean)  # an error bar may not reach zero, which a logarithm has no place for
        ax.errorbar(
            sizes,
            mean,
            yerr=np.stack([lower, bars]),
            fmt=MARKERS[number % len(MARKERS)],
            linestyle="-" if curve.law is None else "none",
            color=colour,
            linewidth=1.3,
            markersize=5,
            capsize=2.5,
            label=name,
        )
        if curve.law is not None:
            a, b = curve.law
            line = np.geomspace(float(sizes.min()), 2.0 * float(sizes.max()), 40)
            ax.plot(line, a * line**-b, color=colour, linewidth=0.9, linestyle="--")
        drawn += sizes.tolist()
    if target is not None:
        ax.axhline(target, color=INK, linewidth=0.9, linestyle=":", label="target")
    if drawn:
        make_logarithmic(ax)
        ax.set_xscale("log")
        ax.margins(x=0.06, y=0.08)
        ticks = sorted(set(drawn))
        ax.xaxis.set_major_locator(FixedLocator(_spread_out(ticks)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        if spread is not None and spread > 0:
            _add_percent(ax, spread)
        add_legend(ax)
    ax.set_xlabel("training frames")
    ax.set_ylabel(f"{quantity} / ({unit})")
    return ax


def _add_percent(ax: Axes, spread: float) -> None:
    """Add a scale on the right in percent of ``spread``."""
    factor = 100.0 / spread
    right = ax.secondary_yaxis(
        "right", functions=(lambda value: np.asarray(value) * factor, lambda percent: np.asarray(percent) / factor)
    )
    right.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    right.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    right.yaxis.set_minor_locator(NullLocator())
    right.tick_params(colors=INK, labelsize=8)
    right.spines["right"].set(visible=True, color=INK)
    right.set_ylabel("% of the standard deviation", color=INK, fontsize=9)


def _spread_out(sizes: list[int]) -> list[int]:
    """Return the sizes whose labels do not run into each other on a logarithmic axis, largest kept."""
    kept: list[int] = []
    for size in reversed(sizes):
        if not kept or kept[-1] >= 1.25 * size:
            kept.append(size)
    return kept[::-1]
