"""Which frames of a run are labelled for reweighting, what is averaged over them, and which of them to train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import FramesError, LabelsError, MoleculesError, StudyError
from aiida_mlfinetune.science.averages.statistics import detect_equilibration
from aiida_mlfinetune.science.conclusions.reweighting import MIN_FRAMES, N_BOOTSTRAP, Weights
from aiida_mlfinetune.science.crystals.molecules import perceive_crystal
from aiida_mlfinetune.science.datasets.formula_units import formula_units
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray, IntArray
from aiida_mlfinetune.science.observables.rdf import frame_distributions
from aiida_mlfinetune.science.observables.trajectory import FramesTrajectory


class TrainBy(str, Enum):
    """How the frames to train on are chosen: by the largest weights, or the largest errors of the run's potential."""

    WEIGHTS = "weights"
    ERRORS = "errors"


@dataclass(frozen=True)
class ReweightingSettings:
    """What is taken from a run, and how it is averaged.

    Attributes:
        n_frames: frames to label, uniformly spaced and ending with the last one.
        stride: frames of the trajectory from one labelled frame to the next; instead of ``n_frames``.
        equilibration: fraction of the trajectory, from the start, that is left out; detected if not given.
        n_bootstrap: resampled sets of frames behind each error.
        seed: of the bootstrap.
        n_train: frames that are returned to train on.
        train_by: see ``TrainBy``.
        n_bins: bins of the distributions of energy and density.
        rdf_pairs: pairs of elements whose radial distribution functions are averaged too, such as ``[["O", "O"]]``.
        rdf_r_max: how far, in angstrom; at most 1.5 times the distance between opposite faces of the cell.
        rdf_n_bins: of equal width, from 0 to ``rdf_r_max``.
    """

    n_frames: int | None = None
    stride: int | None = None
    equilibration: float | None = None
    n_bootstrap: int = N_BOOTSTRAP
    seed: int = 1
    n_train: int = 10
    train_by: TrainBy = TrainBy.ERRORS
    n_bins: int = 20
    rdf_pairs: tuple[tuple[str, str], ...] = ()
    rdf_r_max: float | None = None
    rdf_n_bins: int = 100

    def __post_init__(self) -> None:
        """Check every value; the message names the offender and the remedy."""
        if (self.n_frames is None) == (self.stride is None):
            raise StudyError("the frames to reweight are given by 'n_frames' or by 'stride': give one of them")
        least = {
            "n_frames": MIN_FRAMES,
            "stride": 1,
            "n_bootstrap": 50,
            "seed": 0,
            "n_train": 1,
            "n_bins": 2,
            "rdf_n_bins": 2,
        }
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is None and name in {"n_frames", "stride"}:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise StudyError(f"{name} is {value!r}, but must be an integer of at least {lowest}")
        fraction = self.equilibration
        if fraction is not None and (
            isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction < 1
        ):
            raise StudyError(f"equilibration is {fraction!r}, but must be a fraction, at least 0 and less than 1")
        try:
            object.__setattr__(self, "train_by", TrainBy(self.train_by))
        except ValueError:
            raise StudyError(
                f"train_by is {self.train_by!r}: choose from {[choice.value for choice in TrainBy]}"
            ) from None
        self._check_pairs()

    def _check_pairs(self) -> None:
        pairs = [tuple(pair) for pair in self.rdf_pairs]
        for pair in pairs:
            if len(pair) != 2 or not all(name in atomic_numbers for name in pair):
                raise StudyError(f"rdf_pairs has {pair!r}, but a pair is two elements, such as ['O', 'H']")
        radius = self.rdf_r_max
        if (radius is None) != (not pairs):
            raise StudyError("radial distribution functions need both 'rdf_pairs' and 'rdf_r_max': give both or none")
        if radius is not None and (isinstance(radius, bool) or not isinstance(radius, (int, float)) or not radius > 0):
            raise StudyError(f"rdf_r_max is {radius!r}, but must be a positive number of angstrom")
        object.__setattr__(self, "rdf_pairs", tuple(pairs))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReweightingSettings:
        """Build the settings from plain JSON types.

        Raises:
            StudyError: an unknown name, or a bad value.
        """
        known = list(cls.__dataclass_fields__)
        if unknown := sorted(set(values) - set(known)):
            raise StudyError(f"unknown entries {unknown} in the settings of a reweighting: known are {known}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        pairs = [list(pair) for pair in self.rdf_pairs]
        return {**asdict(self), "train_by": self.train_by.value, "rdf_pairs": pairs}


@dataclass(frozen=True)
class SampledState:
    """The state that a run sampled.

    Attributes:
        temperature_K: of the thermostat.
        ensemble: see ``Ensemble``.
        pressure_bar: of the barostat, if there is one.
    """

    temperature_K: float  # noqa: N815 - the unit
    ensemble: Ensemble
    pressure_bar: float | None = None

    @classmethod
    def from_parameters(cls, values: Mapping[str, Any]) -> SampledState:
        """Take the state from the parameters of a run, other entries of which are not read.

        Raises:
            StudyError: no temperature or ensemble, one that is no canonical one, or a path integral: the weights of
                this module are those of classical nuclei at constant temperature.
        """
        if missing := [name for name in ("temperature_K", "ensemble") if name not in values]:
            raise StudyError(f"the conditions lack {missing}: pass the parameters of the run")
        ensemble, temperature = Ensemble(values["ensemble"]), float(values["temperature_K"])
        if ensemble is Ensemble.NVE:
            raise StudyError("a run in 'nve' has no temperature to reweight at: run it in 'nvt' or with a barostat")
        if int(values.get("n_beads", 1)) != 1:
            raise StudyError(
                f"the run has {values['n_beads']} beads, but the weights are those of classical nuclei: give a "
                "classical run"
            )
        if not temperature > 0:
            raise StudyError(f"temperature_K is {temperature}, but must be positive")
        pressure = float(values.get("pressure_bar", 0.0)) if ensemble.has_barostat else None
        return cls(temperature, ensemble, pressure)

    def difference(self, other: SampledState) -> str | None:
        """Return in words how another state differs from this one, None if it does not."""
        for name, unit in (("temperature_K", "K"), ("pressure_bar", "bar")):
            own, asked = getattr(self, name), getattr(other, name)
            if own is not None and asked is not None and abs(own - asked) > 1e-6 * max(1.0, abs(own)):
                return f"{name.split('_')[0]} {own:g} {unit}, not at {asked:g} {unit}"
        if self.ensemble is not other.ensemble:
            return f"ensemble {self.ensemble.value!r}, not in {other.ensemble.value!r}"
        return None


@dataclass(frozen=True)
class Units:
    """The molecules (or formula units) that energies are given by: their formula, and how many a frame has."""

    formula: str
    count: int


def frames_to_label(energies: FloatArray, settings: ReweightingSettings) -> IntArray:
    """Return the indices, ascending and evenly spaced, of the frames of a run that are to be labelled.

    Args:
        energies: (n,) energies of the run, by which its equilibration is detected where it is not given.
        settings: of the reweighting.

    Raises:
        FramesError: the trajectory has fewer frames than are wanted, or the stride leaves fewer than ten.
    """
    n = len(energies)
    if settings.equilibration is None:
        first = detect_equilibration(energies)
    else:
        first = int(np.ceil(settings.equilibration * n - 1e-9))
    available = n - first
    where = f"of {n} frames {available} come after the equilibration"
    if settings.n_frames is not None:
        if settings.n_frames > available:
            raise FramesError(
                f"{settings.n_frames} frames are wanted, but {where}: run longer, print more often, or take fewer"
            )
        steps = np.arange(1, settings.n_frames + 1, dtype=np.int64)
        return np.asarray(first + steps * available // settings.n_frames - 1, dtype=np.int64)
    indices = np.arange(n - 1, first - 1, -int(settings.stride or 1), dtype=np.int64)[::-1]
    if len(indices) < MIN_FRAMES:
        raise FramesError(
            f"a stride of {settings.stride} leaves {len(indices)} frames, as {where}; at least {MIN_FRAMES} are "
            "needed: take a smaller stride, or run longer"
        )
    return np.asarray(indices)


def planned_frames(n_frames: int, settings: ReweightingSettings) -> int:
    """Return how many frames at most are labelled of a run that will print ``n_frames``: equilibration is found later.

    Raises:
        FramesError: as ``frames_to_label`` does, for the run as a whole.
    """
    first = settings.equilibration or 0.0
    return len(frames_to_label(np.zeros(n_frames), replace(settings, equilibration=first)))


def check_pairs(frames: Frames, settings: ReweightingSettings) -> None:
    """Check that the radial distribution functions that are asked for can be made of the frames of a run.

    Raises:
        FramesError: elements that are absent, no cell, or one too small for ``rdf_r_max``.
    """
    if settings.rdf_pairs:
        frame_distributions(FramesTrajectory(frames.select([0])), settings.rdf_pairs, settings.rdf_r_max or 0.0, 2)


def check_run_frames(frames: Frames, level: str) -> None:
    """Check that frames can be those of one run with the energies of its potential at ``level``.

    Raises:
        FramesError: frames of several compositions.
        LabelsError: no such level, or frames without its energy.
    """
    labels = frames.labels(level)
    if not labels.has_energy.all():
        raise LabelsError(
            f"{int((~labels.has_energy).sum())} of {len(frames)} frames have no energy at {level!r}, the potential of "
            "the run: leave them out"
        )
    if len(formulas := sorted(set(frames.formulas))) > 1:
        raise FramesError(f"the frames are not those of one run: they are made of {formulas}")


def units_of(frames: Frames) -> Units:
    """Return the molecules of a run's frames: one without a cell; formula units where a crystal has no molecules."""
    if not frames.pbc[0].all():
        return Units(frames.formulas[0], 1)
    try:
        molecules = perceive_crystal(frames.atoms(0))
    except MoleculesError:
        units = formula_units(frames.select([0]))
        return Units(units.names[0], int(units.counts[0]))
    return Units(molecules.formula, molecules.n_molecules)


def frame_errors(frames: Frames, sampled_level: str, reference_level: str) -> FloatArray:
    """Return how wrong the potential of a run is on each frame (n,), relative to the root mean square over all.

    That is the root mean square of the force errors, or, where forces are missing at one level, the distance of
    U_ref - U from its mean.
    """
    sampled, reference = frames.labels(sampled_level), frames.labels(reference_level)
    if (sampled.has_forces & reference.has_forces).all():
        squares = ((sampled.forces - reference.forces) ** 2).sum(axis=1)
        errors = np.sqrt(np.add.reduceat(squares, frames.offsets[:-1]) / (3 * frames.n_atoms))
    else:
        difference = reference.energy - sampled.energy
        errors = np.abs(difference - difference.mean())
    scale = float(np.sqrt((errors**2).mean()))
    return np.asarray(errors / scale if scale > 0 else errors)


def frames_to_train_on(weights: Weights, errors: FloatArray, n_train: int, train_by: TrainBy) -> IntArray:
    """Return the indices, in order of time, of the ``n_train`` frames with the largest weights or errors (n,)."""
    measure = weights.weights if train_by is TrainBy.WEIGHTS else errors
    return np.asarray(np.sort(np.argsort(-measure, kind="stable")[:n_train]), dtype=np.int64)


def indicators(values: FloatArray, n_bins: int) -> tuple[FloatArray, FloatArray]:
    """Return the edges (n_bins + 1,) of a histogram of values (n,), and what each frame adds to it (n, n_bins).

    The mean of the latter over the frames, weighted or not, is the distribution, in one over the unit of the values.
    """
    edges = np.histogram_bin_edges(values, bins=n_bins)
    own = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, n_bins - 1)
    return np.asarray(edges), np.asarray((own[:, None] == np.arange(n_bins)) / np.diff(edges))
