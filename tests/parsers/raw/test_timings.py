"""Times and memory from what the programs wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiida_mlfinetune.parsers.raw.timings import ase_timing, cp2k_timing, vasp_timing

WHOLE = (Path(__file__).parents[1] / "recorded" / "cp2k_label_whole" / "aiida.out").read_text()
HEAD = """
 GLOBAL| Total number of message passing processes                             8
 GLOBAL| Number of threads for this process                                    3
"""


def test_cp2k_tells_all_frames_but_the_first():
    """1.448 s in all, 0.419321 and 0.344160 s for the last two, after 11, 10 and 10 SCF steps."""
    timing = cp2k_timing(HEAD + WHOLE, 3)
    assert timing.next_s == (0.419321, 0.344160)
    assert timing.first_s == pytest.approx(1.1 * (0.419321 + 0.344160) / 2)
    assert timing.start_s + timing.first_s + sum(timing.next_s) == pytest.approx(1.448)
    assert (timing.memory, timing.processes, timing.threads, timing.cores) == (138, 8, 3, 24)
    assert timing.carries


def test_the_clock_counts_where_it_saw_more_than_cp2k():
    head, tail = WHOLE.split("ENDED AT", 1)
    text = head + "ENDED AT" + tail.replace("00:00:00.000", "00:00:04.500", 1)
    timing = cp2k_timing(text, 3)
    assert timing.start_s + timing.first_s + sum(timing.next_s) == pytest.approx(4.5)


@pytest.mark.parametrize("end", ["CP2K                                 1", " MD| Step number", "CP2K| version"])
def test_a_run_that_did_not_end_tells_nothing(end):
    assert cp2k_timing(WHOLE[: WHOLE.rindex(end)], 3) is None


def test_a_run_of_other_frames_tells_nothing():
    assert cp2k_timing(WHOLE, 4) is None


def line(seconds, elapsed):
    return {"seconds": seconds, "elapsed_s": elapsed, "peak_memory_MiB": 10 * elapsed, "threads": 2}


def test_what_a_calculator_does_once_is_no_part_of_a_frame():
    timing = ase_timing([line(5.0, 7.0), line(1.0, 8.0), line(1.5, 9.5)])
    assert (timing.start_s, timing.first_s, timing.next_s) == (5.5, 1.5, (1.0, 1.5))
    assert (timing.memory, timing.cores, timing.carries) == (95, 2, False)
    assert ase_timing([line(5.0, 7.0)]).first_s == 5


def test_labels_without_times_tell_nothing():
    assert ase_timing([]) is None
    assert ase_timing([{"energy": 0.0}]) is None


def test_vasp_tells_seconds_and_kibibytes():
    timing = vasp_timing({"run_stats": {"elapsed_time": 12.5, "maximum_memory_used": 2048.0}}, processes=4)
    assert (timing.first_s, timing.next_s, timing.memory, timing.cores) == (12.5, (), 2, 4)
    assert vasp_timing({"run_stats": {"elapsed_time": 12.5, "maximum_memory_used": None}}, 1).memory is None
    assert vasp_timing({"run_stats": {}}, 1) is None
