"""Curves of a model's assessment."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from aiida_mlfinetune.plotting.style import INK, PALETTE, add_legend

FloatArray = NDArray[np.float64]


def plot_volume_curve(ax: Axes, volumes: FloatArray, energies: FloatArray, minimum: float | None) -> Axes:
    """Plot energies (n,) in kJ/mol, about their smallest, against volumes (n,) in cubic angstrom.

    Args:
        ax: to draw on.
        volumes: of the cell.
        energies: of the cell.
        minimum: volume of the minimum; None where there is none.
    """
    ax.plot(volumes, energies - np.nanmin(energies), color=PALETTE[0], linewidth=1.3, marker=".", markersize=5)
    if minimum is not None:
        ax.axvline(minimum, color=INK, linewidth=0.8, linestyle="--")
    ax.set_xlabel("volume / Å³")
    ax.set_ylabel("energy − minimum / (kJ/mol)")
    return ax


def plot_scans(ax: Axes, scans: Mapping[str, tuple[FloatArray, FloatArray]], label: str, highest: float) -> Axes:
    """Plot energies (n,) in eV against coordinates (n,), a line for each name, about their first points.

    Args:
        ax: to draw on.
        scans: coordinates and energies by name.
        label: of the horizontal axis, with its unit.
        highest: eV; the axis ends here, or at the highest energy if that is lower.
    """
    lowest, top = 0.0, 0.0
    for number, (name, (at, energies)) in enumerate(scans.items()):
        relative = energies - energies[0]
        ax.plot(at, relative, color=PALETTE[number % len(PALETTE)], linewidth=1.3, marker=".", markersize=4, label=name)
        finite = relative[np.isfinite(relative)]
        if finite.size:
            lowest, top = min(lowest, float(finite.min())), max(top, float(finite.max()))
    margin = 0.05 * (min(top, highest) - max(lowest, -highest)) or 1.0
    ax.set_ylim(max(lowest, -highest) - margin, min(top, highest) + margin)
    ax.axhline(0.0, color=INK, linewidth=0.6)
    ax.set_xlabel(label)
    ax.set_ylabel("energy − start / eV")
    add_legend(ax)
    return ax
