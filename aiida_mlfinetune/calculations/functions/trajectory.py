"""Pieces of one trajectory, joined."""

from __future__ import annotations

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.frames import Frames

FRAMES_PREFIX = "frames_"
PROPERTIES_PREFIX = "properties_"


@calcfunction
def join_trajectory(**pieces: orm.Data) -> dict[str, orm.Data]:
    """Join the pieces of a run that was restarted; a step that two pieces hold is taken from the later one.

    Inputs are ``frames_<number>`` (datasets) and ``properties_<number>`` (arrays with ``step``) in order of the
    numbers. Returns ``trajectory`` and ``properties``.
    """
    names = sorted(pieces)
    sets = [pieces[name] for name in names if name.startswith(FRAMES_PREFIX)]
    frames = Frames.concatenate([one.frames for one in sets])
    kept = frames.select(_last_of_each(frames.steps))
    sources: dict[str, list[str]] = {}
    for one in sets:
        for key, values in one.level_sources.items():
            sources[key] = list(dict.fromkeys([*sources.get(key, []), *values]))
    tables = [pieces[name] for name in names if name.startswith(PROPERTIES_PREFIX)]
    columns = {
        name: np.concatenate([table.get_array(name) for table in tables]) for name in sorted(tables[0].get_arraynames())
    }
    rows = _last_of_each(columns["step"])
    return {
        "trajectory": DatasetData(kept, sources),
        "properties": orm.ArrayData({name: values[rows] for name, values in columns.items()}),
    }


def _last_of_each(steps: np.ndarray) -> np.ndarray:
    """Return the index of the last occurrence of every step, in order of the steps."""
    _, reverse = np.unique(steps[::-1], return_index=True)
    return len(steps) - 1 - reverse
