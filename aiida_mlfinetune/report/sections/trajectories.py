"""Figures that any MD run has, from the arrays of its ``properties``."""

from __future__ import annotations

import numpy as np
from aiida import orm
from numpy.typing import NDArray

from aiida_mlfinetune.plotting import new_figure, plot_energies, plot_temperature, to_svg

__all__ = ("array", "md_figure", "thinned")

MOST_POINTS = 1500


def array(properties: orm.ArrayData, name: str) -> NDArray[np.float64] | None:
    """Return an array of a node, None where it is not there."""
    if name not in properties.get_arraynames():
        return None
    return np.asarray(properties.get_array(name), dtype=np.float64)


def thinned(n: int) -> NDArray[np.int64]:
    """Return the indices of at most ``MOST_POINTS`` of ``n`` points at equal distances: a line shows no more."""
    return np.arange(0, n, max(1, -(-n // MOST_POINTS)))


def md_figure(properties: orm.ArrayData, name: str, n_atoms: int, target: float | None) -> str:
    """Return energies and temperature (target in K) against time as an SVG element."""
    time, potential = array(properties, "time_fs"), array(properties, "potential_energy_eV")
    temperature, conserved = array(properties, "temperature_K"), array(properties, "conserved_eV")
    drawn = [values for values in (potential, temperature) if time is not None and values is not None]
    if time is None or not drawn:
        return ""
    figure, axes = new_figure(len(drawn))
    keep = thinned(len(time))
    remaining = list(axes)
    if potential is not None:
        plot_energies(
            remaining.pop(0), time[keep], potential[keep], None if conserved is None else conserved[keep], n_atoms
        )
    if temperature is not None:
        plot_temperature(remaining.pop(0), time[keep], temperature[keep], target)
    return to_svg(figure, name)
