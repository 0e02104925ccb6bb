"""Numbers, conditions and structures in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.data.observable import ObservableData

__all__ = ("conditions", "number", "settings_rows", "with_error")

ENSEMBLES = {
    Ensemble.NVE.value: "NVE",
    Ensemble.NVT.value: "NVT",
    Ensemble.NPT_ISOTROPIC.value: "NPT with isotropic cell",
    Ensemble.NPT_FLEXIBLE.value: "NPT with flexible cell",
}


def with_error(value: float, error: float) -> str:
    """Return value and error rounded to two digits of the error, such as ``0.934 ± 0.012``."""
    if not math.isfinite(error):
        return f"{value:.4g} ± unknown"
    if error <= 0:
        return f"{value:.6g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def number(value: Any) -> str:
    """Return a number with at most four significant digits, anything else as it is written."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(number(item) for item in value)
    return str(value)


def conditions(observable: ObservableData) -> str:
    """Return the conditions of an observable in one line."""
    known = observable.conditions
    parts = []
    if "temperature_K" in known:
        parts.append(f"{known['temperature_K']:g} K")
    if known.get("pressure_bar") is not None:
        parts.append(f"{known['pressure_bar']:g} bar")
    if known.get("ensemble"):
        parts.append(ENSEMBLES.get(known["ensemble"], str(known["ensemble"])))
    if "level" in known:
        parts.append(f"labels at {known['level']}")
    n_beads = known.get("n_beads")
    if n_beads is not None or "temperature_K" in known:
        parts.append("classical nuclei" if n_beads in (None, 1) else f"{n_beads} beads")
    return ", ".join(parts)


def settings_rows(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as rows of a table: dotted name and value; empty values are left out."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += settings_rows(value, f"{name}.")
        elif value not in (None, "", []):
            rows.append((name, number(value)))
    return rows
