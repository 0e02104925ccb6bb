"""Checks of a training's inputs, and MACE's input made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ase.data import atomic_numbers

from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import LabelsError, MlFinetuneError, ModelError
from aiida_mlfinetune.science.datasets.atomic_energies import estimate_atomic_energies, isolated_atom_energies
from aiida_mlfinetune.science.models.devices import device_problem
from aiida_mlfinetune.science.models.passport import Passport
from aiida_mlfinetune.science.training.heads import HEAD, REPLAY_HEAD, HeadSets
from aiida_mlfinetune.science.training.mace_arguments import (
    ARGUMENTS,
    DEFAULTS,
    LOSSES_OF_STAGE_TWO,
    LOSSES_WITH_STRESS,
    argument_problem,
)

_REPLAY = (TrainingMode.MULTIHEAD_REPLAY,)
_DELTA = (TrainingMode.DELTA,)
OWN_PARAMETERS: Mapping[str, tuple[type, tuple[TrainingMode, ...]]] = {
    "mode": (str, tuple(TrainingMode)),
    "molecule": (str, tuple(TrainingMode)),
    "foundation_head": (str, tuple(mode for mode in TrainingMode if mode.allows_foundation)),
    "replay_level": (str, _REPLAY),
    "replay_valid": (float, _REPLAY),
    "replay_seed": (int, _REPLAY),
    "baseline_level": (str, _DELTA),
    "baseline_head": (str, _DELTA),
}
"""Our own parameters beside those of MACE: their types, and the modes in which they mean something."""
E0_SOURCES = ("given", "foundation", "estimated", "isolated")
MODEL_NAME = "mace"


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
            if (problem := _own_problem(name, value, parameters["mode"])) is not None:
                return problem
        elif (problem := argument_problem(name, value, tuple(OWN_PARAMETERS))) is not None:
            return problem
    return _ignored_problem(parameters) or _stage_two_problem(parameters)


def _own_problem(name: str, value: Any, mode: str) -> str | None:
    kind, modes = OWN_PARAMETERS[name]
    words = {str: "string", int: "whole number", float: "number"}
    wrong: bool = isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind)
    if wrong:
        return f"{name!r} must be a {words[kind]}, got {value!r}"
    if mode not in [each.value for each in modes]:
        return f"{name!r} has no effect in mode {mode!r}: remove it, or use one of {[each.value for each in modes]}"
    if name == "replay_valid" and not 0 < value < 1:
        return f"'replay_valid' must be a fraction between 0 and 1, got {value!r}"
    if name == "replay_seed" and value < 0:
        return f"'replay_seed' must be at least 0, got {value!r}"
    return None


def _ignored_problem(parameters: Mapping[str, Any]) -> str | None:
    settings = {**DEFAULTS, **parameters}
    mode = TrainingMode(parameters["mode"])
    for name in parameters:
        argument = ARGUMENTS.get(name)
        if argument is None:
            continue
        if argument.architecture and mode.needs_foundation:
            return f"{name!r} is fixed by the foundation in mode {mode.value!r}: remove it, or train from scratch"
        if argument.fine_tuning and not mode.allows_foundation:
            return f"{name!r} has no effect without a foundation, in mode {mode.value!r}: remove it"
        if argument.needs is not None and settings.get(argument.needs[0]) not in argument.needs[1]:
            needed, values = argument.needs
            return (
                f"{name!r} has no effect unless {needed!r} is {' or '.join(map(repr, values))}: set it, or remove both"
            )
    if settings["lora"] and settings.get("enable_cueq"):
        return "LoRA cannot be combined with cuEquivariance, which drops its weights: remove 'lora' or 'enable_cueq'"
    if settings["lora"] and "freeze" in parameters:
        return "'freeze' has no effect with LoRA, which freezes all of the foundation: remove one of them"
    return device_problem(settings["device"], settings["default_dtype"], settings.get("enable_cueq", False))


def _stage_two_problem(parameters: Mapping[str, Any]) -> str | None:
    settings = {**DEFAULTS, **parameters}
    if not settings["swa"]:
        return None
    if "start_swa" not in parameters or "swa_lr" not in parameters:
        return "stage two ('swa') needs 'start_swa' (an epoch) and 'swa_lr': MACE's own rate is too large"
    start, end, interval = parameters["start_swa"], settings["max_num_epochs"], settings["eval_interval"]
    if start >= end:
        return (
            f"stage two would never start: 'start_swa' {start} is not before 'max_num_epochs' {end}: start it earlier, "
            "or remove 'swa'"
        )
    if not any(epoch % interval == 0 for epoch in range(start, end)):
        return (
            f"stage two would end before its first validation, every 'eval_interval' {interval} epochs: start it "
            "earlier, or validate more often"
        )
    if settings["loss"] not in LOSSES_OF_STAGE_TWO:
        return (
            f"stage two silently replaces the loss {settings['loss']!r} by 'weighted': use one of "
            f"{list(LOSSES_OF_STAGE_TWO)}, or remove 'swa'"
        )
    if "swa_stress_weight" in parameters and settings["loss"] not in LOSSES_WITH_STRESS:
        return f"'swa_stress_weight' has no effect with the loss {settings['loss']!r}: use one of {LOSSES_WITH_STRESS}"
    if settings["forces_weight"] == 0 and settings["swa_forces_weight"] > 0:
        return (
            f"'forces_weight' is 0, but stage two weighs forces by {settings['swa_forces_weight']} "
            "('swa_forces_weight'): set it to 0 too"
        )
    return None


# reference energies ---------------------------------------------------------------------------------------------


def e0s_problem(e0s: Mapping[str, Any], mode: str) -> str | None:
    """Return what is wrong with the choice of reference energies by itself, or None."""
    if unknown := set(e0s) - {"source", "values", "heads"}:
        return f"unknown entries {sorted(unknown)} in 'e0s': known are 'source', 'values' and 'heads'"
    by_head = {HEAD: {key: value for key, value in e0s.items() if key != "heads"}}
    if "heads" in e0s:
        if not isinstance(e0s["heads"], Mapping):
            return f"'heads' in 'e0s' gives source and values by head, got {e0s['heads']!r}"
        by_head |= e0s["heads"]
    for name, own in by_head.items():
        where = "" if name == HEAD else f" of head {name!r}"
        if not isinstance(own, Mapping) or set(own) - {"source", "values"}:
            return f"the reference energies{where} are given as 'source' and 'values', got {own!r}"
        if (problem := _source_problem(own, mode, where)) is not None:
            return problem
    return None


def _source_problem(e0s: Mapping[str, Any], mode: str, where: str) -> str | None:
    source = e0s.get("source")
    if source == "average":
        return (
            f"'average' is no source of reference energies{where}, and MACE refuses it with several heads: 'estimated' "
            "is the same least-squares fit, made for each head from its own labels"
        )
    if source not in E0_SOURCES:
        return f"'source' of the reference energies{where} must be one of {list(E0_SOURCES)}, got {source!r}"
    if source == "foundation" and not TrainingMode(mode).allows_foundation:
        return f"reference energies cannot be those of the foundation in mode {mode!r}, which has none"
    if (source == "given") != ("values" in e0s):
        return (
            f"'values' (element: eV) must be there if the source of the reference energies{where} is 'given', and only "
            "then"
        )
    for element, value in e0s.get("values", {}).items():
        if element not in atomic_numbers or isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"reference energies are given as element: eV, got {element!r}: {value!r}"
    return None


def e0s_of_head(e0s: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return source and values of one head's reference energies; those of the replay head are the foundation's.

    Raises:
        LabelsError: values are given for the target head only.
    """
    if name == REPLAY_HEAD:
        return {"source": "foundation"}
    if name in e0s.get("heads", {}):
        return dict(e0s["heads"][name])
    if name == HEAD:
        return {key: value for key, value in e0s.items() if key != "heads"}
    if e0s["source"] == "given":
        raise LabelsError(
            f"reference energies are given for head {HEAD!r} only: give those of head {name!r} in 'heads' of 'e0s', "
            "as {'source': ..., 'values': ...}"
        )
    return {"source": e0s["source"]}


