"""Training, validation and test sets: seeded, disjoint, and alike in composition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.datasets.checks import check_no_duplicates
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import IntArray

SETS = ("train", "valid", "test")
CHOICES: Mapping[str, Mapping[str, Any]] = {
    "kaur2025": {"train": (50, 100, 160, 200, 320, 400), "valid": 100},
    "caco3": {"train": (10, 30, 50, 100, 200, 300), "valid": 100},
}
"""Published sizes of nested sets: Kaur et al., Faraday Discuss. 256, 120 (2025); the CaCO3 report (100 held out)."""
MIN_VALID = 2
"""A smaller validation set has no spread that an error could be compared with."""


@dataclass(frozen=True)
class SplitSizes:
    """How to split.

    Attributes:
        valid: frames of the validation set: a count, or a fraction of all frames below 1.
        test: frames of the test set, likewise.
        train: frames of the training set, likewise; None gives it all that the other sets leave.
        seed: of the shuffle.
        min_separation: frames of one source that are closer than this many steps never come to stand in different
            sets; frames that would are left out. 0 switches this off.
    """

    valid: float
    test: float = 0
    train: float | None = None
    seed: int = 0
    min_separation: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            FramesError: negative sizes, counts mixed with fractions, or fractions that add up to more than one.
        """
        given = [size for size in (self.train, self.valid, self.test) if size]
        if any(size < 0 for size in given) or self.train == 0:
            raise FramesError(f"the sizes of a split must be positive: {self}")
        fractions = [size for size in given if size < 1]
        if fractions and len(fractions) != len(given):
            raise FramesError(f"give the sizes of a split as counts or as fractions, not both: {self}")
        if not fractions and any(size != int(size) for size in given):
            raise FramesError(f"counts of frames must be whole numbers: {self}")
        if sum(fractions) > 1 + 1e-9:
            raise FramesError(f"the fractions of a split add up to more than one: {self}")
        if self.min_separation < 0:
            raise FramesError(f"min_separation is {self.min_separation} steps: give a positive number, or 0")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SplitSizes:
        """Build from plain JSON types; unknown names are refused.

        Raises:
            FramesError: an unknown name, or what ``SplitSizes`` refuses.
        """
        known = list(cls.__dataclass_fields__)
        if unknown := sorted(set(values) - set(known)):
            raise FramesError(f"unknown entries in the parameters of a split: {unknown}; known: {known}")
        if "valid" not in values:
            raise FramesError("the parameters of a split need 'valid', the size of the validation set")
        return cls(**values)

    def counts(self, n_frames: int) -> dict[str, int]:
        """Return the number of frames of each set of ``n_frames`` in all.

        Raises:
            FramesError: more frames are wanted than there are, or none is left for training.
        """
        given = {"valid": self.valid, "test": self.test, **({} if self.train is None else {"train": self.train})}
        counts = {name: round(size * n_frames) if 0 < size < 1 else int(size) for name, size in given.items()}
        counts.setdefault("train", n_frames - counts["valid"] - counts["test"])
        if sum(counts.values()) > n_frames:  # fractions round up together at most by one frame a set
            if self.train is None or self.train >= 1:
                raise FramesError(f"the split wants {sum(counts.values())} frames ({counts}), but there are {n_frames}")
            counts["train"] = n_frames - counts["valid"] - counts["test"]
        if counts["train"] < 1:
            raise FramesError(f"the split leaves no frame for training: {counts} of {n_frames}")
        for name, size in given.items():
            if size > 0 and counts[name] < 1:
                raise FramesError(f"the fraction {size} of {n_frames} frames leaves the {name} set empty: enlarge it")
        return {name: counts[name] for name in SETS}


def split_frames(frames: Frames, sizes: SplitSizes) -> dict[str, IntArray]:
    """Return the indices of the training, validation and test set, each in ascending order.

    Every composition (formula and periodicity) gets its share of every set, so that crystal and gas frames are in all
    of them as far as the numbers allow. With a separation, which keeps frames together that are close in time, so does
    every run: otherwise one run, say all frames at one temperature, could make up a whole set.

    Raises:
        FramesError: sizes that do not fit, equal frames (which might stand on both sides), or too few frames that are
            ``min_separation`` steps apart.
    """
    check_no_duplicates(frames)
    counts = sizes.counts(len(frames))
    rng = np.random.default_rng(sizes.seed)
    strata = list(_strata(frames).values())
    if sizes.min_separation:
        runs = [run for members in strata for run in _runs(frames, members)]
        strata = [runs[index] for index in rng.permutation(len(runs))]
    clusters = [_shuffled(_clusters(frames, members, sizes.min_separation), rng) for members in strata]
    chosen: dict[str, list[int]] = {name: [] for name in SETS}
    rest = sizes.train is None
    for name in ("test", "valid") if rest else ("test", "valid", "train"):
        for own, share in zip(clusters, _shares(clusters, counts[name]), strict=True):
            chosen[name].extend(_take(own, share, frames.steps, sizes.min_separation))
        if len(chosen[name]) < counts[name]:
            raise FramesError(
                f"{counts[name]} frames are wanted for the {name} set, but only {len(chosen[name])} are at least "
                f"{sizes.min_separation} steps from those of the other sets: lower 'min_separation', take smaller "
                "sets, or print frames less often"
            )
    if rest:
        chosen["train"] = [index for own in clusters for cluster in own for index in cluster]
        if not chosen["train"]:
            raise FramesError("no frame is left for training: lower 'min_separation' or take smaller sets")
    return {name: np.array(sorted(indices), dtype=np.int64) for name, indices in chosen.items()}


