"""Checks on runs that a work chain makes itself, with models that are trained later: what is known before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common.log import AIIDA_LOGGER
from ase import Atoms

from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.conclusions.reweighting_frames import (
    ReweightingSettings,
    SampledState,
    check_pairs,
    planned_frames,
)
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.training.heads import loss_targets


def comparison_problem(runs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return why runs of crystal and gas cannot be compared, or None: one temperature, and as many beads.

    Args:
        runs: their parameters by phase.
    """
    for name, default in (("temperature_K", None), ("n_beads", 1)):
        values = {phase: run.get(name, default) for phase, run in runs.items()}
        if len(set(values.values())) > 1:
            return f"crystal and gas must be run at one {name} to be compared, got {values}"
    return None


def reweighting_problem(
    parameters: Mapping[str, Any], settings: Mapping[str, Any], atoms: Atoms | None = None
) -> str | None:
    """Return why a run will not be reweighted, or None: its state, its number of frames, and what is asked of them.

    Args:
        parameters: of the run.
        settings: of the reweighting.
        atoms: where the run starts.
    """
    chosen = ReweightingSettings.from_dict(settings)
    try:
        SampledState.from_parameters(parameters)
        planned_frames(int(parameters["n_steps"]) // int(parameters.get("stride", 1)) + 1, chosen)
        if atoms is not None:
            check_pairs(Frames.from_atoms([atoms]), chosen)
    except MlFinetuneError as error:
        return str(error)
    return None


def stress_warning(trainings: Mapping[str, Mapping[str, Any]], parameters: Mapping[str, Any]) -> str | None:
    """Return which trainings leave out the stress that a run's barostat moves the cell by, or None.

    Args:
        trainings: parameters of each.
        parameters: of the run of the crystal.
    """
    ensemble = parameters.get("ensemble")
    if ensemble is None or not Ensemble(ensemble).has_barostat:
        return None
    without = sorted(name for name, one in trainings.items() if not loss_targets(one).stress)
    if not without:
        return None
    told = " and ".join(without)
    return f"{told}: the loss leaves out the stress, by which {Ensemble(ensemble).value} moves the cell"


def warn_of_stress(trainings: Mapping[str, Mapping[str, Any]], parameters: orm.Dict) -> None:
    """Log what ``stress_warning`` says, when a builder is made."""
    if warning := stress_warning(trainings, parameters.get_dict()):
        AIIDA_LOGGER.warning(warning)


def stress_problem(trainings: Mapping[str, Mapping[str, Any]], parameters: Mapping[str, Any]) -> str | None:
    """Return what ``stress_warning`` does where the run requires stress, with the remedy."""
    problem = stress_warning(trainings, parameters) if parameters.get("require_stress") else None
    return None if problem is None else f"{problem}: train on stress, run NVT, or drop require_stress"


def parameters_of(nodes: Mapping[str, Any], phase: str) -> dict[str, Any] | None:
    """Return the parameters of the run of ``crystal`` or ``gas`` in the inputs of a work chain, None without them."""
    node = nodes.get(f"dynamics_{phase}", {}).get("parameters")
    return node.get_dict() if isinstance(node, orm.Dict) else None


def trainings_of(inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameters of the trainings of a learning curve in the inputs of a work chain, by mode."""
    modes = dict(inputs.get("learning_curve", {}).get("modes") or {})
    return {name: one["parameters"].get_dict() for name, one in modes.items()}
