"""Which frames train which head of a model, and at which level, in each training mode."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import FramesError, LabelsError, ModelError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import IntArray, Labels
from aiida_mlfinetune.science.models.levels import model_level, model_level_key
from aiida_mlfinetune.science.models.passport import Passport
from aiida_mlfinetune.science.training.mace_arguments import DEFAULTS, LOSSES_WITH_STRESS

HEAD = "Default"
"""Name of the head of the target level, the last of every model."""
REPLAY_HEAD = "pt_head"
"""Name of the head that the replay set trains, which MACE puts first."""
REPLAY_VALID = 0.1
"""Part of the replay set that its head is validated on (MACE-MP appendix C)."""
MIN_VALID = 2
"""No validation set may be smaller, head by head."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class HeadSets:
    """The frames of one head.

    Attributes:
        name: of the head.
        level: key of the level that it is trained on.
        train: frames with an energy at this level, to fit.
        valid: frames with an energy at this level, to judge each epoch by.
        test: frames with an energy at this level, for the final errors; None without a test set.
    """

    name: str
    level: str
    train: Frames
    valid: Frames
    test: Frames | None = None

    @property
    def sets(self) -> dict[str, Frames]:
        """The sets by name."""
        return {"train": self.train, "valid": self.valid} | ({} if self.test is None else {"test": self.test})

    def trained_frames(self, name: str, targets: Targets) -> Frames:
        """Return a set as MACE gets it: without the labels that have no weight in the loss."""
        frames = self.sets[name]
        labels = frames.labels(self.level)
        weighed = Labels.build(
            labels.level,
            frames.offsets,
            labels.energy,
            labels.forces if targets.forces else None,
            labels.stress if targets.stress else None,
        )
        return frames.without_level(self.level).with_labels(weighed)


@dataclass(frozen=True)
class Targets:
    """What the loss weighs beside energies, in any stage."""

    forces: bool
    stress: bool


def loss_targets(parameters: Mapping[str, Any]) -> Targets:
    """Return what the loss of a training weighs beside energies."""
    settings = {**DEFAULTS, **parameters}
    stages = ("", "swa_") if settings["swa"] else ("",)
    return Targets(
        forces=any(settings[f"{stage}forces_weight"] > 0 for stage in stages),
        stress=settings["loss"] in LOSSES_WITH_STRESS
        and any(settings[f"{stage}stress_weight"] > 0 for stage in stages),
    )


def heads_problem(heads: Mapping[str, Any] | None, mode: str, level: str | None = None) -> str | None:
    """Return what is wrong with the further heads of a training by themselves, or None.

    Args:
        heads: level key by head name, beside the head of the target level.
        mode: of the training.
        level: the target level, where it is known.
    """
    wanted = {TrainingMode.MULTI_LEVEL.value: "at least one further head", TrainingMode.MULTI_FIDELITY.value: "one"}
    if heads is None:
        if mode in wanted:
            return (
                f"mode {mode!r} needs the input 'heads', {wanted[mode]} with its level in the same datasets, such as "
                "{'lower': 'gfn1-xtb/cp2k'}"
            )
        return None
    if mode not in wanted:
        return f"the input 'heads' has no effect in mode {mode!r}: remove it, or use one of {list(wanted)}"
    if not heads or (mode == TrainingMode.MULTI_FIDELITY.value and len(heads) != 1):
        return f"mode {mode!r} takes {wanted[mode]} in 'heads' (the lower level), got {dict(heads)}"
    for name, key in heads.items():
        if not NAME.fullmatch(name):
            return f"a head's name starts with a letter and holds letters, digits and '_', got {name!r}"
        if name in (HEAD, REPLAY_HEAD):
            return f"the name {name!r} is taken by the head of the {_owner(name)}: choose another in 'heads'"
        if not isinstance(key, str):
            return f"'heads' gives head {name!r} the level {key!r}: give the key of a level"
    keys = list(heads.values())
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        names = [name for name, key in heads.items() if key == twice[0]]
        return f"level {twice[0]!r} is listed twice in 'heads', by {names}: one head a level"
    if level is not None and level in keys:
        return f"'heads' lists the level {level!r}, which head {HEAD!r} is trained on already: remove it"
    return None


