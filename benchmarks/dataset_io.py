"""Time and size of datasets of 96 atoms with energies, forces and stress, against extended XYZ (ase.io).

Every figure is the median over repetitions on fresh data: a write makes and stores a new node, a read loads the node
anew and returns its frames; the same content goes through ``ase.io.write`` and ``ase.io.read``. The 50 000 frames are
written and read once. Runs in a temporary profile (SQLite and a repository on disk) of its own, and prints one JSON
line last.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from _profile import temporary_profile
from aiida import orm

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level

N_ATOMS = 96
N_FRAMES = 500
N_MANY = 50_000
LEVEL = Level("revpbe-d3/cp2k", engine="cp2k", method="revPBE-D3(zero)", basis="TZV2P, 1000 Ry")


def random_frames(n: int, seed: int) -> Frames:
    """Return ``n`` frames of 32 water molecules' worth of atoms in a triclinic cell, with all labels."""
    rng = np.random.default_rng(seed)
    numbers = np.tile([8, 1, 1], N_ATOMS // 3).astype(np.int16)
    offsets = np.arange(n + 1, dtype=np.int64) * N_ATOMS
    cells = np.diag([9.0, 9.5, 10.0]) + rng.normal(scale=0.1, size=(n, 3, 3))
    frames = Frames(
        numbers=np.tile(numbers, n),
        positions=rng.uniform(0.0, 9.0, size=(n * N_ATOMS, 3)),
        offsets=offsets,
        cells=cells,
        pbc=np.ones((n, 3), dtype=bool),
        steps=np.arange(n, dtype=np.int64),
        source_index=np.zeros(n, dtype=np.int64),
        sources=("benchmark",),
    )
    stress = rng.normal(scale=0.01, size=(n, 3, 3))
    labels = Labels.build(
        LEVEL, offsets, rng.normal(size=n) - 15000.0, rng.normal(size=(n * N_ATOMS, 3)), stress + stress.swapaxes(1, 2)
    )
    return frames.with_labels(labels)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the wall time of a call in seconds, and its result."""
    gc.collect()
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def node_times(frames: Frames) -> tuple[float, float, DatasetData]:
    """Return the times in seconds to write and to read a node of ``frames``, and the node."""
    write, node = timed(lambda: DatasetData(frames=frames).store())
    read, back = timed(lambda: orm.load_node(node.pk).frames)
    assert np.array_equal(back.positions, frames.positions)
    assert np.array_equal(back.labels(LEVEL.key).forces, frames.labels(LEVEL.key).forces)
    return write, read, node


def extxyz_times(frames: Frames, folder: Path) -> tuple[float, float, int]:
    """Return the times in seconds to write and to read the frames as extended XYZ, and the size in bytes."""
    images = frames.to_atoms(LEVEL.key)
    path = folder / "frames.xyz"
    write, _ = timed(lambda: ase.io.write(path, images, format="extxyz"))
    read, back = timed(lambda: ase.io.read(path, ":", format="extxyz"))
    assert len(back) == len(frames)
    return write, read, path.stat().st_size


def stored_kib(node: DatasetData) -> float:
    """Return the size of a node's file in KiB."""
    repository = node.base.repository
    return sum(len(repository.get_object_content(name, "rb")) for name in repository.list_object_names()) / 1024


def main() -> None:
    repetitions = 7
    with temporary_profile() as folder:
        DatasetData(frames=random_frames(2, 0)).store()  # imports and the database's first connection
        runs = [node_times(random_frames(N_FRAMES, seed)) for seed in range(1, repetitions + 1)]
        text = [extxyz_times(random_frames(N_FRAMES, seed), folder) for seed in range(1, 4)]
        write, read = (statistics.median(run[column] for run in runs) * 1000 / N_FRAMES for column in (0, 1))
        text_write, text_read = (statistics.median(run[column] for run in text) * 1000 / N_FRAMES for column in (0, 1))
        many_write, many_read, many = node_times(random_frames(N_MANY, 99))
        result = {
            "n_frames": N_FRAMES,
            "n_atoms": N_ATOMS,
            "nodes": 1,
            "write_ms_per_frame": round(write, 4),
            "read_ms_per_frame": round(read, 4),
            "kib_per_frame": round(stored_kib(runs[0][2]) / N_FRAMES, 3),
            "extxyz_write_ms_per_frame": round(text_write, 4),
            "extxyz_read_ms_per_frame": round(text_read, 4),
            "extxyz_kib_per_frame": round(text[0][2] / 1024 / N_FRAMES, 3),
            "write_ratio": round(text_write / write, 2),
            "read_ratio": round(text_read / read, 2),
            "write_ms_per_frame_50000": round(many_write * 1000 / N_MANY, 4),
            "read_ms_per_frame_50000": round(many_read * 1000 / N_MANY, 4),
            "kib_per_frame_50000": round(stored_kib(many) / N_MANY, 3),
        }
    print(f"aiida-mlfinetune on Python {sys.version.split()[0]}, numpy {np.__version__}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
