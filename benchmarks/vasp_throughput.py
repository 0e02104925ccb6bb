"""How many frames a second a daemon with two workers labels by VASP, where VASP itself takes no time.

Frames of two water molecules in a cell, labelled by the tests' stand-in for VASP (GFN1-xTB, some 0.1 s each), one job a
frame, ten at a time. The memory of a worker is taken after a quarter of the frames and at the end. Prints one JSON
line last; ``program_s_per_frame`` is the stand-in's own time, the rest is AiiDA's, aiida-vasp's and ours;
``worker_cpu_s_per_frame`` is the processor time of the workers after the first quarter, which other load leaves alone.
Usage: ``vasp_throughput.py [N]``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _profile import local_computer, temporary_profile
from aiida import orm
from aiida.engine import submit
from aiida.engine.daemon.client import get_daemon_client

sys.path.insert(0, str(Path(__file__).parents[1]))

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from tests.fixtures.vasp import FAMILY, STAND_IN, upload_family
from tests.fixtures.waters import two_waters

WORKERS = 2
AT_A_TIME = 10
ASK_S = 2.0
PATIENCE_S = 60


def frames(n: int) -> Frames:
    """Return n distorted frames."""
    rng = np.random.default_rng(1)
    images = []
    for _ in range(n):
        image = two_waters()
        image.positions += rng.normal(scale=0.05, size=(6, 3))
        images.append(image)
    return Frames.from_atoms(images)


def resident_mib(process: int) -> float:
    """Return the resident memory of a process in MiB."""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return float(text.split("VmRSS:")[1].split()[0]) / 1024


def cpu_s(process: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def jobs_done() -> int:
    """Return the number of VASP jobs that have ended."""
    ended = {"attributes.process_state": {"in": ["finished", "excepted", "killed"]}}
    return orm.QueryBuilder().append(orm.CalcJobNode, filters=ended).count()


def count(kind: type[orm.Node]) -> int:
    """Return the number of nodes of a kind."""
    return orm.QueryBuilder().append(kind).count()


def label(n: int, folder: Path) -> dict[str, Any]:
    """Label n frames with a daemon that runs, and measure."""
    client = get_daemon_client()
    upload_family(folder / "potcars", FAMILY)
    code = orm.InstalledCode(
        label="vasp",
        computer=local_computer(folder, poll_s=1.0),
        filepath_executable=str(STAND_IN),
        default_calc_job_plugin="vasp.vasp",
        prepend_text=f'export PATH="{Path(sys.executable).parent}:$PATH" OMP_NUM_THREADS=1',
    ).store()
    client.start_daemon(WORKERS, timeout=PATIENCE_S)
    try:
        workers = [int(pid) for pid in client.get_worker_info()["info"]]
        builder = LabellingWorkChain.get_builder_from_protocol(
            code,
            DatasetData(frames(n)),
            level="kaur2025-vasp",
            protocol="demo",
            overrides={
                "max_concurrent": AT_A_TIME,
                "level_overrides": {"potentials": {"family": FAMILY}},
                "metadata": {"options": {"withmpi": False}},
            },
        )
        nodes, processes = count(orm.Node), count(orm.ProcessNode)
        start = time.perf_counter()
        node = submit(builder)
        early: dict[int, float] = {}
        used, done = 0.0, 0
        while not node.is_terminated:
            time.sleep(ASK_S)
            if not early and jobs_done() >= n // 4:
                early = {worker: resident_mib(worker) for worker in workers}
                used, done = sum(map(cpu_s, workers)), jobs_done()
        seconds = time.perf_counter() - start
        used = (sum(map(cpu_s, workers)) - used) / max(1, n - done)
        growth = max(resident_mib(worker) - early[worker] for worker in workers)
    finally:
        client.stop_daemon(wait=True, timeout=PATIENCE_S)
    if not node.is_finished_ok or node.outputs.dataset.n_frames != n:
        raise SystemExit(f"the labelling failed: {node.exit_message}")
    jobs = [job for job in node.called_descendants if isinstance(job, orm.CalcJobNode)]
    program = float(np.mean([job.outputs.misc["run_stats"]["elapsed_time"] for job in jobs]))
    return {
        "benchmark": "vasp_throughput",
        "n_frames": n,
        "workers": WORKERS,
        "max_concurrent": AT_A_TIME,
        "frames_per_second": round(n / seconds, 3),
        "rss_growth_mib": round(growth, 1),
        "rss_mib": round(max(early.values()) + growth, 1),
        "program_s_per_frame": round(program, 3),
        "worker_s_per_frame": round(WORKERS * seconds / n, 3),
        "worker_cpu_s_per_frame": round(used, 3),
        "processes_per_frame": round((count(orm.ProcessNode) - processes) / n, 2),
        "nodes_per_frame": round((count(orm.Node) - nodes) / n, 2),
    }


def main(n: int) -> dict[str, Any]:
    """Label n frames in a profile of their own."""
    with temporary_profile("core.zeromq") as folder:
        return label(n, folder)


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)))
