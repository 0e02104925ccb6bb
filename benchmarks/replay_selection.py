"""Time to choose 1000 replay frames out of 10 000 frames of 24 atoms, beside the descriptors themselves.

Water molecules on a jittered lattice, turned at random, at random volumes. ``mlfinetune.replay`` is run as a user runs
it, with the foundation `ice-xtb`: ``descriptors_s`` is the wall time of its one job, submission and parsing included,
``selection_s`` that of all the rest (filter, farthest points, storing every node). ``farthest_points_s`` is the part of
the sampling alone, repeated outside, and ``farthest_points_256_s`` the same with the 256 descriptors per element that
MACE-MP-0 has. Runs in a temporary profile (SQLite and a repository on disk), and prints one JSON line last.

    python benchmarks/replay_selection.py [--frames N] [--chosen N]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from _profile import local_code, local_computer, temporary_profile
from aiida import orm
from aiida.engine import run_get_node
from scipy.spatial.transform import Rotation

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from aiida_mlfinetune.science.training.replay import FrameDescriptors, element_pairs, farthest_points
from aiida_mlfinetune.workchains.replay import ReplayWorkChain

N_MOLECULES = 8
WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
"""O, H, H in angstrom."""
EDGE_A = 6.3
LEVEL = Level("gfn1-xtb/cp2k", engine="cp2k", method="GFN1-xTB")


def water_frames(n: int, seed: int) -> Frames:
    """Return n periodic frames of 24 atoms with energies."""
    rng = np.random.default_rng(seed)
    edges = EDGE_A * rng.uniform(0.95, 1.1, size=n)
    sites = np.stack(np.meshgrid(*[[0.25, 0.75]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    centres = sites * edges[:, None, None] + rng.normal(scale=0.1, size=(n, N_MOLECULES, 3))
    turned = Rotation.random(n * N_MOLECULES, random_state=seed).as_matrix().reshape(n, N_MOLECULES, 3, 3)
    atoms = centres[:, :, None, :] + WATER @ turned
    atoms += rng.normal(scale=0.03, size=atoms.shape)
    n_atoms = 3 * N_MOLECULES
    frames = Frames(
        numbers=np.tile([8, 1, 1], n * N_MOLECULES).astype(np.int16),
        positions=atoms.reshape(-1, 3),
        offsets=np.arange(n + 1, dtype=np.int64) * n_atoms,
        cells=edges[:, None, None] * np.eye(3),
        pbc=np.ones((n, 3), dtype=bool),
        steps=np.arange(n, dtype=np.int64),
        source_index=np.zeros(n, dtype=np.int64),
        sources=("benchmark",),
    )
    return frames.with_labels(Labels.build(LEVEL, frames.offsets, rng.normal(size=n)))


def seconds(node: orm.ProcessNode) -> float:
    """Return the wall time of a process."""
    return (node.mtime - node.ctime).total_seconds()


def sampling_time(descriptors: FrameDescriptors, n: int) -> float:
    """Return the time in s of farthest-point sampling."""
    start = time.perf_counter()
    farthest_points(descriptors, n, seed=0)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--chosen", type=int, default=1000)
    arguments = parser.parse_args()
    frames = water_frames(arguments.frames, seed=1)
    with temporary_profile() as folder:
        code = local_code(local_computer(folder, poll_s=1.0), Path(sys.executable).name, "mlfinetune.mace_descriptors")
        builder = ReplayWorkChain.get_builder_from_protocol(
            code,
            DatasetData(frames).store(),
            load_foundation("ice-xtb"),
            ["H", "O"],
            overrides={"parameters": {"n_frames": arguments.chosen}, "evaluation": {"dtype": "float32"}},
        )
        start = time.perf_counter()
        outputs, node = run_get_node(builder)
        total = time.perf_counter() - start
        if not node.is_finished_ok:
            raise SystemExit(f"the work chain failed: {node.exit_message}")
        (job,) = [child for child in node.called if isinstance(child, orm.CalcJobNode)]
        described = seconds(job)
        found = FrameDescriptors(*(job.outputs.descriptors.get_array(name) for name in ("frame", "number", "mean")))
        radius = outputs["selection"]["radius"]
    wide = np.random.default_rng(2).normal(size=(len(element_pairs(frames)), 256)).astype(np.float32)
    result = {
        "n_frames": len(frames),
        "n_atoms": 3 * N_MOLECULES,
        "n_chosen": arguments.chosen,
        "selection_s": round(total - described, 2),
        "descriptors_s": round(described, 2),
        "farthest_points_s": round(sampling_time(found, arguments.chosen), 2),
        "farthest_points_256_s": round(
            sampling_time(FrameDescriptors(found.frame, found.number, wide), arguments.chosen), 2
        ),
        "radius": round(radius, 4),
    }
    print(f"aiida-mlfinetune on Python {sys.version.split()[0]}, numpy {np.__version__}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
