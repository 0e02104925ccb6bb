"""Checks of a training's inputs, and MACE's input made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ase.data import atomic_numbers

from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import LabelsError, MlFinetuneError, ModelError
from aiida_mlfinetune.science.atomic_energies import estimate_atomic_energies, isolated_atom_energies
from aiida_mlfinetune.science.checks import check_disjoint, check_elements
from aiida_mlfinetune.science.frames import Frames
from aiida_mlfinetune.science.mace_arguments import ARGUMENTS, DEFAULTS, LOSSES_WITH_STRESS, argument_problem
from aiida_mlfinetune.science.passport import Passport

OWN_PARAMETERS = ("mode", "foundation_head", "molecule")
E0_SOURCES = ("given", "foundation", "estimated", "isolated")
HEAD = "Default"
"""Name of the head of a model trained on one level."""
NAME = "mace"


def parameters_problem(parameters: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the parameters of a training by themselves, or None.

    Refused are unknown names, wrong types and values, and settings that MACE would silently ignore.
    """
    modes = [mode.value for mode in TrainingMode]
    if parameters.get("mode") not in modes:
        return f"'mode' must be one of {modes}, got {parameters.get('mode')!r}"
    if "seed" not in parameters:
        return "'seed' is missing: give a whole number, which fixes the weights and the order of the frames"
    for name, value in parameters.items():
        if name in OWN_PARAMETERS:
            if not isinstance(value, str):
                return f"{name!r} must be a string, got {value!r}"
        elif (problem := argument_problem(name, value, OWN_PARAMETERS)) is not None:
            return problem
    return _ignored_problem(parameters)


def _ignored_problem(parameters: Mapping[str, Any]) -> str | None:
    settings = {**DEFAULTS, **parameters}
    naive = parameters["mode"] == TrainingMode.NAIVE.value
    for name in parameters:
        argument = ARGUMENTS.get(name)
        if argument is None:
            continue
        if argument.architecture and naive:
            return f"{name!r} is fixed by the foundation in mode 'naive': remove it, or train from scratch"
        if argument.needs is not None and settings.get(argument.needs[0]) not in argument.needs[1]:
            needed, values = argument.needs
            return (
                f"{name!r} has no effect unless {needed!r} is {' or '.join(map(repr, values))}: set it, or remove both"
            )
    if "foundation_head" in parameters and not naive:
        return "'foundation_head' has no effect in mode 'scratch': remove it"
    if settings["swa"]:
        if "start_swa" not in parameters or "swa_lr" not in parameters:
            return "stage two ('swa') needs 'start_swa' (an epoch) and 'swa_lr': MACE's own rate is too large"
        if parameters["start_swa"] >= settings["max_num_epochs"]:
            return (
                f"stage two would never start: 'start_swa' {parameters['start_swa']} is not before 'max_num_epochs' "
                f"{settings['max_num_epochs']}"
            )
    if "swa_stress_weight" in parameters and settings["loss"] not in LOSSES_WITH_STRESS:
        return f"'swa_stress_weight' has no effect with the loss {settings['loss']!r}: use one of {LOSSES_WITH_STRESS}"
    return None


def e0s_problem(e0s: Mapping[str, Any], mode: str) -> str | None:
    """Return what is wrong with the choice of reference energies by itself, or None."""
    if unknown := set(e0s) - {"source", "values"}:
        return f"unknown entries {sorted(unknown)} in 'e0s': known are 'source' and 'values'"
    source = e0s.get("source")
    if source not in E0_SOURCES:
        return f"'source' of the reference energies must be one of {list(E0_SOURCES)}, got {source!r}"
    if source == "foundation" and mode == TrainingMode.SCRATCH.value:
        return "reference energies cannot be those of the foundation in mode 'scratch', which has none"
    if (source == "given") != ("values" in e0s):
        return "'values' (element: eV) must be there if the source of the reference energies is 'given', and only then"
    for element, value in e0s.get("values", {}).items():
        if element not in atomic_numbers or isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"reference energies are given as element: eV, got {element!r}: {value!r}"
    return None


def check_training(
    train: Frames,
    valid: Frames,
    test: Frames | None,
    level: str,
    parameters: Mapping[str, Any],
    e0s: Mapping[str, Any],
    foundation: Passport | None,
) -> None:
    """Refuse a training that cannot give what is asked for.

    Raises:
        MlFinetuneError: says which input, what is wrong and what to do.
    """
    settings = {**DEFAULTS, **parameters}
    naive = parameters["mode"] == TrainingMode.NAIVE.value
    if naive and foundation is None:
        raise ModelError("mode 'naive' starts from a foundation: give the input 'foundation', or use mode 'scratch'")
    if not naive and foundation is not None:
        raise ModelError("mode 'scratch' starts from nothing: remove the input 'foundation', or use mode 'naive'")
    named = {"training": train, "validation": valid} | ({} if test is None else {"test": test})
    for name, frames in named.items():
        _check_labels(frames, level, name)
        if unknown := sorted(set(frames.elements) - set(train.elements)):
            raise LabelsError(f"the {name} frames hold {unknown}, which no training frame holds: add such frames to it")
    for first, second in (("training", "validation"), ("training", "test"), ("validation", "test")):
        if first in named and second in named:
            check_disjoint(named[first], named[second], (first, second))
    if foundation is not None:
        check_elements(train.elements, foundation.elements, "the foundation")
        foundation_head(parameters, foundation)
    _check_targets(train, level, settings)
    if settings["batch_size"] > len(train):
        raise LabelsError(
            f"'batch_size' {settings['batch_size']} is larger than the training set of {len(train)} frames, so MACE "
            "would train on nothing: reduce it"
        )
    if e0s["source"] != "estimated" or not naive:
        resolve_e0s(train, level, parameters, e0s, foundation)