@dataclass(frozen=True)
class NestedSizes:
    """How to split into nested training sets, one validation set and one test set.

    Attributes:
        train: sizes of the training sets: counts, or fractions of all frames below 1; in ascending order.
        valid: frames of the validation set, likewise.
        test: frames of the test set, likewise; 0 for none.
        seed: of the shuffle.
        min_separation: see ``SplitSizes``; None where it is to be the correlation time of the runs.
    """

    train: tuple[float, ...]
    valid: float
    test: float = 0
    seed: int = 0
    min_separation: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            FramesError: no size, a size that is there twice, or what ``SplitSizes`` refuses.
        """
        object.__setattr__(self, "train", tuple(sorted(self.train)))
        if not self.train or len(set(self.train)) < len(self.train):
            raise FramesError(f"give each size of the nested training sets once: {list(self.train)}")
        for size in self.train:
            SplitSizes(valid=self.valid, test=self.test, train=size, min_separation=self.min_separation or 0)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NestedSizes:
        """Build from plain JSON types: the attributes, or ``choice`` (a name in ``CHOICES``) and what differs from it.

        Raises:
            FramesError: an unknown name or choice, or what ``NestedSizes`` refuses.
        """
        known = list(cls.__dataclass_fields__)
        given = {key: value for key, value in values.items() if key != "choice"}
        if unknown := sorted(set(given) - set(known)):
            raise FramesError(f"unknown entries in nested splits: {unknown}; known: {['choice', *known]}")
        choice = values.get("choice")
        if choice is not None:
            if choice not in CHOICES:
                raise FramesError(f"there is no choice {choice!r} of nested sizes: there are {list(CHOICES)}")
            given = {**CHOICES[choice], **given}
        if missing := {"train", "valid"} - set(given):
            raise FramesError(f"nested splits need {sorted(missing)}, or a 'choice' of {list(CHOICES)}")
        if not isinstance(given["train"], Sequence) or isinstance(given["train"], str):
            raise FramesError(f"'train' of nested splits must list the sizes, got {given['train']!r}")
        return cls(**{**given, "train": tuple(given["train"])})

    def counts(self, n_frames: int) -> tuple[list[int], int, int]:
        """Return the sizes of the training sets, and those of the validation and of the test set.

        Raises:
            FramesError: more frames are wanted than there are, a set would be empty, or two would be equal.
        """
        all_counts = [SplitSizes(valid=self.valid, test=self.test, train=size).counts(n_frames) for size in self.train]
        train = [counts["train"] for counts in all_counts]
        if len(set(train)) < len(train):
            raise FramesError(f"of {n_frames} frames, the fractions {list(self.train)} make equal sets: {train}")
        if all_counts[0]["valid"] < MIN_VALID:
            raise FramesError(
                f"the validation set of {all_counts[0]['valid']} frames is too small: it needs at least {MIN_VALID}"
            )
        return train, all_counts[0]["valid"], all_counts[0]["test"]


@dataclass(frozen=True)
class NestedSplit:
    """Indices of nested training sets, and of the sets that they are judged on.

    Attributes:
        train: by size, indices in ascending order; each set contains the smaller ones.
        valid: indices of the validation set.
        test: indices of the test set, may be empty.
        n_left_out: frames that are in no set because they are too close in time to those of another.
    """

    train: Mapping[int, IntArray]
    valid: IntArray
    test: IntArray
    n_left_out: int


def nested_split(frames: Frames, sizes: NestedSizes, min_separation: int | None = None) -> NestedSplit:
    """Split into nested training sets, one validation and one test set, alike in composition.

    Validation and test set depend on their own sizes, the seed and the separation alone, and each training set on
    these and its own size: a size that is added later leaves all other sets as they are.

    Args:
        frames: n configurations.
        sizes: how many frames of each set.
        min_separation: steps, used where ``sizes`` says None; by default 0.

    Raises:
        FramesError: sizes that do not fit, equal frames, or too few frames far enough from the other sets.
    """
    train, n_valid, n_test = sizes.counts(len(frames))
    separation = sizes.min_separation if sizes.min_separation is not None else min_separation or 0
    held_out = split_frames(frames, SplitSizes(n_valid, n_test, seed=sizes.seed, min_separation=separation))
    pool = held_out["train"]
    if max(train) > len(pool):
        raise FramesError(
            f"the largest training set wants {max(train)} frames, but of {len(frames)} frames only {len(pool)} are "
            f"left that are at least {separation} steps from the {n_valid + n_test} held out: take smaller sets, lower "
            "'min_separation', or sample more"
        )
    nested = nested_training_sets(frames.select(pool), train, sizes.seed)
    return NestedSplit(
        train={size: pool[indices] for size, indices in nested.items()},
        valid=held_out["valid"],
        test=held_out["test"],
        n_left_out=len(frames) - len(pool) - n_valid - n_test,
    )


def nested_training_sets(frames: Frames, sizes: Sequence[int], seed: int) -> dict[int, IntArray]:
    """Return the indices of training sets of the given sizes, each containing the smaller ones.

    Every set holds the compositions in nearly the proportions of all frames.

    Raises:
        FramesError: a size that is not positive or exceeds the number of frames.
    """
    if not sizes or min(sizes) < 1 or max(sizes) > len(frames):
        raise FramesError(f"the sizes of nested training sets must lie in 1..{len(frames)}: {list(sizes)}")
    rng = np.random.default_rng(seed)
    ranks = np.empty(len(frames))
    for members in _strata(frames).values():
        shuffled = rng.permutation(members)
        ranks[shuffled] = (np.arange(len(members)) + rng.uniform()) / len(members)
    order = np.argsort(ranks, kind="stable")
    return {int(size): np.sort(order[:size]) for size in sorted(set(sizes))}


def _strata(frames: Frames) -> dict[tuple[str, bool], list[int]]:
    """Return the indices of the frames of each formula and periodicity."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for index, formula in enumerate(frames.formulas):
        groups.setdefault((formula, bool(frames.pbc[index].any())), []).append(index)
    return groups


