"""Quality of labels: distributions of forces, net forces and energies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from aiida_mlfinetune.plotting.style import INK, PALETTE, add_legend

FloatArray = NDArray[np.float64]
MOST_BINS = 40


def plot_net_force(ax: Axes, norms: FloatArray) -> Axes:
    """Plot the distribution of the net forces (n,) in meV/A over the frames, with their mean."""
    values = np.asarray(norms, dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size:
        ax.hist(values, bins=_bins(values, from_zero=True), color=PALETTE[0], alpha=0.75)
        mean = float(values.mean())
        ax.axvline(mean, color=PALETTE[1], linewidth=1.2, linestyle="--", label=f"mean {mean:.3g}")
        ax.set_xlim(left=0)
    ax.set_xlabel("net force of a frame / (meV/Å)")
    ax.set_ylabel("frames")
    add_legend(ax)
    return ax


def plot_force_distribution(ax: Axes, edges: FloatArray, counts: Mapping[str, FloatArray]) -> Axes:
    """Plot the density of force components by element on a logarithmic scale.

    Args:
        ax: to draw on.
        edges: (bins + 1,) in eV/A.
        counts: (bins,) by element.
    """
    width = np.diff(edges)
    for number, (element, values) in enumerate(counts.items()):
        total = float(np.sum(values))
        density = np.where(values > 0, values / (total * width), np.nan) if total > 0 else np.full(len(width), np.nan)
        ax.stairs(density, edges, color=PALETTE[number % len(PALETTE)], linewidth=1.4, label=element)
    if counts:
        ax.set_yscale("log")
    ax.set_xlabel("force component / (eV/Å)")
    ax.set_ylabel("density / (Å/eV)")
    add_legend(ax)
    return ax


def plot_energy_scores(ax: Axes, scores: FloatArray, limit: float) -> Axes:
    """Plot the robust score (n,) of each energy against the frame, with the limit beyond which it is an outlier."""
    values = np.asarray(scores, dtype=np.float64)
    index = np.arange(len(values))
    out = np.abs(np.nan_to_num(values)) > limit
    size = 3.5 if len(values) < 2000 else 1.5
    ax.plot(index[~out], values[~out], "o", color=PALETTE[0], markersize=size, alpha=0.6, markeredgewidth=0)
    if out.any():
        ax.plot(index[out], values[out], "D", color=PALETTE[1], markersize=5, label=f"{int(out.sum())} outliers")
    for side in (-limit, limit):
        ax.axhline(side, color=INK, linewidth=0.8, linestyle="--")
    if out.any():
        ax.set_yscale("symlog", linthresh=2 * limit)
    ax.set_xlabel("frame")
    ax.set_ylabel("robust score of the energy")
    add_legend(ax)
    return ax


def plot_coverage(ax: Axes, labelled: FloatArray, sampled: FloatArray, label: str) -> Axes:
    """Plot the distributions of a quantity in the labelled (n,) and in the sampled set (m,), each of area one.

    Sampled values that are all the same, such as the volumes of a run at constant volume, are one line.

    Args:
        ax: to draw on.
        labelled: values of labelled frames.
        sampled: values of sampled frames.
        label: of the horizontal axis, with the unit.
    """
    one, two = np.asarray(labelled, dtype=np.float64), np.asarray(sampled, dtype=np.float64)
    bins = _bins(np.concatenate([one, two]))
    title = f"sampled, {len(two)} frames"
    if np.allclose(two, two[0], rtol=1e-9):
        ax.axvline(two[0], color=INK, alpha=0.5, linewidth=2.4, label=title)
    else:
        ax.hist(two, bins=bins, density=True, color=INK, alpha=0.35, label=title)
    name = f"labelled, {len(one)} frames"
    ax.hist(one, bins=bins, density=True, histtype="step", color=PALETTE[1], linewidth=1.6, label=name)
    ax.set_xlabel(label)
    ax.set_ylabel("density")
    add_legend(ax)
    return ax


def _bins(values: FloatArray, *, from_zero: bool = False) -> list[float]:
    """Return edges of bins for values (n,): about as many as the root of their number."""
    low, high = 0.0 if from_zero else float(values.min()), float(values.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges: list[float] = np.linspace(low, high, int(np.clip(2 * np.sqrt(len(values)), 8, MOST_BINS)) + 1).tolist()
    return edges
