r"""Errors of models against the number of frames that they were trained on, and what more frames would bring.

A power law :math:`e(n) = a n^{-b}` is fitted to the mean errors :math:`\bar e_i` of each size as a straight line
through :math:`\ln \bar e_i` against :math:`\ln n_i`, each with the variance :math:`s^2 / k_i`.

==========================  ==================================================================  ===============
symbol                      meaning                                                             here
==========================  ==================================================================  ===============
:math:`k_i`                 number of seeds at size :math:`n_i`                                 ``counts``
:math:`s^2`                 variance of :math:`\ln e` over the seeds of a size, pooled          ``scatter**2``
:math:`\chi^2`              squared deviations from the line over the variances, their sum      ``chi_squared``
==========================  ==================================================================  ===============

The covariance of :math:`(\ln a, b)` is that of the least squares, enlarged by :math:`\chi^2` over the degrees of
freedom where that is above one. With one seed everywhere, :math:`s^2` is taken from the deviations themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.datasets.levels import FloatArray, IntArray

FROM_ERRORS = {
    "energy_kJ_mol": "energy_rmse_kJ_mol_per_molecule",
    "energy_meV_per_atom": "energy_rmse_meV_per_atom",
    "energy_percent": "energy_rmse_percent",
    "forces_meV_A": "forces_rmse_meV_A",
    "forces_percent": "forces_rmse_percent",
    "stress_meV_A3": "stress_rmse_meV_A3",
    "stress_percent": "stress_rmse_percent",
}
"""Quantities of a learning curve, and where ``science.metrics.label_errors`` has them."""
BY_ELEMENT = {"meV_A": "rmse_meV_A", "percent": "rmse_percent"}
SPREADS = {
    "energy_kJ_mol": "energy_std_kJ_mol_per_molecule",
    "forces_meV_A": "forces_std_meV_A",
    "stress_meV_A3": "stress_std_meV_A3",
}
UNITS = {
    "kJ_mol": "kJ/mol per molecule",
    "meV_per_atom": "meV/atom",
    "meV_A3": "meV/A^3",
    "meV_A": "meV/A",
    "percent": "% of the standard deviation",
}
MAIN = ("forces_meV_A", "energy_kJ_mol", "energy_meV_per_atom")
"""The quantity that conclusions are about where no target is given: the first that there is."""
MOST_FRAMES = 1e9
"""More frames than this are as good as none at all: the errors do not fall."""
FAR = 4.0
"""An extrapolation to more than so many times the largest set is no more than a hint."""


@dataclass(frozen=True)
class Curve:
    """One quantity of one mode.

    Attributes:
        sizes: (n,) frames of the training sets, ascending.
        values: (n, seeds) root mean square errors; NaN where there is none.
    """

    sizes: IntArray
    values: FloatArray

    @property
    def counts(self) -> IntArray:
        """(n,) number of seeds with a value."""
        counts: IntArray = np.isfinite(self.values).sum(axis=1)
        return counts

    @property
    def mean(self) -> FloatArray:
        """(n,) mean over seeds, NaN without any."""
        total = np.nansum(self.values, axis=1)
        return np.where(self.counts > 0, total / np.maximum(self.counts, 1), np.nan)

    @property
    def error(self) -> FloatArray:
        """(n,) standard error of the mean over seeds, NaN with fewer than two."""
        deviations = np.nansum((self.values - self.mean[:, None]) ** 2, axis=1)
        counts = self.counts
        variance = deviations / np.maximum(counts - 1, 1)
        return np.where(counts > 1, np.sqrt(variance / np.maximum(counts, 1)), np.nan)


@dataclass(frozen=True)
class PowerLaw:
    """``a n**-b``; see the formulas at the top of this module.

    Attributes:
        a: error at one frame, in the unit of the curve.
        b: exponent, positive where errors fall.
        covariance: (2, 2) of (ln a, b); infinite where the data cannot tell.
        chi_squared: of the fit.
        scatter: standard deviation of ln e over the seeds of one size; NaN with one seed everywhere.
        n_points: number of sizes.
    """

    a: float
    b: float
    covariance: FloatArray
    chi_squared: float
    scatter: float
    n_points: int

    @property
    def a_error(self) -> float:
        """Standard error of ``a``."""
        return self.a * math.sqrt(self.covariance[0, 0])

    @property
    def b_error(self) -> float:
        """Standard error of ``b``."""
        return math.sqrt(self.covariance[1, 1])

    def at(self, n: float) -> tuple[float, float]:
        """Return the error expected with ``n`` frames, and its standard error."""
        value = self.a * n**-self.b
        row = np.array([1.0, -math.log(n)])
        return value, value * _root(row, self.covariance)

    def size_for(self, target: float) -> tuple[float, float]:
        """Return how many frames bring the error down to ``target``, and the standard error; infinite if none do."""
        if self.b <= 0:
            return math.inf, math.inf
        log_n = (math.log(self.a) - math.log(target)) / self.b
        if log_n > math.log(MOST_FRAMES):
            return math.inf, math.inf
        n = math.exp(log_n)
        row = np.array([1.0, -log_n]) / self.b
        return n, n * _root(row, self.covariance)

    def to_dict(self) -> dict[str, Any]:
        """Return the law as plain JSON types; what is not known is None."""
        return {
            "a": self.a,
            "a_error": _finite(self.a_error),
            "b": self.b,
            "b_error": _finite(self.b_error),
            "covariance_ln_a_b": _finite(float(self.covariance[0, 1])),
            "chi_squared": _finite(self.chi_squared),
            "n_points": self.n_points,
        }


@dataclass(frozen=True)
class Conclusion:
    """What the curve of a mode says.

    Attributes:
        smallest: smallest set that meets the target, None if none does or there is no target.
        needed: frames that the power law wants for the target, None where it cannot tell.
        largest: largest size that was trained.
        doubled: error expected with twice as many frames, None without a law.
        doubled_error: its standard error, None where it is not known.
        quantity: that ``doubled`` is about.
        sentence: all of it in words.
    """

    smallest: int | None
    needed: float | None
    largest: int
    doubled: float | None
    doubled_error: float | None
    quantity: str
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return the conclusion as plain JSON types."""
        return dict(vars(self))


