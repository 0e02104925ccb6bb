"""The datasets that foundations of this package were trained on, as nodes, for replay.

Each is ``NAME.npz`` beside the model, in the layout of ``Frames.to_arrays``, with the metadata of its levels in
``NAME.levels.yaml``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from aiida import orm

from aiida_mlfinetune.common.errors import ModelError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.foundations import FOLDER
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Level


def available_replay_sets(folder: Path = FOLDER) -> list[str]:
    """Return the names of the foundations whose data the package ships."""
    return sorted(path.stem for path in folder.glob("*.npz"))


def read_replay_set(name: str, folder: Path = FOLDER) -> Frames:
    """Return the frames, with labels, that a foundation was trained on.

    Raises:
        ModelError: the package ships no data of this foundation.
    """
    if name not in available_replay_sets(folder):
        raise ModelError(
            f"the data of the foundation {name!r} do not come with the package, which ships those of "
            f"{available_replay_sets(folder)}: get them, import them with `aiida-mlfinetune dataset import`, and pass "
            "the node"
        )
    levels = [Level.from_dict(entry) for entry in yaml.safe_load((folder / f"{name}.levels.yaml").read_text("utf-8"))]
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return Frames.from_arrays(dict(arrays), sorted(levels, key=lambda level: level.key), [f"foundation {name}"])


def load_replay_set(name: str) -> DatasetData:
    """Return the stored node of the data of a foundation; it is made if this profile does not hold it yet.

    Raises:
        ModelError: the package ships no data of this foundation.
    """
    frames = read_replay_set(name)
    filters = {
        f"attributes.{DatasetData.KEY_HASH}": frames.content_hash(),
        "attributes": {"!has_key": DatasetData.KEY_PARENT},
    }
    found = orm.QueryBuilder().append(DatasetData, filters=filters).first(flat=True)
    if found is not None:
        return found
    return DatasetData(frames).store()
