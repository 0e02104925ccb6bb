"""Checks on the inputs of ``mlfinetune.reweighting``: the levels, the state that the run sampled, and its frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm

from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.conclusions.reweighting_frames import (
    ReweightingSettings,
    SampledState,
    check_pairs,
    check_run_frames,
    frames_to_label,
)


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check what concerns several inputs at once; what is not there yet is not checked."""
    if "trajectory" not in inputs or "settings" not in inputs:
        return None
    try:
        sampled = sampled_level(inputs)
        reference_level(inputs)
        own_conditions(inputs)
        frames = inputs["trajectory"].frames
        check_run_frames(frames, sampled)
        settings = ReweightingSettings.from_dict(inputs["settings"].get_dict())
        frames_to_label(frames.labels(sampled).energy, settings)
        check_pairs(frames, settings)
    except MlFinetuneError as error:
        return str(error)
    return None


def reference_level(inputs: Mapping[str, Any]) -> str:
    """Return the key of the reference level: that which the labelling makes, or one that the frames have.

    Raises:
        StudyError: neither is given, or both and they differ, or frames lack the level that is not made.
    """
    level = inputs.get("labelling", {}).get("level")
    made = None if level is None else level.get_dict()["key"]
    named = inputs["reference_level"].value if "reference_level" in inputs else None
    if made is None and named is None:
        raise StudyError("the reference is missing: give the inputs of `labelling`, or a `reference_level`")
    if made is not None and named is not None and made != named:
        raise StudyError(f"the labelling makes the level {made!r}, but `reference_level` is {named!r}: leave it out")
    if made is None and named not in (levels := inputs["trajectory"].levels):
        raise StudyError(
            f"the trajectory has no labels at {named!r}, but at {sorted(levels)}: give the inputs of `labelling`"
        )
    return str(made or named)


def sampled_level(inputs: Mapping[str, Any]) -> str:
    """Return the key of the run's potential: the one given, or the only level of the trajectory but the reference.

    Raises:
        StudyError: none, or several to choose from, or the reference itself.
    """
    reference = reference_level(inputs)
    if "sampled_level" in inputs:
        key = str(inputs["sampled_level"].value)
        if key == reference:
            raise StudyError(f"run and reference are both at level {key!r}: there is nothing to reweight")
        return key
    others = [key for key in inputs["trajectory"].levels if key != reference]
    if len(others) != 1:
        raise StudyError(
            f"the potential of the run is not clear: beside the reference {reference!r} the trajectory has labels at "
            f"{sorted(others)}; name it by the input `sampled_level`"
        )
    return others[0]


def own_conditions(inputs: Mapping[str, Any]) -> orm.Dict:
    """Return the parameters of the run, as given or as the jobs that made the trajectory had them.

    Raises:
        StudyError: none known; a state that cannot be reweighted; one given that is not that of the run.
    """
    found = run_parameters(inputs["trajectory"])
    given = inputs.get("conditions")
    if given is None:
        if not found:
            raise StudyError(
                "the conditions of the run are unknown, as no job that made the trajectory is in this database: give "
                "its parameters as the input `conditions`"
            )
        given = found[0]
    state = SampledState.from_parameters(given.get_dict())
    for parameters in found:
        if difference := SampledState.from_parameters(parameters.get_dict()).difference(state):
            raise StudyError(
                f"the run was made at {difference}: a run is reweighted to another potential, not to another state"
            )
    return given


def run_parameters(trajectory: DatasetData) -> list[orm.Dict]:
    """Return the parameters of the jobs that made the frames, as far as they are in this database."""
    found = [node.inputs.parameters for node in _jobs_of(trajectory) if "parameters" in node.inputs]
    return [parameters for parameters in found if "temperature_K" in parameters.get_dict()]


def run_structures(trajectory: DatasetData) -> list[orm.StructureData]:
    """Return where the jobs started that made the frames, as far as they are in this database."""
    return [node.inputs.structure for node in _jobs_of(trajectory) if "structure" in node.inputs]


def _jobs_of(trajectory: DatasetData) -> list[orm.CalcJobNode]:
    query = orm.QueryBuilder().append(
        orm.CalcJobNode, filters={"uuid": {"in": trajectory.frame_sources or [""]}}, project="*"
    )
    return sorted(query.all(flat=True), key=lambda node: trajectory.frame_sources.index(node.uuid))
