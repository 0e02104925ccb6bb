"""What a training is refused for: inputs that do not fit each other, and those that MACE would silently ignore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import LabelsError, ModelError
from aiida_mlfinetune.common.units import EV_MEV
from aiida_mlfinetune.science.datasets.atomic_energies import composition_matrix
from aiida_mlfinetune.science.datasets.checks import check_disjoint, check_elements
from aiida_mlfinetune.science.datasets.comparison import DIFFERENCE_ENGINE
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.models.passport import Passport
from aiida_mlfinetune.science.training.heads import (
    HEAD,
    REPLAY_HEAD,
    HeadSets,
    check_sizes,
    heads_problem,
    loss_targets,
    training_heads,
)
from aiida_mlfinetune.science.training.inputs import (
    all_elements,
    e0s_of_head,
    e0s_problem,
    foundation_head,
    resolve_e0s,
)
from aiida_mlfinetune.science.training.mace_arguments import ARGUMENTS, DEFAULTS, LOSSES_WITHOUT_MASK

SET_NAMES = {"train": "training", "valid": "validation", "test": "test"}
FLOAT32_SHARE = 0.01
"""In float32 energies may be rounded (root mean square) by this part of the spread that the training has to learn."""


def inputs_problem(
    parameters: Mapping[str, Any], e0s: Mapping[str, Any], heads: Mapping[str, Any] | None, level: str | None = None
) -> str | None:
    """Return what is wrong with the settings of a training, whatever its frames are, or None."""
    mode = parameters["mode"]
    if (problem := e0s_problem(e0s, mode) or heads_problem(heads, mode, level)) is not None:
        return problem
    known = [REPLAY_HEAD] if mode == TrainingMode.MULTIHEAD_REPLAY.value else []
    known += [*(heads or {}), HEAD]
    if unknown := sorted(set(e0s.get("heads", {})) - set(known)):
        return f"'e0s' names the heads {unknown}, which the model does not have: it has {known}"
    if REPLAY_HEAD in e0s.get("heads", {}):
        return f"the reference energies of head {REPLAY_HEAD!r} are the foundation's: remove it from 'e0s'"
    if HEAD in e0s.get("heads", {}):
        return f"the reference energies of head {HEAD!r} stand in 'source' and 'values' themselves, not in 'heads'"
    return None


def check_training(
    train: Frames,
    valid: Frames,
    test: Frames | None,
    level: str,
    parameters: Mapping[str, Any],
    e0s: Mapping[str, Any],
    foundation: Passport | None,
    heads: Mapping[str, str] | None = None,
    replay: Frames | None = None,
    *,
    exact_energies: bool = True,
) -> None:
    """Refuse a training that cannot give what is asked for.

    Args:
        train: frames to fit.
        valid: frames to choose the best epoch by.
        test: frames for the final errors alone, if any.
        level: key of the target level.
        parameters: checked by ``training_input.parameters_problem``.
        e0s: source of the reference energies, checked by ``training_input.e0s_problem``.
        foundation: what the training starts from, if anything.
        heads: level key of each further head, if any.
        replay: frames of the replay head, if any.
        exact_energies: whether the labels are those that MACE will get, so that their digits can be judged.

    Raises:
        MlFinetuneError: says which input, what is wrong and what to do.
    """
    _check_foundation(level, parameters, foundation)
    sets = {"train": train, "valid": valid} | ({} if test is None else {"test": test})
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if first in sets and second in sets:
            check_disjoint(sets[first], sets[second], (SET_NAMES[first], SET_NAMES[second]))
    found = training_heads(sets, level, parameters, heads, replay, foundation)
    for head in found:
        _check_labels(head)
    if replay is not None:
        for name in ("valid", "test"):
            if name in sets:
                check_disjoint(replay, sets[name], ("replay", SET_NAMES[name]))
    check_sizes(found)
    if foundation is not None:
        check_elements(all_elements(found), foundation.elements, "the foundation")
    settings = {**DEFAULTS, **parameters}
    _check_targets(found, settings, foundation is not None)
    size = sum(len(head.train) for head in found)
    if settings["batch_size"] > size:
        raise LabelsError(
            f"'batch_size' {settings['batch_size']} is larger than the training set of {size} frames, so MACE would "
            "train on nothing: reduce it"
        )
    for head in found:
        if exact_energies and settings["default_dtype"] == "float32":
            _check_digits(head)
        e0s_of_head(e0s, head.name)
        resolve_e0s(head, all_elements(found), parameters, e0s, foundation)


def _check_foundation(level: str, parameters: Mapping[str, Any], foundation: Passport | None) -> None:
    mode = TrainingMode(parameters["mode"])
    if foundation is None:
        if mode.needs_foundation:
            raise ModelError(
                f"mode {mode.value!r} starts from a foundation: give the input 'foundation', or use mode 'scratch'"
            )
        for name in parameters:
            if name == "foundation_head" or (name in ARGUMENTS and ARGUMENTS[name].fine_tuning):
                raise ModelError(f"{name!r} has no effect without a foundation: remove it, or give 'foundation'")
        return
    if not mode.allows_foundation:
        raise ModelError(f"mode {mode.value!r} starts from nothing: remove the input 'foundation', or use mode 'naive'")
    for name in parameters:
        if name in ARGUMENTS and ARGUMENTS[name].architecture:
            raise ModelError(f"{name!r} is fixed by the foundation: remove it, or the input 'foundation'")
    head = foundation_head(parameters, foundation)
    if foundation.settings.get("baseline"):
        raise ModelError(
            "the foundation is a model of a difference between two levels, which knows no whole energies: start from "
            "another"
        )
    if mode is TrainingMode.TRANSFER:
        lower = foundation.levels.get(head)
        if lower is None:
            raise ModelError(
                f"mode 'transfer' starts from a model of a lower level, but the passport of the foundation does not "
                f"say at which level its head {head!r} was trained: import it with its level, or use mode 'naive'"
            )
        if lower == level:
            raise ModelError(
                f"mode 'transfer' goes from a lower level to a higher one, but the foundation was trained at {level!r} "
                "itself: use mode 'naive', or another foundation"
            )


def _check_labels(head: HeadSets) -> None:
    for name, frames in head.sets.items():
        labels, title = frames.labels(head.level), SET_NAMES[name]
        if not labels.has_energy.all():
            missing = np.flatnonzero(~labels.has_energy).tolist()
            raise LabelsError(
                f"{len(missing)} of the {title} frames have no energy at level {head.level!r} (frames {missing[:10]}): "
                "label them, or leave them out"
            )
        if unknown := sorted(set(frames.elements) - set(head.train.elements)):
            raise LabelsError(
                f"the {title} frames hold {unknown}, which no training frame holds: add such frames to it"
            )


def check_delta_level(train: Frames, level: str) -> None:
    """Refuse labels for mode 'delta' that are no difference of two levels.

    Raises:
        LabelsError: says how to make them.
    """
    if train.labels(level).level.engine != DIFFERENCE_ENGINE:
        raise LabelsError(
            f"mode 'delta' trains on the difference of two levels, which {level!r} is not: let `mlfinetune.training` "
            "make it from 'baseline' or 'baseline_level', or use the calcfunction `subtract_levels`"
        )


def _check_targets(heads: Sequence[HeadSets], settings: Mapping[str, Any], fine_tuned: bool) -> None:
    """Refuse a loss whose terms the labels cannot fill, and one that takes missing labels for zeros."""
    targets = loss_targets(settings)
    labels = {head.name: head.train.labels(head.level) for head in heads}
    levels = ", ".join(repr(head.level) for head in heads)
    if targets.forces and not any(own.has_forces.any() for own in labels.values()):
        raise LabelsError(
            f"no training frame has forces at level {levels}, but the loss weighs forces: label with forces, or set "
            "'forces_weight' to 0 to train on energies only"
        )
    if settings["scaling"] == "rms_forces_scaling" and not fine_tuned:
        for head in heads:
            if not (targets.forces and labels[head.name].has_forces.any()):
                raise LabelsError(
                    f"without forces the outputs of head {head.name!r} cannot be scaled by them: set 'scaling' to "
                    "'std_scaling'"
                )
    if targets.stress and not any(own.has_stress.any() for own in labels.values()):
        raise LabelsError(
            f"no training frame has a stress at level {levels}, but the loss {settings['loss']!r} weighs it: label "
            "with stress, or use the loss 'weighted'"
        )
    if settings["loss"] in LOSSES_WITHOUT_MASK:
        for head in heads:
            for frames in head.sets.values():
                own = frames.labels(head.level)
                whole = (own.has_forces.all() or not targets.forces) and (own.has_stress.all() or not targets.stress)
                if not whole:
                    instead = "universal" if settings["loss"] == "huber" else "weighted"
                    raise LabelsError(
                        f"the loss {settings['loss']!r} takes missing labels for zeros, and some frames of head "
                        f"{head.name!r} lack forces or stress: use {instead!r} instead"
                    )


def _check_digits(head: HeadSets) -> None:
    """Refuse float32 where it would round the energies by a noticeable part of what is to be learnt of them."""
    energies = head.train.labels(head.level).energy
    counts = composition_matrix(head.train, head.train.elements)
    fit = counts @ np.linalg.lstsq(counts, energies, rcond=None)[0]
    sizes = counts.sum(axis=1)
    spread = float(np.sqrt(np.mean(((energies - fit) / sizes) ** 2)))
    noise = float(np.max(np.spacing(np.abs(energies).astype(np.float32)) / sizes)) / np.sqrt(12)
    if spread > 1e-9 * noise and noise > FLOAT32_SHARE * spread and np.ptp(energies / sizes) > 0:
        raise LabelsError(
            f"float32 rounds the energies at level {head.level!r} by {noise * EV_MEV:.2g} meV/atom, but they differ by "
            f"{spread * EV_MEV:.2g} meV/atom only: set 'default_dtype' to 'float64'"
        )