def all_elements(heads: Sequence[HeadSets]) -> list[str]:
    """Return the elements of the training frames of all heads, by atomic number."""
    return sorted({element for head in heads for element in head.train.elements}, key=lambda e: atomic_numbers[e])


def resolve_e0s(
    head: HeadSets,
    elements: Sequence[str],
    parameters: Mapping[str, Any],
    e0s: Mapping[str, Any],
    foundation: Passport | None,
) -> dict[str, float] | None:
    """Return the reference energies in eV of ``elements`` that a head of the model must have in the end.

    Elements that the head's own frames lack keep the foundation's value.

    Args:
        head: with its training frames.
        elements: of the model.
        parameters: of the training.
        e0s: of all heads.
        foundation: that the training starts from, if any.

    Returns:
        None if they depend on what the foundation predicts for the training frames, which only the job can tell.

    Raises:
        LabelsError: an element without a value, or a value for an element that no frame holds.
    """
    own = e0s_of_head(e0s, head.name)
    source, labels = own["source"], head.train.labels(head.level)
    start = {} if foundation is None else foundation.e0s[foundation_head(parameters, foundation)]
    if source == "foundation":
        if foundation is None:
            raise ModelError("reference energies of the foundation need the input 'foundation'")
        found: Mapping[str, float] = start
    elif source == "isolated":
        found = {**start, **isolated_atom_energies(head.train, labels.energy)}
    elif source == "given":
        found = own["values"]
        if set(found) != set(elements):
            raise LabelsError(
                f"reference energies of head {head.name!r} are given for {sorted(found)}, but the training frames hold "
                f"{sorted(elements)}: give one value for each of these elements"
            )
    elif foundation is not None:
        return None
    else:
        found = estimate_atomic_energies(head.train, labels.energy).values
    if missing := [element for element in elements if element not in found]:
        raise LabelsError(
            f"the training frames of head {head.name!r} hold no {missing}, so it has no reference energy for it: give "
            "it in 'e0s', or add such frames"
        )
    return {element: float(found[element]) for element in elements}


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