def _runs(frames: Frames, members: list[int]) -> list[list[int]]:
    """Return the frames of each run with more than one frame of known step, and all others together."""
    by_source: dict[int, list[int]] = {}
    for index in members:
        source = int(frames.source_index[index]) if frames.steps[index] >= 0 else -1
        by_source.setdefault(source, []).append(index)
    runs = [own for source, own in by_source.items() if source >= 0 and len(own) > 1]
    others = [index for source, own in by_source.items() if source < 0 or len(own) == 1 for index in own]
    return [*runs, others] if others else runs


def _clusters(frames: Frames, members: list[int], min_separation: int) -> list[list[int]]:
    """Return groups of frames that must stay in one set: chains of one source, steps closer than the separation."""
    if not min_separation:
        return [[index] for index in members]
    clusters: list[list[int]] = []
    previous: tuple[int, int] | None = None
    for index in sorted(members, key=lambda i: (int(frames.source_index[i]), int(frames.steps[i]), i)):
        source, step = int(frames.source_index[index]), int(frames.steps[index])
        linked = previous is not None and previous[0] == source and 0 <= previous[1] > step - min_separation
        if linked and step >= 0:
            clusters[-1].append(index)
        else:
            clusters.append([index])
        previous = (source, step)
    return clusters


def _shuffled(clusters: list[list[int]], rng: np.random.Generator) -> list[list[int]]:
    """Return clusters in random order, each forwards or backwards in time."""
    order = rng.permutation(len(clusters))
    backwards = rng.integers(2, size=len(clusters))
    return [clusters[index][:: -1 if backwards[index] else 1] for index in order]


def _shares(clusters: list[list[list[int]]], wanted: int) -> list[int]:
    """Divide ``wanted`` among the strata by the frames they have left; every stratum gets one if there are enough."""
    left = np.array([sum(len(cluster) for cluster in own) for own in clusters])
    total = int(left.sum())
    if wanted == 0 or total == 0:
        return [0] * len(clusters)
    exact = wanted * left / total
    shares = np.minimum(np.floor(exact).astype(int), left)
    if wanted >= (left > 1).sum():
        shares = np.maximum(shares, (left > 1).astype(int))
    while shares.sum() > wanted:
        shares[int(np.argmax(np.where(shares > 1, shares - exact, -np.inf)))] -= 1
    while shares.sum() < min(wanted, total):
        shares[int(np.argmax(np.where(shares < left, exact - shares, -np.inf)))] += 1
    return [int(share) for share in shares]


def _take(clusters: list[list[int]], wanted: int, steps: IntArray, min_separation: int) -> list[int]:
    """Remove and return ``wanted`` frames from the clusters.

    A cluster cut in two loses the frames that are closer than ``min_separation`` steps to the cut.
    """
    taken: list[int] = []
    while len(taken) < wanted and clusters:
        cluster = clusters.pop(0)
        size = min(wanted - len(taken), len(cluster))
        taken.extend(cluster[:size])
        left = [index for index in cluster[size:] if abs(steps[index] - steps[cluster[size - 1]]) >= min_separation]
        if left:
            clusters.insert(0, left)
    return taken
