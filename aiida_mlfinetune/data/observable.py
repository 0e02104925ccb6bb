"""``mlfinetune.observable``: a physical quantity with its error, conditions and method."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from aiida import orm
from numpy.typing import NDArray

from aiida_mlfinetune.common.errors import MlFinetuneError


class ObservableData(orm.Data):
    """A scalar with standard error and unit, and arrays where the observable is a curve."""

    ARRAYS_FILENAME = "arrays.npz"

    def __init__(
        self,
        name: str | None = None,
        value: float | None = None,
        error: float | None = None,
        unit: str = "",
        conditions: Mapping[str, Any] | None = None,
        method: str = "",
        n_independent: float | None = None,
        warnings: Sequence[str] = (),
        arrays: Mapping[str, NDArray[Any]] | None = None,
        details: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Make an observable.

        Args:
            name: such as ``density``; lower case with underscores.
            value: the mean, in ``unit``.
            error: standard error of the mean, in ``unit``; required, and NaN is refused: an observable without an
                error must say so by ``error=math.inf`` and a warning.
            unit: such as ``g/cm^3``.
            conditions: temperature_K, pressure_bar, ensemble, n_beads and what else defines the state.
            method: how the value was obtained, in words.
            n_independent: number of statistically independent samples.
            warnings: what a reader must know before using the value.
            arrays: named arrays, where the observable is a curve.
            details: further JSON-serialisable facts.
            **kwargs: passed on to ``orm.Data``.

        Raises:
            MlFinetuneError: value or error missing or not a number, an infinite error without a warning.
        """
        super().__init__(**kwargs)
        if name is None:
            return
        if value is None or error is None or math.isnan(value) or math.isnan(error) or error < 0:
            raise MlFinetuneError(f"observable {name!r} needs a value and a standard error, got {value} +- {error}")
        if math.isinf(error) and not warnings:
            raise MlFinetuneError(f"observable {name!r} has no finite error: say why in a warning")
        self.base.attributes.set_many(
            {
                "name": name,
                "value": float(value),
                "error": None if math.isinf(error) else float(error),
                "unit": unit,
                "conditions": dict(conditions or {}),
                "method": method,
                "n_independent": None if n_independent is None else float(n_independent),
                "warnings": list(warnings),
                "details": dict(details or {}),
            }
        )
        if arrays:
            buffer = io.BytesIO()
            np.savez(buffer, **{key: np.asarray(arrays[key]) for key in sorted(arrays)})
            self.base.repository.put_object_from_bytes(buffer.getvalue(), self.ARRAYS_FILENAME)

    @property
    def name(self) -> str:
        """Name of the quantity."""
        return self.base.attributes.get("name")

    @property
    def value(self) -> float:
        """Mean, in ``unit``."""
        return self.base.attributes.get("value")

    @property
    def error(self) -> float:
        """Standard error of the mean, in ``unit``; infinite if it could not be determined."""
        error = self.base.attributes.get("error")
        return math.inf if error is None else error

    @property
    def unit(self) -> str:
        """Unit of value and error."""
        return self.base.attributes.get("unit")

    @property
    def conditions(self) -> dict[str, Any]:
        """The thermodynamic state."""
        return self.base.attributes.get("conditions")

    @property
    def method(self) -> str:
        """How the value was obtained."""
        return self.base.attributes.get("method")

    @property
    def n_independent(self) -> float | None:
        """Number of statistically independent samples."""
        return self.base.attributes.get("n_independent")

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before using the value."""
        return self.base.attributes.get("warnings")

    @property
    def details(self) -> dict[str, Any]:
        """Further facts."""
        return self.base.attributes.get("details")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the named arrays of a curve, empty for a scalar."""
        if self.ARRAYS_FILENAME not in self.base.repository.list_object_names():
            return {}
        with self.base.repository.open(self.ARRAYS_FILENAME, "rb") as handle:
            buffer = io.BytesIO(handle.read())
        with np.load(buffer, allow_pickle=False) as arrays:
            return dict(arrays)

    def __str__(self) -> str:
        """Return name, value, error and unit, as printed in a table."""
        if math.isinf(self.error):
            return f"{self.name} = {self.value:.6g} {self.unit} (error unknown)"
        digits = max(0, 1 - math.floor(math.log10(self.error))) if self.error > 0 else 6
        return f"{self.name} = {self.value:.{digits}f} +- {self.error:.{digits}f} {self.unit}"

    def _validate(self) -> bool:
        super()._validate()
        if "name" not in self.base.attributes.all:
            raise MlFinetuneError("an empty observable cannot be stored: make it with ObservableData(name=..., ...)")
        return True
