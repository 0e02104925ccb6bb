"""What a set costs, from made-up times of pilot frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.datasets.batches import batch_indices
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.plans.labelling import (
    MACHINE,
    MEMORY_SPARE,
    SAFE_SHARE,
    Composition,
    Cost,
    Range,
    Timing,
    all_costs,
    compositions,
    cost,
    make_plan,
    most_frames,
    piloted,
)

LOW, HIGH = 1 - MACHINE, 1 + MACHINE


def group(name="H2O", n_frames=20, n_atoms=3, volumes=(100.0, 100.0, 100.0)):
    order = np.arange(n_frames)
    return Composition(name, n_atoms, order, order[:3], volumes)


def exact(start, first, following, memory=None):
    return Cost(*(Range(value, value, value) for value in (start, first, following)), memory)


def bounds(value):
    return pytest.approx((value.low, value.estimate, value.high))


def moved(shift):
    atoms = molecule("H2O", cell=[6, 6, 6], pbc=True)
    atoms.positions[0, 0] += shift
    return atoms


def test_a_job_pays_its_start_and_its_first_frame_once():
    """Two jobs of ten: 2 x (5 + 4 + 9 x 2) s = 54 s, on 4 cores."""
    plan = make_plan([group()], [exact(5, 4, 2)], cores=4, wallclock_s=3600, max_concurrent=1, frames_per_job=10)
    assert (plan.n_frames, plan.n_jobs, plan.frames_per_job) == (20, 2, 10)
    assert bounds(plan.wall_s) == (54 * LOW, 54, 54 * HIGH)
    assert bounds(plan.core_hours) == (4 * 54 * LOW / 3600, 4 * 54 / 3600, 4 * 54 * HIGH / 3600)
    assert plan.job_s.estimate == 27
    assert plan.memory is None


def test_jobs_at_a_time_share_the_wall_time_but_not_the_core_hours():
    """Three jobs of 7, 6 and 7 frames, two at a time: the first two, then the third."""
    arguments = {"cores": 1, "wallclock_s": 3600, "frames_per_job": 7}
    plan = make_plan([group()], [exact(0, 1, 1)], max_concurrent=2, **arguments)
    assert plan.n_jobs == 3
    assert plan.wall_s.estimate == 14
    assert plan.core_hours.estimate == pytest.approx(20 / 3600)
    assert make_plan([group()], [exact(0, 1, 1)], max_concurrent=3, **arguments).wall_s.estimate == 7


def test_the_recommended_job_ends_in_its_wall_time_also_if_all_frames_are_dear():
    own = Cost(Range(10, 10, 10), Range(30, 30, 30), Range(10, 12, 30), None)
    limit = 3600.0
    most = most_frames([own], limit)
    assert (10 + 30 * most) * HIGH <= SAFE_SHARE * limit < (10 + 30 * (most + 1)) * HIGH
    plan = make_plan([group(n_frames=1000)], [own], cores=1, wallclock_s=limit, max_concurrent=1)
    assert plan.frames_per_job == plan.most_frames_per_job == most
    assert plan.job_s.high <= SAFE_SHARE * limit
    # as many jobs as may run at a time
    few = make_plan([group(n_frames=21)], [own], cores=1, wallclock_s=limit, max_concurrent=4)
    assert (few.frames_per_job, few.n_jobs) == (6, 4)


def test_a_frame_that_takes_longer_than_a_job_is_refused():
    with pytest.raises(FramesError, match=r"one frame alone may take 1\.33 hours, more than 90%"):
        most_frames([exact(0, 4000, 10)], 3600)


def test_the_range_reaches_from_the_cheapest_frame_to_one_that_gains_nothing():
    own = cost([Timing(2.0, 9.0, (4.0, 6.0), 100.0, processes=4, threads=2)], group(), [100.0])
    assert bounds(own.next) == (4, 5, 9)
    assert bounds(own.first) == (9, 9, 9)
    assert bounds(own.memory) == (400, 400, 400 * MEMORY_SPARE)
    free = cost([Timing(2.0, 9.0, (4.0, 6.0), None, carries=False)], group(), [100.0])
    assert bounds(free.next) == (4, 5, 6)
    assert free.memory is None
    single = cost([Timing(0.0, value, (), None) for value in (7.0, 8.0, 12.0)], group(), [100.0] * 3)
    assert single.next == single.first == Range(7, 9, 12)


def test_truth_is_inside_for_frames_whose_times_scatter_as_those_of_the_pilot():
    """100 sets of 200 frames; times scatter by 15 %, and the machine by 10 % from job to job."""
    random = np.random.default_rng(5)
    inside = 0
    for _ in range(100):
        pilot = Timing(3.0, 10.0, tuple(5 * random.lognormal(0, 0.15, 2)), None)
        own = cost([pilot], group(n_frames=200), [100.0])
        plan = make_plan([group(n_frames=200)], [own], cores=1, wallclock_s=86400, max_concurrent=1, frames_per_job=50)
        truth = sum(random.normal(1, 0.1) * (13 + 5 * random.lognormal(0, 0.15, 49).sum()) for _ in range(4))
        inside += truth in plan.wall_s
    assert inside >= 95


def test_larger_cells_than_the_pilots_take_more_time_and_memory():
    timing = Timing(0.0, 10.0, (10.0, 10.0), 100.0)
    own = cost([timing], group(volumes=(90.0, 120.0, 150.0)), [100.0, 100.0, 100.0])
    assert bounds(own.next) == (10, 10, 12)
    assert own.memory.high == pytest.approx(100 * MEMORY_SPARE * 1.5)
    smaller = cost([timing], group(volumes=(50.0, 80.0, 90.0)), [100.0, 100.0, 100.0])
    assert bounds(smaller.next) == (8, 10, 10)
    assert smaller.memory.high == pytest.approx(100 * MEMORY_SPARE)
    gas = cost([timing], group(volumes=(math.nan,) * 3), [math.nan])
    assert bounds(gas.next) == (10, 10, 10)


def test_memory_is_that_of_the_largest_composition():
    small, large = exact(0, 1, 1, Range(50, 60, 70)), exact(0, 1, 1, Range(200, 210, 250))
    plan = make_plan([group("a"), group("b")], [small, large], cores=1, wallclock_s=3600, max_concurrent=1)
    assert bounds(plan.memory) == (200, 210, 250)


def test_jobs_of_several_compositions_pay_one_start():
    groups, costs = [group("a", 4), group("b", 6)], [exact(5, 1, 1), exact(5, 2, 2)]
    arguments = {"cores": 1, "wallclock_s": 3600, "max_concurrent": 1, "frames_per_job": 10}
    assert make_plan(groups, costs, mixed=True, **arguments).wall_s.estimate == 5 + 4 + 12
    assert make_plan(groups, costs, **arguments).wall_s.estimate == 5 + 4 + 5 + 12


def test_a_composition_without_a_pilot_lies_between_its_neighbours():
    """Times that go with the third power of the size are found again."""
    groups = [group("small", n_atoms=10), group("middle", n_atoms=20), group("large", n_atoms=40)]
    known = {name: exact(1, n**3, n**3, Range(n, n, n)) for name, n in (("small", 10), ("large", 40))}
    _, own, _ = all_costs(groups, known)
    assert bounds(own.next) == (10**3, 20**3, 40**3)
    assert bounds(own.memory) == (10, 20, 40)
    assert bounds(own.start) == (1, 1, 1)
    with pytest.raises(FramesError, match="says nothing of middle"):
        all_costs(groups, {"small": known["small"]})


def test_of_many_compositions_the_smallest_the_largest_and_the_most_frequent_get_a_pilot():
    groups = [group(f"{n}", n_atoms=n, n_frames=frames) for n, frames in ((9, 5), (3, 4), (6, 50), (12, 8), (15, 3))]
    assert [each.name for each in piloted(groups)] == ["3", "6", "12", "15"]
    assert piloted(groups[:4]) == groups[:4]


def test_pilot_frames_are_neighbours_in_the_order_in_which_jobs_take_them():
    random = np.random.default_rng(1)
    shifts = random.permutation(np.linspace(0, 1, 11))
    images = [moved(shift) for shift in shifts] + [molecule("CO2")] * 4
    (water, gas) = compositions(Frames.from_atoms(images))
    (order, _) = batch_indices(Frames.from_atoms(images), 100)
    assert water.n_frames == 11
    assert water.pilot.tolist() == order[4:7].tolist()
    assert np.ptp(shifts[water.pilot]) == pytest.approx(0.2)
    # equal frames are computed once
    assert (gas.n_frames, gas.pilot.tolist(), gas.name) == (1, [11], "CO2 without a cell")


def test_atoms_in_another_order_are_another_composition():
    turned = [Atoms(moved(shift)[::-1]) for shift in (0.0, 0.1)]
    names = [each.name for each in compositions(Frames.from_atoms([moved(0.0), *turned]))]
    assert names == ["H2O", "H2O, order of atoms 2"]


def test_two_frames_are_no_set_to_plan_for():
    frames = Frames.from_atoms([moved(0.0), moved(0.1), moved(0.0)])
    with pytest.raises(FramesError, match="holds 2 different frames, and a pilot takes 3: label them at once"):
        compositions(frames)
