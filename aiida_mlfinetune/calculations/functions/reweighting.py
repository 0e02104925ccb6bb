"""From the frames of a run, labelled at a reference level, to averages at that level, as calcfunctions.

``conditions`` are the parameters of the run; ``settings`` are those of ``science.reweighting_frames``;
``sampled_level`` and ``reference_level`` are the keys of the run's potential and of the reference in the dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from numpy.typing import NDArray

from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.averages.thermodynamics import crystal_enthalpy, density, gas_enthalpy
from aiida_mlfinetune.science.conclusions import reweighting as science
from aiida_mlfinetune.science.conclusions.reweighting_frames import (
    ReweightingSettings,
    SampledState,
    Units,
    check_run_frames,
    frame_errors,
    frames_to_label,
    frames_to_train_on,
    indicators,
    units_of,
)
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.observables.rdf import frame_distributions
from aiida_mlfinetune.science.observables.trajectory import FramesTrajectory

RDF = "rdf_"
"""What the names of radial distribution functions start with."""
METHOD = "frames of a run with another potential, exponential weights; error by block bootstrap"


@calcfunction
def strided_frames(trajectory: DatasetData, sampled_level: orm.Str, settings: orm.Dict) -> DatasetData:
    """Return the frames of a run that are to be labelled, as a view."""
    check_run_frames(trajectory.frames, sampled_level.value)
    energies = trajectory.frames.labels(sampled_level.value).energy
    return DatasetData.subset(trajectory, frames_to_label(energies, ReweightingSettings.from_dict(settings.get_dict())))


@calcfunction
def reweighted_observables(
    dataset: DatasetData, sampled_level: orm.Str, reference_level: orm.Str, conditions: orm.Dict, settings: orm.Dict
) -> dict[str, orm.Data]:
    """Return energy, enthalpy and density at the reference level, the verdict, and the frames to train on.

    Returns ``potential_energy`` and ``enthalpy`` (kJ/mol of molecules), ``density`` (g/cm^3, of crystals), each with
    raw, reweighted and cumulant averages and their distributions; ``rdf_<element>_<element>`` for each pair of the
    settings; ``verdict`` (Dict); ``to_train`` (a view of ``dataset``).
    """
    run = _Run.of(dataset, sampled_level, reference_level, conditions, settings)
    frames, chosen = run.frames, run.settings
    units = units_of(frames)
    factor = EV_KJMOL / units.count
    details = {"formula": units.formula, "n_molecules": units.count}
    outputs: dict[str, orm.Data] = {
        "potential_energy": run.observable(
            "potential_energy", run.sampled * factor, "kJ/mol", details, run.reference * factor
        )
    }
    outputs["enthalpy"] = run.enthalpy(units)
    if frames.pbc.all():
        series = density(float(frames.masses[0]), frames.volumes)
        outputs["density"] = run.observable("density", series, "g/cm^3", details)
    outputs |= run.radial_distributions()
    errors = frame_errors(frames, sampled_level.value, reference_level.value)
    indices = frames_to_train_on(run.weights, errors, min(chosen.n_train, len(frames)), chosen.train_by)
    outputs["to_train"] = DatasetData.subset(dataset, indices)
    outputs["verdict"] = orm.Dict(
        {
            **run.verdict(),
            "mean_difference_kJmol": run.weights.mean_difference * factor,
            "observables": {
                name: value.details["verdict"] for name, value in outputs.items() if isinstance(value, ObservableData)
            },
            "to_train": {"by": chosen.train_by.value, "indices": indices.tolist()},
        }
    )
    return outputs


@calcfunction
def reweighted_series(
    dataset: DatasetData,
    sampled_level: orm.Str,
    reference_level: orm.Str,
    conditions: orm.Dict,
    settings: orm.Dict,
    series: orm.ArrayData,
    unit: orm.Str,
) -> dict[str, ObservableData]:
    """Return any observables at the reference level: the arrays of ``series``, (n, ...) for n frames of ``dataset``.

    A number for each frame gives an observable with that value; an array for each frame, as a distribution function,
    gives its curves as the arrays ``raw``, ``reweighted``, ``cumulant`` with ``*_error``, and their mean as the value.
    """
    run = _Run.of(dataset, sampled_level, reference_level, conditions, settings)
    return {
        name: run.observable(name, np.asarray(series.get_array(name)), unit.value, {})
        for name in sorted(series.get_arraynames())
    }


@calcfunction
def reweighted_distributions(
    dataset: DatasetData, verdict: orm.Dict, conditions: orm.Dict, settings: orm.Dict, distributions: orm.Dict
) -> dict[str, ObservableData]:
    """Return radial distribution functions at the reference level by pair, such as ``O_H``.

    ``verdict`` is that of the frames (``reweighted_observables``) and names the levels; ``distributions`` holds
    ``pairs``, ``r_max_A`` and ``n_bins`` as ``observables.radial_distribution`` takes them.

    Raises:
        FramesError: elements that are absent, no cell, or one too small for ``r_max_A``.
    """
    asked, levels = distributions.get_dict(), verdict.get_dict()
    wanted = {"rdf_pairs": asked["pairs"], "rdf_r_max": asked["r_max_A"]}
    wanted |= {"rdf_n_bins": asked["n_bins"]} if "n_bins" in asked else {}
    run = _Run(
        dataset.frames,
        (levels["sampled_level"], levels["reference_level"]),
        SampledState.from_parameters(conditions.get_dict()),
        ReweightingSettings.from_dict({**settings.get_dict(), **wanted}),
    )
    return {name.removeprefix(RDF): node for name, node in run.radial_distributions().items()}


class _Run:
    """The frames of a run with their weights, and what is made of them."""

    def __init__(self, frames: Frames, keys: tuple[str, str], state: SampledState, settings: ReweightingSettings):
        check_run_frames(frames, keys[0])
        self.frames, self.keys, self.state, self.settings = frames, keys, state, settings
        self.sampled, self.reference = (frames.labels(key).energy for key in keys)
        self.weights = science.reweighting_weights(self.sampled, self.reference, state.temperature_K)

    @classmethod
    def of(
        cls,
        dataset: DatasetData,
        sampled_level: orm.Str,
        reference_level: orm.Str,
        conditions: orm.Dict,
        settings: orm.Dict,
    ) -> _Run:
        """Read the nodes that all functions of this module take."""
        state = SampledState.from_parameters(conditions.get_dict())
        chosen = ReweightingSettings.from_dict(settings.get_dict())
        return cls(dataset.frames, (sampled_level.value, reference_level.value), state, chosen)

    def verdict(self) -> dict[str, Any]:
        """Return what the weights say, as plain JSON types, with the thresholds that it was judged by."""
        weights = self.weights
        return {
            "reliable": weights.reliable,
            "reasons": list(weights.reasons),
            "n_frames": len(self.frames),
            "n_effective": weights.n_effective,
            "n_independent": weights.n_independent,
            "inefficiency": weights.inefficiency,
            "largest_share": weights.largest_share,
            "overlap": weights.overlap,
            "spread_kT": weights.spread,
            "thresholds": {
                "n_independent": science.MIN_EFFECTIVE,
                "largest_share": science.MAX_SHARE,
                "overlap": science.MIN_OVERLAP,
            },
            "temperature_K": self.state.temperature_K,
            "sampled_level": self.keys[0],
            "reference_level": self.keys[1],
        }

    def observable(
        self,
        name: str,
        values: NDArray[Any],
        unit: str,
        details: dict[str, Any],
        reference_values: NDArray[Any] | None = None,
        more: Mapping[str, NDArray[Any]] | None = None,
    ) -> ObservableData:
        """Return the reweighted average of one observable (n, ...) with all that it was made of."""
        result = self._reweight(values, reference_values)
        names = ("raw", "reweighted", "cumulant", "shift", "cumulant_shift")
        averages = {key: getattr(result, key) for key in names}
        arrays = {
            "frame": values,
            "weights": self.weights.weights,
            "difference_kT": self.weights.difference,
            "step": self.frames.steps,
            **(more or {}),
        }
        if reference_values is not None:
            arrays["frame_reference"] = reference_values
        numbers: dict[str, Any] = {}
        if result.raw.value.ndim == 0:
            numbers = {key: {"value": float(one.value), "error": float(one.error)} for key, one in averages.items()}
            numbers["shift_sigma"] = float(result.shift_sigma)
            numbers["cumulant_sigma"] = float(result.cumulant_sigma)
            arrays |= self._distribution(values if reference_values is None else reference_values)
            value, error = float(result.reweighted.value), float(result.reweighted.error)
        else:
            for key, one in averages.items():
                arrays[key], arrays[f"{key}_error"] = one.value, one.error
            whole = self._reweight(values.reshape(len(values), -1).mean(axis=1), None)
            value, error = float(whole.reweighted.value), float(whole.reweighted.error)
        conditions: dict[str, Any] = {
            "temperature_K": self.state.temperature_K,
            "ensemble": self.state.ensemble.value,
            "n_beads": 1,
            "sampled_level": self.keys[0],
            "level": self.keys[1],
        }
        if self.state.pressure_bar is not None:
            conditions["pressure_bar"] = self.state.pressure_bar
        return ObservableData(
            name=name,
            value=value,
            error=error,
            unit=unit,
            conditions=conditions,
            method=METHOD,
            n_independent=self.weights.n_independent,
            warnings=[] if self.weights.reliable else [result.verdict],
            arrays=arrays,
            details={
                **details,
                **numbers,
                "n_frames": len(self.frames),
                "n_effective": self.weights.n_effective,
                "spread_kT": self.weights.spread,
                "reliable": self.weights.reliable,
                "verdict": result.verdict,
                "block_length": result.block_length,
            },
        )

    def enthalpy(self, units: Units) -> ObservableData:
        """Return the enthalpy in kJ/mol of molecules: of the crystal, or of the ideal gas for frames without a cell."""
        frames, temperature = self.frames, self.state.temperature_K
        n_atoms = int(frames.n_atoms[0])
        periodic, pressure = bool(frames.pbc.all()), self.state.pressure_bar or 0.0

        def series(energies: NDArray[np.float64]) -> NDArray[np.float64]:
            if not periodic:
                return EV_KJMOL * gas_enthalpy(energies, n_atoms, temperature)
            return EV_KJMOL * crystal_enthalpy(energies, frames.volumes, n_atoms, units.count, temperature, pressure)

        name = "enthalpy_crystal" if periodic else "enthalpy_gas"
        details = {"formula": units.formula, "n_molecules": units.count}
        return self.observable(name, series(self.sampled), "kJ/mol", details, series(self.reference))

    def radial_distributions(self) -> dict[str, ObservableData]:
        """Return the radial distribution function of each pair of the settings, by ``rdf_<element>_<element>``."""
        pairs, r_max = self.settings.rdf_pairs, self.settings.rdf_r_max
        if not pairs or r_max is None:
            return {}
        trajectory = FramesTrajectory(self.frames, equally_spaced=False)
        r, curves = frame_distributions(trajectory, pairs, r_max, self.settings.rdf_n_bins)
        return {
            f"{RDF}{'_'.join(pair)}": self.observable(
                "radial_distribution", own, "", {"pair": list(pair)}, more={"r_A": r}
            )
            for pair, own in zip(pairs, curves, strict=True)
        }

    def _reweight(self, values: NDArray[Any], reference_values: NDArray[Any] | None) -> science.Reweighted:
        return science.reweight(
            values,
            self.weights,
            reference_values,
            n_bootstrap=self.settings.n_bootstrap,
            seed=self.settings.seed,
        )

    def _distribution(self, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the distribution of an observable in the run and at the reference level, with errors."""
        if not np.ptp(values) > 0:
            return {}
        edges, shares = indicators(np.asarray(values, dtype=np.float64), self.settings.n_bins)
        result = self._reweight(shares, None)
        return {
            "bin_edges": edges,
            "raw_distribution": result.raw.value,
            "raw_distribution_error": result.raw.error,
            "reweighted_distribution": result.reweighted.value,
            "reweighted_distribution_error": result.reweighted.error,
        }
