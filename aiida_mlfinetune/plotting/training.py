"""Training curves and parity plots."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from aiida_mlfinetune.plotting.style import INK, PALETTE, add_legend, make_logarithmic

FloatArray = NDArray[np.float64]


def plot_loss(ax: Axes, epoch: FloatArray, train: FloatArray | None, valid: FloatArray | None) -> Axes:
    """Plot the losses (n,) of the training and the validation set against the epoch on a logarithmic scale."""
    drawn = False
    for values, label, colour in ((train, "training", PALETTE[0]), (valid, "validation", PALETTE[1])):
        if values is not None and np.isfinite(values).any():
            ax.plot(epoch, values, color=colour, linewidth=1.3, marker=".", markersize=4, label=label)
            drawn = True
    if drawn:
        make_logarithmic(ax)
        add_legend(ax)
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss")
    return ax


def plot_rmse(ax: Axes, epoch: FloatArray, energy: FloatArray | None, forces: FloatArray | None) -> Axes:
    """Plot the validation errors against the epoch: energy (meV/atom) and forces (meV/A), each (n,)."""
    for values, label, colour in (
        (energy, "energy / (meV/atom)", PALETTE[0]),
        (forces, "forces / (meV/Å)", PALETTE[2]),
    ):
        if values is not None and np.isfinite(values).any():
            ax.plot(epoch, values, color=colour, linewidth=1.3, marker=".", markersize=4, label=label)
    if ax.lines:
        make_logarithmic(ax)
        add_legend(ax)
    ax.set_xlabel("epoch")
    ax.set_ylabel("RMSE on validation frames")
    return ax


def plot_parity(
    ax: Axes,
    reference: FloatArray,
    predicted: FloatArray,
    unit: str,
    quantity: str,
    groups: NDArray[np.str_] | None = None,
) -> Axes:
    """Plot predictions (n,) against reference values (n,), in the same unit, with the root mean square error.

    Args:
        ax: to draw on.
        reference: (n,) values of the reference level.
        predicted: (n,) values of the model for the same frames.
        unit: of both.
        quantity: what they are, for the axes' labels.
        groups: (n,) names by which points are coloured, such as elements or formulas.
    """
    x, y = np.asarray(reference, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    valid = np.isfinite(x) & np.isfinite(y)
    names = np.full(len(x), "") if groups is None else np.asarray(groups)
    for number, name in enumerate(np.unique(names[valid])):
        own = valid & (names == name)
        colour = PALETTE[number % len(PALETTE)]
        ax.plot(
            x[own], y[own], "o", color=colour, markersize=3.5, alpha=0.6, markeredgewidth=0, label=str(name) or None
        )
    if valid.any():
        low, high = float(min(x[valid].min(), y[valid].min())), float(max(x[valid].max(), y[valid].max()))
        margin = 0.05 * (high - low) or 1.0
        limits = (low - margin, high + margin)
        ax.plot(limits, limits, color=INK, linewidth=0.8, zorder=0)
        ax.set_xlim(*limits)
        ax.set_ylim(*limits)
        rmse = float(np.sqrt(np.mean((y - x)[valid] ** 2)))
        ax.set_title(f"RMSE {rmse:.3g} {unit}", loc="left", fontsize=9)
    if groups is not None:
        add_legend(ax, "lower right")
    ax.set_aspect("equal", adjustable="box")
    ax.set_xlabel(f"reference {quantity} / ({unit})")
    ax.set_ylabel(f"model {quantity} / ({unit})")
    return ax