def flatten_errors(errors: Mapping[str, Any]) -> dict[str, float]:
    """Return the quantities of a learning curve from the errors of one set (``science.metrics.label_errors``)."""
    found = {name: float(errors[key]) for name, key in FROM_ERRORS.items() if key in errors}
    for element, values in (errors.get("forces_by_element") or {}).items():
        found |= {f"forces_{element}_{unit}": float(values[key]) for unit, key in BY_ELEMENT.items() if key in values}
    return found


def flatten_spreads(errors: Mapping[str, Any]) -> dict[str, float]:
    """Return the standard deviations of the reference labels from the errors of one set, by quantity."""
    found = {name: float(errors[key]) for name, key in SPREADS.items() if key in errors}
    for element, values in (errors.get("forces_by_element") or {}).items():
        if "std_meV_A" in values:
            found[f"forces_{element}_meV_A"] = float(values["std_meV_A"])
    return found


def in_percent(errors: Mapping[str, float], spreads: Mapping[str, float]) -> dict[str, float]:
    """Return the errors with those in percent relative to ``spreads``, in place of what they were relative to.

    A model of the difference of two levels is judged like all others by this: its errors are those of the sum.
    """
    absolute = {name: value for name, value in errors.items() if not name.endswith("_percent")}
    relative = {
        f"{_stem(name)}_percent": 100 * absolute[name] / spread
        for name, spread in spreads.items()
        if name in absolute and spread > 0
    }
    return absolute | relative


def _stem(quantity: str) -> str:
    return next(quantity.removesuffix(f"_{ending}") for ending in UNITS if quantity.endswith(ending))


def unit_of(quantity: str) -> str:
    """Return the unit of a quantity by the end of its name."""
    return next(unit for ending, unit in UNITS.items() if quantity.endswith(ending))