# MACE's input ---------------------------------------------------------------------------------------------------


def mace_config(
    parameters: Mapping[str, Any], names: Sequence[str], fine_tuned: bool, e0s: Mapping[str, float] | None
) -> dict[str, Any]:
    """Return MACE's input: the user's parameters under MACE's names, and what the job fixes.

    The heads of a model with several are passed by the job itself, with the reference energies that it finds. MACE's
    own switch for multi-head fine-tuning stays off: it would replace rate, averages and loss by its own, and repeat
    frames.

    Args:
        parameters: checked by ``parameters_problem``.
        names: of the heads.
        fine_tuned: whether the training starts from a foundation.
        e0s: reference energies in eV by element, for a model with one head trained from scratch.
    """
    config: dict[str, Any] = {key: value for key, value in parameters.items() if key not in OWN_PARAMETERS}
    config |= {
        "name": MODEL_NAME,
        "train_file": "train.xyz",
        "valid_file": "valid.xyz",
        "work_dir": ".",
        "plot": False,
        "num_workers": 0,
        "pin_memory": False,
        "save_cpu": True,
        "multiheads_finetuning": False,
        "skip_evaluate_heads": ",".join(names),
    }
    config.setdefault("device", DEFAULTS["device"])
    config.setdefault("default_dtype", DEFAULTS["default_dtype"])
    if fine_tuned:
        config["foundation_model"] = "foundation_e0s.model"
    if len(names) > 1:
        return config
    if fine_tuned:
        config["E0s"] = "foundation"
    elif e0s is None:
        raise MlFinetuneError("training from scratch needs reference energies")
    else:
        config["E0s"] = e0s_text(e0s)
    return config


def e0s_text(e0s: Mapping[str, float]) -> str:
    """Return reference energies as MACE reads them, by atomic number and with all digits."""
    return str({atomic_numbers[element]: value for element, value in e0s.items()})


def file_of(head: str, name: str, suffix: str) -> str:
    """Return the name of a job's file for a set of a head; those of the target head are named by the set alone."""
    return f"{name}.{suffix}" if head == HEAD else f"{head}_{name}.{suffix}"
