"""What N labels cost in processes and nodes of the provenance graph, and in time beside the engine's own.

Frames of one water molecule, labelled at GFN1-xTB by tblite in jobs of 100. All nodes that are created count, the
dataset that is labelled included. Prints one JSON line last. Usage: ``engine_cost.py [N]``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _profile import local_code, local_computer, temporary_profile
from aiida import orm
from aiida.engine import run_get_node
from ase.build import molecule

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain

FRAMES_PER_JOB = 100


def water_frames(n: int) -> Frames:
    """Return n distorted water molecules without a cell."""
    rng = np.random.default_rng(1)
    images = []
    for _ in range(n):
        image = molecule("H2O")
        image.positions += rng.normal(scale=0.05, size=(3, 3))
        images.append(image)
    return Frames.from_atoms(images)


def count(kind: type[orm.Node]) -> int:
    """Return the number of nodes of a kind."""
    return orm.QueryBuilder().append(kind).count()


def main(n: int) -> dict[str, Any]:
    """Label, and count."""
    with temporary_profile() as folder:
        code = local_code(local_computer(folder, poll_s=0.5), Path(sys.executable).name, "mlfinetune.ase_label")
        nodes, processes = count(orm.Node), count(orm.ProcessNode)
        builder = LabellingWorkChain.get_builder_from_protocol(
            code,
            DatasetData(water_frames(n)),
            level="gfn1-xtb-tblite",
            protocol="demo",
            overrides={"frames_per_job": FRAMES_PER_JOB},
        )
        start = time.perf_counter()
        outputs, node = run_get_node(builder)
        seconds = time.perf_counter() - start
        if not node.is_finished_ok or outputs["dataset"].n_frames != n:
            raise SystemExit(f"the labelling failed: {node.exit_message}")
        nodes, processes = count(orm.Node) - nodes, count(orm.ProcessNode) - processes
    return {
        "benchmark": "engine_cost",
        "n_frames": n,
        "processes_per_frame": round(processes / n, 4),
        "nodes_per_frame": round(nodes / n, 4),
        "ms_per_frame": round(1e3 * seconds / n, 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)))
