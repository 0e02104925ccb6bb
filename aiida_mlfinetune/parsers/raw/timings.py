"""What the frames of a job cost, from what its program wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from aiida_mlfinetune.parsers.raw.cp2k_reftraj import parse_reftraj
from aiida_mlfinetune.science.plans.labelling import Timing

KIB_PER_MIB = 1024.0
# The wall time of each frame but the first, whatever CP2K calls it.
_FRAME = re.compile(r"^ MD\| CPU time per MD step \[s\]\s+([\d.]+)", re.MULTILINE)
_MEMORY = re.compile(r"Estimated peak process memory(?: after this step)? \[MiB\]\s+(\d+)")
_PROCESSES = re.compile(r"GLOBAL\| Total number of message passing processes\s+(\d+)")
_THREADS = re.compile(r"GLOBAL\| Number of threads for this process\s+(\d+)")


def cp2k_timing(text: str, n_frames: int) -> Timing | None:
    """Return the timing of a CP2K REFTRAJ run over ``n_frames`` frames, None if it did not come to its end.

    CP2K tells the time of every frame but the first. What is left of the whole is start and first frame; they are told
    apart by the numbers of SCF steps, as if time went with these.
    """
    run = parse_reftraj(text, 0)
    later = tuple(float(seconds) for seconds in _FRAME.findall(text))
    if len(run.frames) != n_frames or len(later) != n_frames - 1 or run.seconds <= 0:
        return None
    opening = max(0.0, run.seconds - sum(later))
    first = opening
    steps = [frame.scf_steps for frame in run.frames]
    if later:
        ratio = steps[0] / fmean(steps[1:]) if all(steps) else 1.0
        first = min(opening, ratio * fmean(later))
    memory = [float(value) for value in _MEMORY.findall(text)]
    processes, threads = _PROCESSES.search(text), _THREADS.search(text)
    return Timing(
        start_s=opening - first,
        first_s=first,
        next_s=later,
        memory=max(memory) if memory else None,
        processes=int(processes[1]) if processes else 1,
        threads=int(threads[1]) if threads else 1,
    )


def ase_timing(lines: Sequence[Mapping[str, Any]]) -> Timing | None:
    """Return the timing of a job of an ASE calculator from the lines of its frames, None if they do not hold it.

    Nothing is carried from frame to frame: what the first one takes longer than the others is counted to the start.
    """
    if not lines or not all("seconds" in line for line in lines):
        return None
    seconds = [float(line["seconds"]) for line in lines]
    first = min(seconds[0], max(seconds[1:], default=seconds[0]))
    return Timing(
        start_s=float(lines[0]["elapsed_s"]) - first,
        first_s=first,
        next_s=tuple(seconds[1:]),
        memory=float(lines[-1]["peak_memory_MiB"]),
        threads=int(lines[0]["threads"]),
        carries=False,
    )


def vasp_timing(misc: Mapping[str, Any], processes: int) -> Timing | None:
    """Return the timing of a VASP run from what aiida-vasp calls ``misc``, None if OUTCAR did not come to its end."""
    stats = misc.get("run_stats") or {}
    seconds = stats.get("elapsed_time")
    if not seconds:
        return None
    memory = stats.get("maximum_memory_used")
    return Timing(0.0, float(seconds), (), memory / KIB_PER_MIB if memory else None, processes, carries=False)
