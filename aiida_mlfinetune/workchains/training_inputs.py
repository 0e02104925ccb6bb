"""Checks of the inputs of ``mlfinetune.training``: what its jobs will get must be trainable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida_mlfinetune.calculations.functions.training import labelling_head
from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.checks import check_elements
from aiida_mlfinetune.science.datasets.comparison import subtract_levels as subtract
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.splits import SETS, SplitSizes, split_frames
from aiida_mlfinetune.science.training.checks import check_training, inputs_problem
from aiida_mlfinetune.science.training.heads import pseudolabelled


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check that the sets are given in one way, and that they can be trained on."""
    sets = [name for name in SETS if name in inputs]
    if "dataset" in inputs and sets:
        return f"give either 'dataset' and 'split', or the sets themselves: both 'dataset' and {sets} are there"
    if "dataset" in inputs and "split" not in inputs:
        return "the input 'split' is missing: how to split 'dataset'"
    if sets and not {"train", "valid"} <= set(sets):
        return f"the sets 'train' and 'valid' are both needed, got {sets}"
    if any(name not in inputs for name in ("level", "parameters", "e0s")):
        return None
    parameters, e0s, level = inputs["parameters"].get_dict(), inputs["e0s"].get_dict(), inputs["level"].value
    heads = inputs["heads"].get_dict() if "heads" in inputs else None
    if (problem := inputs_problem(parameters, e0s, heads, level)) is not None:
        return problem
    given = {name: inputs[name] for name in ("foundation", "replay", "baseline") if name in inputs}
    try:
        if "dataset" in inputs:
            frames = split_sets(inputs["dataset"], SplitSizes.from_dict(inputs["split"].get_dict()))
        elif sets:
            frames = {name: inputs[name].frames for name in sets}
        else:
            return None
        check_sets(frames, level, parameters, e0s, heads, given)
    except MlFinetuneError as error:
        return str(error)
    return None


def split_sets(dataset: DatasetData, sizes: SplitSizes) -> dict[str, Frames]:
    """Return the sets that ``split`` will make.

    Raises:
        MlFinetuneError: they cannot be made.
    """
    sets = {name: dataset.frames.select(chosen) for name, chosen in split_frames(dataset.frames, sizes).items()}
    if not len(sets["valid"]):
        raise StudyError("the validation set is empty: give 'valid' a size in 'split'")
    return {name: frames for name, frames in sets.items() if len(frames)}


def check_sets(
    sets: Mapping[str, Frames],
    level: str,
    parameters: Mapping[str, Any],
    e0s: Mapping[str, Any],
    heads: Mapping[str, str] | None,
    given: Mapping[str, Any],
) -> None:
    """Check a training on the sets that it will get; those labels that are still to be made are taken as given.

    Raises:
        MlFinetuneError: it cannot be done.
    """
    foundation = given["foundation"].passport if "foundation" in given else None
    replay = given["replay"].frames if "replay" in given else None
    if replay is not None and foundation is not None and "replay_level" not in parameters:
        check_elements(replay.elements, foundation.elements, "the foundation")
        replay = pseudolabelled(replay, foundation)
    exact = True
    if parameters["mode"] == TrainingMode.DELTA.value:
        sets, level, exact = _difference_sets(sets, level, parameters, given.get("baseline"))
    elif "baseline" in given:
        raise StudyError(f"the input 'baseline' has no effect in mode {parameters['mode']!r}: use mode 'delta'")
    check_training(
        sets["train"],
        sets["valid"],
        sets.get("test"),
        level,
        parameters,
        e0s,
        foundation,
        heads,
        replay,
        exact_energies=exact,
    )


def _difference_sets(
    sets: Mapping[str, Frames], level: str, parameters: Mapping[str, Any], baseline: MaceModelData | None
) -> tuple[Mapping[str, Frames], str, bool]:
    """Return sets, level, and whether the energies are those of the difference that will be trained on."""
    if (baseline is None) == ("baseline_level" not in parameters):
        raise StudyError(
            "mode 'delta' needs either the input 'baseline', a model, or the parameter 'baseline_level', a level that "
            "the dataset has; got " + ("neither" if baseline is None else "both")
        )
    if baseline is None:
        if "baseline_head" in parameters:
            raise StudyError("'baseline_head' has no effect without the input 'baseline': remove it")
        subtracted = {name: subtract(frames, level, parameters["baseline_level"]) for name, frames in sets.items()}
        (key,) = subtracted["train"].labels_by_level
        return subtracted, key, True
    check_elements(sorted({e for frames in sets.values() for e in frames.elements}), baseline.elements, "the baseline")
    labelling_head(dict(parameters), baseline)
    if baseline.passport.settings.get("baseline"):
        raise StudyError(
            f"the baseline {baseline.sha256[:8]} is itself a difference to another model: take one that predicts whole "
            "energies"
        )
    return sets, level, False
