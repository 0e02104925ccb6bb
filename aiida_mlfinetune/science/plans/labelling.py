"""What labelling a whole set costs, from what a few pilot frames of it cost.

A job of n frames takes ``start + first + (n - 1) next``: what the program needs before its first frame, a frame that
starts from nothing, and frames that start from the wave functions of the one before. Each of the three is a ``Range``:

===========  ==================================  ============================================================
value        of ``first`` and ``start``          of ``next``
===========  ==================================  ============================================================
``low``      the cheapest of the pilot           the cheapest of the pilot
``estimate`` the mean of the pilot               the mean of the pilot
``high``     the dearest of the pilot            the dearest of the pilot; where wave functions are carried over,
                                                 a frame that gains nothing from them, as the first one
===========  ==================================  ============================================================

Where the whole set holds other volumes than the pilot, low or high of the frames' times is scaled by the ratio of the
mean volumes (the grids of plane waves grow with the cell), and that of the memory by the ratio of the largest ones. Low
and high of a job are widened by ``MACHINE``, for what no pilot sees: other work on the machine, other nodes.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.datasets.batches import batch_indices
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import IntArray

PILOT_FRAMES = 3
"""Frames of a pilot, for each composition: one that starts from nothing, and two that do not."""
MOST_PILOTED = 4
"""Compositions that get a pilot; the cost of others lies between those of the next smaller and the next larger one."""
MACHINE = 0.2
"""Part by which the same job may be faster or slower elsewhere, or at another time."""
SAFE_SHARE = 0.9
"""Part of the wall time of a job that is planned for: CP2K ends itself at 0.95, to end in order."""
MOST_FRAMES = 100_000
"""Frames of a job, however cheap they are."""
MEMORY_SPARE = 1.2
"""Memory to ask for, over what the pilot had at most: buffers differ from frame to frame."""


@dataclass(frozen=True)
class Range:
    """A number with its bounds, ``low <= estimate <= high``."""

    low: float
    estimate: float
    high: float

    def __add__(self, other: Range) -> Range:
        """Add bound by bound."""
        return Range(self.low + other.low, self.estimate + other.estimate, self.high + other.high)

    def __mul__(self, factor: float) -> Range:
        """Multiply by a positive number."""
        return Range(self.low * factor, self.estimate * factor, self.high * factor)

    def __contains__(self, value: float) -> bool:
        """Whether ``value`` lies between the bounds."""
        return self.low <= value <= self.high

    def widened(self, low: float, high: float) -> Range:
        """Return the range with its bounds multiplied, ``low <= 1 <= high``."""
        return Range(self.low * min(low, 1.0), self.estimate, self.high * max(high, 1.0))

    @classmethod
    def of(cls, values: Sequence[float]) -> Range:
        """Return the smallest, the mean and the largest of one or more values."""
        return cls(min(values), fmean(values), max(values))


NOTHING = Range(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Timing:
    """What the frames of one pilot job cost, as its program tells.

    Attributes:
        start_s: from the start of the program to its first frame, and from its last frame to its end.
        first_s: the first frame.
        next_s: the others.
        memory: MiB that one process had at most, None where the program does not tell.
        processes: number of processes (MPI ranks).
        threads: threads of each process.
        carries: whether each frame starts from the wave functions of the one before.
    """

    start_s: float
    first_s: float
    next_s: tuple[float, ...]
    memory: float | None
    processes: int = 1
    threads: int = 1
    carries: bool = True

    @property
    def cores(self) -> int:
        """Cores that the job kept busy."""
        return self.processes * self.threads


@dataclass(frozen=True)
class Composition:
    """The frames of one composition (order of atoms, and periodicity) in a set.

    Attributes:
        name: its formula, and what tells it from others of that formula.
        n_atoms: atoms of a frame.
        order: indices of the frames in the set, in the order in which they are computed; of equal frames the first.
        pilot: indices of neighbouring frames in the middle of that order, at most ``PILOT_FRAMES``.
        volumes: (smallest, mean, largest) of all frames in angstrom^3; NaN without a cell.
    """

    name: str
    n_atoms: int
    order: IntArray
    pilot: IntArray
    volumes: tuple[float, float, float]

    @property
    def n_frames(self) -> int:
        """Frames to be computed."""
        return len(self.order)


@dataclass(frozen=True)
class Cost:
    """What frames of one composition cost, in seconds, and the memory in MiB of a job (None where it is not known)."""

    start: Range
    first: Range
    next: Range
    memory: Range | None

    @property
    def alone(self) -> Range:
        """Seconds of a job of one frame."""
        return (self.start + self.first).widened(1 - MACHINE, 1 + MACHINE)

    @property
    def more(self) -> Range:
        """Seconds of one more frame in a job."""
        return self.next.widened(1 - MACHINE, 1 + MACHINE)


@dataclass(frozen=True)
class Plan:
    """What a whole set costs.

    Attributes:
        n_frames: frames to be computed; of equal frames one.
        n_jobs: number of jobs.
        frames_per_job: frames of a job, at most.
        most_frames_per_job: frames that fit into the wall time of a job, for the dearest composition.
        cores: cores of a job.
        core_hours: of all jobs.
        wall_s: from the start of the first job to the end of the last, without waiting in queues.
        job_s: the longest job.
        memory: MiB of one job, all its processes; None where the program does not tell.
    """

    n_frames: int
    n_jobs: int
    frames_per_job: int
    most_frames_per_job: int
    cores: int
    core_hours: Range
    wall_s: Range
    job_s: Range
    memory: Range | None


def compositions(frames: Frames) -> list[Composition]:
    """Return the compositions of a set, in the order in which they are computed.

    Raises:
        FramesError: fewer frames, equal ones counted once, than a pilot needs.
    """
    orders = batch_indices(frames, len(frames))
    total = sum(len(order) for order in orders)
    if total < PILOT_FRAMES:
        raise FramesError(
            f"the set holds {total} different frames, and a pilot takes {PILOT_FRAMES}: label them at once"
        )
    volumes, found = frames.volumes, []
    names: list[str] = []
    for order in orders:
        middle = max(0, (len(order) - PILOT_FRAMES) // 2)
        own = volumes[order]
        name = frames.formulas[int(order[0])] + ("" if frames.pbc[order[0]].any() else " without a cell")
        names.append(name)
        found.append(
            Composition(
                name=name if names.count(name) == 1 else f"{name}, order of atoms {names.count(name)}",
                n_atoms=int(frames.n_atoms[order[0]]),
                order=order,
                pilot=order[middle : middle + PILOT_FRAMES],
                volumes=(float(own.min()), float(own.mean()), float(own.max())),
            )
        )
    return found


def piloted(groups: Sequence[Composition]) -> list[Composition]:
    """Return the compositions that get a pilot: all, or of many the smallest, the largest and the most frequent."""
    if len(groups) <= MOST_PILOTED:
        return list(groups)
    by_size = sorted(groups, key=lambda group: (group.n_atoms, -group.n_frames))
    chosen = [by_size[0], max(groups, key=lambda group: (group.n_atoms, group.n_frames))]
    others = sorted((group for group in groups if group not in chosen), key=lambda group: -group.n_frames)
    chosen += others[: MOST_PILOTED - len(chosen)]
    return [group for group in groups if group in chosen]


def cost(timings: Sequence[Timing], group: Composition, pilot_volumes: Sequence[float]) -> Cost:
    """Return the cost of a frame of ``group`` from the pilot jobs with its frames, of which there is at least one."""
    start = Range.of([timing.start_s for timing in timings])
    first = Range.of([timing.first_s for timing in timings])
    later = [seconds for timing in timings for seconds in timing.next_s]
    following = Range.of(later) if later else first
    if any(timing.carries for timing in timings):
        following = Range(following.low, following.estimate, max(following.high, first.high))
    ratio, larger = 1.0, 1.0
    if np.isfinite(group.volumes).all():
        ratio = group.volumes[1] / fmean(pilot_volumes)
        larger = group.volumes[2] / max(pilot_volumes)
    memories = [timing.memory * timing.processes for timing in timings if timing.memory is not None]
    memory = None
    if memories:
        most = max(memories)
        memory = Range(min(memories), most, most * MEMORY_SPARE * max(1.0, larger))
    return Cost(start, first.widened(ratio, ratio), following.widened(ratio, ratio), memory)


def between(n_atoms: int, smaller: tuple[int, Cost], larger: tuple[int, Cost]) -> Cost:
    """Return the cost of a composition without a pilot, from those of the next smaller and the next larger one.

    The estimate is a power law of the number of atoms through both, the bounds are those of the two.
    """
    (few, cheap), (many, dear) = smaller, larger
    share = 0.5 if many == few else math.log(n_atoms / few) / math.log(many / few)

    def mix(a: Range, b: Range) -> Range:
        low, high = min(a.low, b.low), max(a.high, b.high)
        if a.estimate <= 0 or b.estimate <= 0:
            return Range(low, a.estimate + share * (b.estimate - a.estimate), high)
        return Range(low, a.estimate ** (1 - share) * b.estimate**share, high)

    memory = None if cheap.memory is None or dear.memory is None else mix(cheap.memory, dear.memory)
    return Cost(mix(cheap.start, dear.start), mix(cheap.first, dear.first), mix(cheap.next, dear.next), memory)


def all_costs(groups: Sequence[Composition], known: dict[str, Cost]) -> list[Cost]:
    """Return the cost of each composition: its own from ``known``, by name, or one between those of its neighbours.

    Raises:
        FramesError: a composition that is smaller, or larger, than all that are known.
    """
    sizes = sorted((group.n_atoms, group.name) for group in groups if group.name in known)
    found = []
    for group in groups:
        if group.name in known:
            found.append(known[group.name])
            continue
        below = [(n, known[name]) for n, name in sizes if n <= group.n_atoms]
        above = [(n, known[name]) for n, name in sizes if n >= group.n_atoms]
        if not below or not above:
            raise FramesError(f"the pilot says nothing of {group.name}: run one on frames of that set")
        found.append(between(group.n_atoms, below[-1], above[0]))
    return found


def most_frames(costs: Iterable[Cost], wallclock_s: float) -> int:
    """Return how many frames end within the wall time of a job, also if all are as dear as the range allows.

    Raises:
        FramesError: a single frame may not.
    """
    limit = SAFE_SHARE * wallclock_s
    most = math.inf
    for own in costs:
        one = own.alone.high
        if one > limit:
            raise FramesError(
                f"one frame alone may take {one / 3600:.2f} hours, more than {SAFE_SHARE:.0%} of a job's wall time of "
                f"{wallclock_s / 3600:g} hours: allow more time, or use more cores"
            )
        if own.more.high > 0:
            most = min(most, 1 + math.floor((limit - one) / own.more.high))
    return int(min(most, MOST_FRAMES))


def make_plan(
    groups: Sequence[Composition],
    costs: Sequence[Cost],
    *,
    cores: int,
    wallclock_s: float,
    max_concurrent: int,
    frames_per_job: int | None = None,
    mixed: bool = False,
) -> Plan:
    """Return what the whole set costs.

    Args:
        groups: the compositions of the set.
        costs: of a frame of each.
        cores: of a job.
        wallclock_s: wall time that a job may take.
        max_concurrent: jobs at a time; a round of them ends with its longest.
        frames_per_job: of a job, at most; None for as many as fit into its wall time, with no fewer jobs than may run
            at a time.
        mixed: whether a job takes frames of several compositions.

    Raises:
        FramesError: a single frame may take longer than a job.
    """
    most = most_frames(costs, wallclock_s)
    total = sum(group.n_frames for group in groups)
    if frames_per_job is None:
        frames_per_job = min(most, max(1, math.ceil(total / max_concurrent)))
    members = [[index] * group.n_frames for index, group in enumerate(groups)]
    if mixed:
        members = [list(itertools.chain.from_iterable(members))]
    jobs: list[Range] = []
    for part in members:
        edges = np.linspace(0, len(part), math.ceil(len(part) / frames_per_job) + 1).round().astype(int)
        jobs += [_job(costs, part[low:high]) for low, high in itertools.pairwise(edges.tolist())]
    rounds = [jobs[index : index + max_concurrent] for index in range(0, len(jobs), max_concurrent)]
    work, wall = NOTHING, NOTHING
    for seconds in jobs:
        work = work + seconds
    for together in rounds:
        wall = wall + _longest(together)
    memories = [own.memory for own in costs if own.memory is not None]
    return Plan(
        n_frames=total,
        n_jobs=len(jobs),
        frames_per_job=frames_per_job,
        most_frames_per_job=most,
        cores=cores,
        core_hours=work * (cores / 3600),
        wall_s=wall,
        job_s=_longest(jobs),
        memory=_longest(memories) if len(memories) == len(costs) else None,
    )


def _job(costs: Sequence[Cost], members: Sequence[int]) -> Range:
    """Return the seconds of a job, from which of ``costs`` its frames have, in their order."""
    seconds = costs[members[0]].alone
    for index, number in Counter(members[1:]).items():
        seconds = seconds + costs[index].more * number
    return seconds


def _longest(ranges: Sequence[Range]) -> Range:
    return Range(
        max(each.low for each in ranges), max(each.estimate for each in ranges), max(each.high for each in ranges)
    )