def title_of(quantity: str) -> str:
    """Return such as ``force RMSE of O`` for ``forces_O_meV_A``."""
    kind, _, rest = quantity.partition("_")
    element = rest.partition("_")[0] if kind == "forces" and rest[:1].isupper() else ""
    name = {"energy": "energy RMSE", "forces": "force RMSE", "stress": "stress RMSE"}[kind]
    return f"{name} of {element}" if element else name


def target_problem(target: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a target (quantity -> largest error that will do), or None."""
    for name, value in target.items():
        known = name in FROM_ERRORS or (
            name.startswith("forces_") and name.endswith(tuple(BY_ELEMENT)) and name.count("_") >= 2
        )
        if not known:
            return f"unknown quantity {name!r} in 'target': there are {list(FROM_ERRORS)} and forces_<element>_meV_A"
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            return f"the target of {name!r} must be a positive number in {unit_of(name)}, got {value!r}"
    return None


def fit_power_law(sizes: ArrayLike, values: ArrayLike) -> PowerLaw | None:
    """Return the power law through errors (n, seeds) at sizes (n,); None with fewer than two sizes.

    Errors of zero, and sizes without any value, are left out.
    """
    n = np.asarray(sizes, dtype=np.float64)
    e = np.asarray(values, dtype=np.float64).reshape(len(n), -1)
    e = np.where(np.isfinite(e) & (e > 0), e, np.nan)
    counts = np.isfinite(e).sum(axis=1)
    n, e, counts = n[counts > 0], e[counts > 0], counts[counts > 0]
    if len(n) < 2:
        return None
    y = np.log(np.nanmean(e, axis=1))
    x = np.stack([np.ones(len(n)), -np.log(n)], axis=1)
    freedom = int((counts - 1).sum())
    logs = np.log(e)
    within = float(np.nansum((logs - np.nanmean(logs, axis=1, keepdims=True)) ** 2))
    scatter = math.sqrt(within / freedom) if freedom else math.nan
    weights = counts.astype(np.float64)
    inverse = np.linalg.inv(x.T @ (weights[:, None] * x))
    coefficients = inverse @ (x.T @ (weights * y))
    deviations = float((weights * (y - x @ coefficients) ** 2).sum())
    left = len(n) - 2
    from_line = deviations / left if left else math.nan
    variance = np.nanmax([scatter**2, from_line]) if freedom or left else math.inf
    covariance = inverse * variance if math.isfinite(variance) else np.full((2, 2), math.inf)
    return PowerLaw(
        a=float(np.exp(coefficients[0])),
        b=float(coefficients[1]),
        covariance=covariance,
        chi_squared=deviations / scatter**2 if freedom and scatter > 0 else math.nan,
        scatter=scatter,
        n_points=len(n),
    )


def conclude(curves: Mapping[str, Curve], target: Mapping[str, float]) -> Conclusion:
    """Return what the curves of one mode, by quantity, say about a target and about twice as many frames.

    Raises:
        StudyError: a quantity of the target, or every quantity, is missing.
    """
    if missing := [name for name in target if name not in curves]:
        raise StudyError(f"the target names {missing}, but the errors hold {sorted(curves)} only")
    quantity = next(iter(target), next((name for name in MAIN if name in curves), None))
    if quantity is None:
        raise StudyError(f"the errors hold neither energies nor forces: {sorted(curves)}")
    laws = {name: fit_power_law(curves[name].sizes, curves[name].values) for name in {quantity, *target}}
    trained = [int(n) for n, count in zip(curves[quantity].sizes, curves[quantity].counts, strict=True) if count]
    parts = []
    smallest, needed = None, None
    if target:
        smallest = _smallest(curves, target, trained)
        needed = _needed(laws, target)
        parts.append(_target_sentence(curves, laws, target, trained, smallest, needed))
    largest = trained[-1]
    doubled, doubled_error = None, None
    law = laws[quantity]
    if law is not None:
        doubled, raw = law.at(2 * largest)
        doubled_error = _finite(raw)
        parts.append(_doubling_sentence(curves[quantity], quantity, law, largest, doubled, doubled_error))
    else:
        parts.append("One size tells nothing of what more frames would bring.")
    return Conclusion(smallest, needed, largest, doubled, doubled_error, quantity, " ".join(parts))


def _smallest(curves: Mapping[str, Curve], target: Mapping[str, float], trained: Sequence[int]) -> int | None:
    """Return the smallest size that meets all targets, and than which no larger one misses any."""
    found = None
    for size in reversed(trained):
        if not all(_mean_at(curves[name], size)[0] <= limit for name, limit in target.items()):
            break
        found = size
    return found


def _needed(laws: Mapping[str, PowerLaw | None], target: Mapping[str, float]) -> float | None:
    sizes = []
    for name, limit in target.items():
        law = laws[name]
        if law is None or not math.isfinite(law.size_for(limit)[0]):
            return None
        sizes.append(law.size_for(limit)[0])
    return max(sizes)


def _target_sentence(
    curves: Mapping[str, Curve],
    laws: Mapping[str, PowerLaw | None],
    target: Mapping[str, float],
    trained: Sequence[int],
    smallest: int | None,
    needed: float | None,
) -> str:
    wanted = " and ".join(f"{title_of(name)} of at most {limit:g} {unit_of(name)}" for name, limit in target.items())
    if smallest is not None:
        reached = ", ".join(with_error(*_mean_at(curves[name], smallest)) for name in target)
        text = f"{smallest} frames are the smallest set that meets the target, {wanted}: {reached}."
        if smallest == trained[0]:
            text += " No smaller set was tried."
        close = [name for name, limit in target.items() if np.nansum(_mean_at(curves[name], smallest)) > limit]
        return text + (" Within its error it may miss it." if close else "")
    reached = ", ".join(with_error(*_mean_at(curves[name], trained[-1])) for name in target)
    text = f"No set meets the target, {wanted}: {trained[-1]} frames give {reached}."
    if needed is None:
        return f"{text} The errors do not fall in a way that tells how many would."
    if needed <= trained[-1]:
        return f"{text} The power law would meet it with {needed:.0f}: the errors scatter about it."
    limiting = max(target, key=lambda name: laws[name].size_for(target[name])[0])  # type: ignore[union-attr]
    error = laws[limiting].size_for(target[limiting])[1]  # type: ignore[union-attr]
    text += f" The power law meets it with about {rounded(needed, error)} frames"
    if needed > FAR * trained[-1]:
        return f"{text}, {needed / trained[-1]:.0f} times as many as were tried: no more than a hint."
    return f"{text}."


def _doubling_sentence(
    curve: Curve, quantity: str, law: PowerLaw, largest: int, doubled: float, doubled_error: float | None
) -> str:
    now = with_error(*_mean_at(curve, largest))
    then = with_error(doubled, math.nan if doubled_error is None else doubled_error)
    exponent = with_error(law.b, law.b_error)
    text = (
        f"Doubling {largest} frames to {2 * largest} is expected to bring the {title_of(quantity)} from {now} to "
        f"{then} {unit_of(quantity)} (a n^-b with b = {exponent} over {law.n_points} sizes)."
    )
    if math.isfinite(law.b_error) and abs(law.b) < 2 * law.b_error:
        text += " Whether the errors fall at all is within the error of b."
    return text


def with_error(value: float, error: float) -> str:
    """Return a number with two digits of its error, such as ``21.3 +- 1.2``; an unknown error is not made up."""
    if not math.isfinite(error) or error <= 0:
        return f"{value:.3g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} +- {error:.{digits}f}"


def rounded(value: float, error: float) -> str:
    """Return a number of frames with its error, or two digits of it where that is not known."""
    if not math.isfinite(error):
        return f"{float(f'{value:.2g}'):.0f}"
    return f"{value:.0f} +- {error:.0f}"


def _mean_at(curve: Curve, size: int) -> tuple[float, float]:
    place = int(np.flatnonzero(curve.sizes == size)[0])
    return float(curve.mean[place]), float(curve.error[place])


def _root(row: FloatArray, covariance: FloatArray) -> float:
    if not np.isfinite(covariance).all():
        return math.inf
    return math.sqrt(max(0.0, float(row @ covariance @ row)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