def training_heads(
    sets: Mapping[str, Frames],
    level: str,
    parameters: Mapping[str, Any],
    heads: Mapping[str, str] | None = None,
    replay: Frames | None = None,
    foundation: Passport | None = None,
) -> list[HeadSets]:
    """Return the heads of a training with their frames; that of the target level is the last.

    With a single head all frames are its frames. With further heads of the same datasets a frame belongs to the heads
    whose level it has an energy at.

    Raises:
        LabelsError: an unknown level, or a head without frames in the training or the validation set.
        ModelError: ``replay`` without its labels or in the wrong mode.
    """
    mode = TrainingMode(parameters["mode"])
    if (problem := heads_problem(heads, mode.value, level)) is not None:
        raise LabelsError(problem)
    found = []
    if mode is TrainingMode.MULTIHEAD_REPLAY:
        if replay is None:
            raise ModelError(
                "mode 'multihead-replay' needs the input 'replay', frames of the foundation's own data (for `ice-xtb` "
                "those that come with it): give it, or use mode 'naive', which forgets more"
            )
        if foundation is None:
            raise ModelError("mode 'multihead-replay' starts from a foundation: give the input 'foundation'")
        found.append(replay_head(replay, parameters, foundation))
    elif replay is not None:
        raise ModelError(f"the input 'replay' has no effect in mode {mode.value!r}: use mode 'multihead-replay'")
    if not heads:
        own = [HeadSets(HEAD, level, sets["train"], sets["valid"], sets.get("test"))]
    else:
        own = [_labelled(name, key, sets) for name, key in {**heads, HEAD: level}.items()]
    return [*found, *own]


def replay_head(replay: Frames, parameters: Mapping[str, Any], foundation: Passport) -> HeadSets:
    """Return the head that the replay set trains, on its own labels or on the foundation's predictions.

    Raises:
        LabelsError: the replay set lacks the labels, or is too small to be split.
    """
    key = replay_level(parameters, foundation)
    if key not in replay.labels_by_level:
        what = "the parameter 'replay_level' names" if "replay_level" in parameters else "the foundation's predictions"
        raise LabelsError(
            f"the replay set has no labels at level {key!r} ({what}): it holds {sorted(replay.labels_by_level)}; "
            "name one of these in 'replay_level', or leave it out and let `mlfinetune.training` predict them"
        )
    labelled = replay.select(np.flatnonzero(replay.labels(key).has_energy))
    if len(labelled) < 2 * MIN_VALID:
        raise LabelsError(f"the replay set has {len(labelled)} frames with an energy at level {key!r}: give more")
    train, valid = split_replay(
        len(labelled), parameters.get("replay_valid", REPLAY_VALID), parameters.get("replay_seed", 0)
    )
    return HeadSets(REPLAY_HEAD, key, labelled.select(train), labelled.select(valid))


def replay_level(parameters: Mapping[str, Any], foundation: Passport) -> str:
    """Return the level of the replay head: the one that is named, or that of the foundation's predictions."""
    return str(parameters.get("replay_level") or model_level_key(foundation.sha256))


def split_replay(n_frames: int, fraction: float, seed: int) -> tuple[IntArray, IntArray]:
    """Return the indices of the frames of a replay set to train on and to validate on, both ascending."""
    n_valid = min(max(MIN_VALID, round(fraction * n_frames)), n_frames - 1)
    order = np.random.default_rng(seed).permutation(n_frames)
    return np.sort(order[n_valid:]).astype(np.int64), np.sort(order[:n_valid]).astype(np.int64)


def head_levels(heads: list[HeadSets], foundation: Passport | None, foundation_head: str | None) -> dict[str, str]:
    """Return the level of theory of each head; one of predictions by the foundation has the foundation's own."""
    levels = {head.name: head.level for head in heads}
    if foundation is not None and levels.get(REPLAY_HEAD) == model_level_key(foundation.sha256):
        levels[REPLAY_HEAD] = foundation.levels.get(foundation_head or "", levels[REPLAY_HEAD])
    return levels


def pseudolabelled(replay: Frames, foundation: Passport) -> Frames:
    """Return a replay set with empty labels in the place of predictions that are still to be made, for checks."""
    level = model_level(foundation.sha256, "", "")
    if level.key in replay.labels_by_level:
        return replay
    stress = np.zeros((len(replay), 3, 3))
    stress[~np.all(replay.pbc, axis=1)] = np.nan
    labels = Labels.build(level, replay.offsets, np.zeros(len(replay)), np.zeros((len(replay.numbers), 3)), stress)
    return replay.with_labels(labels)


def _labelled(name: str, key: str, sets: Mapping[str, Frames]) -> HeadSets:
    chosen = {}
    for set_name, frames in sets.items():
        if key not in frames.labels_by_level and set_name == "test":
            continue
        own = np.flatnonzero(frames.labels(key).has_energy)
        if len(own) or set_name != "test":
            chosen[set_name] = frames.select(own)
    for set_name in ("train", "valid"):
        if not len(chosen[set_name]):
            raise LabelsError(
                f"no frame of the {set_name} set has an energy at level {key!r}, that of head {name!r}: label some, "
                "or remove the head"
            )
    return HeadSets(name, key, chosen["train"], chosen["valid"], chosen.get("test"))


def _owner(name: str) -> str:
    return "target level" if name == HEAD else "replay set"


def check_sizes(heads: list[HeadSets]) -> None:
    """Refuse validation sets of fewer than two frames.

    Raises:
        FramesError: names the head.
    """
    for head in heads:
        if len(head.valid) < MIN_VALID:
            raise FramesError(
                f"the validation set has {len(head.valid)} frames at level {head.level!r} (head {head.name!r}), but "
                f"an error needs at least {MIN_VALID}: enlarge 'valid' in 'split', or the input 'valid'"
            )
