"""Pieces of one trajectory, joined."""

from __future__ import annotations

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames

FRAMES_PREFIX = "frames_"
PROPERTIES_PREFIX = "properties_"


@calcfunction
def join_trajectory(**pieces: orm.Data) -> dict[str, orm.Data]:
    """Join the pieces of a run that was restarted; a step that two pieces hold is taken from the later one.

    A step may have several frames, its beads, which stay together.

    Inputs are ``frames_<number>`` (datasets) and ``properties_<number>`` (arrays with ``step``) in order of the
    numbers. Returns ``trajectory`` and ``properties``.
    """
    names = sorted(pieces)
    sets = [pieces[name] for name in names if name.startswith(FRAMES_PREFIX)]
    frames = Frames.concatenate([one.frames for one in sets])
    kept = frames.select(_of_the_last_piece(frames.steps, np.repeat(np.arange(len(sets)), [s.n_frames for s in sets])))
    sources: dict[str, list[str]] = {}
    for one in sets:
        for key, values in one.level_sources.items():
            sources[key] = list(dict.fromkeys([*sources.get(key, []), *values]))
    tables = [pieces[name] for name in names if name.startswith(PROPERTIES_PREFIX)]
    columns = {
        name: np.concatenate([table.get_array(name) for table in tables]) for name in sorted(tables[0].get_arraynames())
    }
    pieces_of_rows = np.repeat(np.arange(len(tables)), [len(table.get_array("step")) for table in tables])
    rows = _of_the_last_piece(columns["step"], pieces_of_rows)
    return {
        "trajectory": DatasetData(kept, sources),
        "properties": orm.ArrayData({name: values[rows] for name, values in columns.items()}),
    }


def _of_the_last_piece(steps: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Return the indices, in order of the steps, of what the last piece that holds a step has of it.

    Args:
        steps: (n,) step of each entry.
        pieces: (n,) number of the piece that it comes from.
    """
    last = {int(step): int(piece) for step, piece in zip(steps, pieces, strict=True)}
    kept = np.array([last[int(step)] for step in steps], dtype=np.int64) == pieces
    order = np.argsort(steps, kind="stable")
    return order[kept[order]]
