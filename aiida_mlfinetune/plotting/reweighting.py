"""What a run says about a reference level: the weights of its frames, and distributions before and after."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from aiida_mlfinetune.plotting.style import INK, PALETTE, add_legend

FloatArray = NDArray[np.float64]


def plot_weights(ax: Axes, difference: FloatArray, weights: FloatArray) -> Axes:
    """Plot the weight of each frame, in multiples of the mean, against its energy difference.

    Args:
        ax: to draw on.
        difference: (n,) U_ref - U in kT, relative to its mean.
        weights: (n,) with the sum 1.
    """
    n_effective = 1.0 / float((weights**2).sum())
    label = f"N_eff {n_effective:.1f} of {len(weights)}"
    ax.plot(difference, len(weights) * weights, color=PALETTE[0], linestyle="", marker=".", markersize=5, label=label)
    ax.axhline(1.0, color=INK, linewidth=0.6)
    ax.set_xlabel("U(reference) − U(run) − mean / kT")
    ax.set_ylabel("weight × frames")
    add_legend(ax)
    return ax


def plot_distributions(
    ax: Axes,
    edges: FloatArray,
    raw: FloatArray,
    raw_error: FloatArray,
    reweighted: FloatArray,
    reweighted_error: FloatArray,
    label: str,
) -> Axes:
    """Plot a distribution in the run and at the reference level, each as steps with a band of one standard error.

    Args:
        ax: to draw on.
        edges: (m + 1,) of the bins.
        raw: (m,) in the run.
        raw_error: (m,) its standard error.
        reweighted: (m,) at the reference level.
        reweighted_error: (m,) its standard error.
        label: of the horizontal axis, with its unit.
    """
    for values, errors, name, colour in (
        (raw, raw_error, "run", PALETTE[0]),
        (reweighted, reweighted_error, "reweighted", PALETTE[1]),
    ):
        ax.stairs(values, edges, color=colour, linewidth=1.3, label=name)
        ax.stairs(
            values + errors,
            edges,
            baseline=np.maximum(values - errors, 0.0),
            fill=True,
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
    ax.set_xlabel(label)
    ax.set_ylabel("distribution")
    add_legend(ax)
    return ax