def _check_labels(frames: Frames, level: str, name: str) -> None:
    labels = frames.labels(level)
    if not labels.has_energy.all():
        missing = [index for index, there in enumerate(labels.has_energy.tolist()) if not there]
        raise LabelsError(
            f"{len(missing)} of the {name} frames have no energy at level {level!r} (frames {missing[:10]}): "
            "label them, or leave them out"
        )


def _check_targets(train: Frames, level: str, settings: Mapping[str, Any]) -> None:
    """Refuse a loss whose terms the labels cannot fill, and one that takes missing labels for zeros."""
    labels = train.labels(level)
    if settings["forces_weight"] > 0 and not labels.has_forces.any():
        raise LabelsError(
            f"no training frame has forces at level {level!r}, but the loss weighs forces: label with forces, or set "
            "'forces_weight' to 0 to train on energies only"
        )
    if not labels.has_forces.any() and settings["scaling"] == "rms_forces_scaling" and settings["mode"] == "scratch":
        raise LabelsError("without forces the outputs cannot be scaled by them: set 'scaling' to 'std_scaling'")
    if settings["loss"] in LOSSES_WITH_STRESS and settings["stress_weight"] > 0 and not labels.has_stress.any():
        raise LabelsError(
            f"no training frame has a stress at level {level!r}, but the loss {settings['loss']!r} weighs it: label "
            "with stress, or use the loss 'weighted'"
        )
    if settings["loss"] == "huber" and not (labels.has_forces.all() and labels.has_stress.all()):
        raise LabelsError(
            "the loss 'huber' takes missing labels for zeros, and some training frames lack forces or stress: use "
            "'universal' instead"
        )


def foundation_head(parameters: Mapping[str, Any], foundation: Passport) -> str:
    """Return the head of the foundation to start from.

    Raises:
        ModelError: no such head, or several and none is named.
    """
    head = parameters.get("foundation_head")
    if head is None and len(foundation.heads) > 1:
        raise ModelError(
            f"the foundation has the heads {foundation.heads}: say in 'foundation_head' which to start from"
        )
    if head is not None and head not in foundation.heads:
        raise ModelError(f"the foundation has no head {head!r}: it has {foundation.heads}")
    return str(head or foundation.heads[0])


def resolve_e0s(
    train: Frames,
    level: str,
    parameters: Mapping[str, Any],
    e0s: Mapping[str, Any],
    foundation: Passport | None,
) -> dict[str, float] | None:
    """Return the reference energies in eV by element that the model must have in the end.

    None if they depend on what the foundation predicts for the training frames, which only the job can tell.

    Raises:
        LabelsError: an element without a value, or a value for an element that no frame holds.
    """
    labels = train.labels(level)
    source = e0s["source"]
    if source == "isolated":
        return isolated_atom_energies(train, labels.energy)
    if source == "estimated":
        if parameters["mode"] == TrainingMode.NAIVE.value:
            return None
        return dict(estimate_atomic_energies(train, labels.energy).values)
    if source == "foundation":
        if foundation is None:
            raise ModelError("reference energies of the foundation need the input 'foundation'")
        values = foundation.e0s[foundation_head(parameters, foundation)]
        return {element: float(values[element]) for element in train.elements}
    given = e0s["values"]
    if set(given) != set(train.elements):
        raise LabelsError(
            f"reference energies are given for {sorted(given)}, but the training frames hold {sorted(train.elements)}: "
            "give one value for each of these elements"
        )
    return {element: float(given[element]) for element in train.elements}


def mace_config(parameters: Mapping[str, Any], e0s: Mapping[str, float] | None) -> dict[str, Any]:
    """Return MACE's input: the user's parameters under MACE's names, and what the job fixes.

    Args:
        parameters: checked by ``parameters_problem``.
        e0s: reference energies in eV by element, for a model trained from scratch; None for a fine-tuned one, whose
            foundation the job writes with the reference energies in it.
    """
    config: dict[str, Any] = {key: value for key, value in parameters.items() if key not in OWN_PARAMETERS}
    config |= {
        "name": NAME,
        "train_file": "train.xyz",
        "valid_file": "valid.xyz",
        "work_dir": ".",
        "plot": False,
        "num_workers": 0,
        "pin_memory": False,
        "save_cpu": True,
    }
    config.setdefault("device", DEFAULTS["device"])
    config.setdefault("default_dtype", DEFAULTS["default_dtype"])
    if parameters["mode"] == TrainingMode.NAIVE.value:
        config |= {"foundation_model": "foundation_e0s.model", "multiheads_finetuning": False, "E0s": "foundation"}
    elif e0s is None:
        raise MlFinetuneError("training from scratch needs reference energies")
    else:
        config["E0s"] = str({atomic_numbers[element]: value for element, value in e0s.items()})
    return config
