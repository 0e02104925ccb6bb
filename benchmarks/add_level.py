"""Time that a dataset of 10 000 frames of 24 atoms takes to gain a level, beside the evaluation itself.

Timed are the steps of ``mlfinetune.labelling`` around its jobs: checking the frames, sorting them into two batches,
making the dataset of each batch from the labels of its job, and collecting them; each as the calcfunction or the node
that the work chain makes, stored in a temporary profile (SQLite and a repository on disk). The text that a program
prints is not parsed here: that belongs to its evaluation. Prints one JSON line last.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from _profile import temporary_profile
from aiida import orm

from aiida_mlfinetune.calculations.functions.labelling import BATCH, LABELLED, collect_labels, make_batches
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.checks import frames_problem
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level

N_FRAMES, N_ATOMS, FRAMES_PER_JOB = 10_000, 24, 5_000
LEVEL = Level("revpbe-d3/cp2k", engine="cp2k")


def random_frames(n: int) -> Frames:
    """Return ``n`` frames of eight molecules' worth of atoms, on a distorted grid."""
    rng = np.random.default_rng(0)
    grid = 2.2 * np.array([(i, j, k) for i in range(3) for j in range(3) for k in range(3)], dtype=float)[:N_ATOMS]
    return Frames(
        numbers=np.tile([8, 1, 1], n * N_ATOMS // 3).astype(np.int16),
        positions=(grid + rng.normal(scale=0.1, size=(n, N_ATOMS, 3))).reshape(-1, 3),
        offsets=np.arange(n + 1, dtype=np.int64) * N_ATOMS,
        cells=np.diag([6.8, 6.9, 7.0]) + rng.normal(scale=0.02, size=(n, 3, 3)),
        pbc=np.ones((n, 3), dtype=bool),
        steps=np.arange(n, dtype=np.int64),
        source_index=np.zeros(n, dtype=np.int64),
    )


def labelled(batch: DatasetData) -> DatasetData:
    """Return what the parser of a job makes of a batch: its frames with labels."""
    rng = np.random.default_rng(batch.n_frames)
    frames, n = batch.frames, batch.n_frames
    labels = Labels.build(
        LEVEL,
        frames.offsets,
        rng.normal(size=n),
        rng.normal(size=(len(frames.numbers), 3)),
        np.broadcast_to(np.eye(3), (n, 3, 3)),
    )
    return DatasetData(frames.with_labels(labels), {LEVEL.key: ["benchmark"]}).store()


def main() -> None:
    seconds: dict[str, float] = {}
    with temporary_profile():
        dataset = DatasetData(random_frames(N_FRAMES)).store()
        start = time.perf_counter()
        assert frames_problem(dataset.frames) is None
        seconds["check"] = time.perf_counter() - start
        start = time.perf_counter()
        batches = make_batches(dataset, orm.Int(FRAMES_PER_JOB), orm.Bool(False))
        seconds["batches"] = time.perf_counter() - start
        start = time.perf_counter()
        pieces = {name.replace(BATCH, LABELLED): labelled(orm.load_node(batch.pk)) for name, batch in batches.items()}
        seconds["parse"] = time.perf_counter() - start
        start = time.perf_counter()
        result = collect_labels(dataset, **batches, **pieces)
        seconds["collect"] = time.perf_counter() - start
        assert result["dataset"].levels[LEVEL.key]["counts"]["forces"] == N_FRAMES
    rounded = {f"{name}_s": round(value, 2) for name, value in seconds.items()}
    print(f"aiida-mlfinetune on Python {sys.version.split()[0]}, numpy {np.__version__}")
    print(json.dumps({"n_frames": N_FRAMES, "n_atoms": N_ATOMS, **rounded, "seconds": round(sum(seconds.values()), 2)}))


if __name__ == "__main__":
    main()
