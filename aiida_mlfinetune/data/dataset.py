"""``mlfinetune.dataset``: any number of frames with labels at any number of levels, in one node."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from aiida import orm
from numpy.typing import ArrayLike, NDArray

from aiida_mlfinetune.common.errors import FramesError, LabelsError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level


class DatasetData(orm.Data):
    """Frames as flat arrays in one file, or a subset of another dataset as indices into it.

    A subset (``DatasetData.subset``) stores no coordinates: it names its root dataset by content hash and finds it in
    the database, so that equal subsets of equal datasets are equal nodes. The names of the processes that made frames
    and labels are kept, but are not part of the node's hash: the same numbers are the same dataset.
    """

    FRAMES_FILENAME = "frames.npz"
    INDICES_FILENAME = "indices.npy"
    KEY_HASH = "content_hash"
    KEY_PARENT = "parent_content_hash"
    KEY_SOURCES = "frame_sources"
    KEY_LEVEL_SOURCES = "level_sources"
    _hash_ignored_attributes = (KEY_SOURCES, KEY_LEVEL_SOURCES)

    _frames: Frames | None = None
    _parent: DatasetData | None = None

    def __init__(
        self, frames: Frames | None = None, level_sources: Mapping[str, Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        """Make a dataset of ``frames``; ``level_sources`` names the processes behind each level, by level key."""
        super().__init__(**kwargs)
        if frames is None:
            return
        if len(frames) == 0:
            raise FramesError("a dataset needs at least one frame")
        self._put(self.FRAMES_FILENAME, frames.to_arrays())
        self._describe(frames, level_sources or {})

    @classmethod
    def subset(cls, parent: DatasetData, indices: ArrayLike) -> DatasetData:
        """Return the frames of ``parent`` at ``indices`` as a view; a view of a view refers to the root dataset.

        Raises:
            FramesError: no index, or one out of range.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if chosen.size == 0:
            raise FramesError("a subset needs at least one frame")
        frames = parent.frames.select(chosen)
        root, root_indices = parent, chosen
        if parent.is_subset:
            root, root_indices = parent.parent, parent.indices[chosen]
        view = cls()
        buffer = io.BytesIO()
        np.save(buffer, root_indices, allow_pickle=False)
        view.base.repository.put_object_from_bytes(buffer.getvalue(), cls.INDICES_FILENAME)
        view.base.attributes.set(cls.KEY_PARENT, root.content_hash)
        view._describe(frames, parent.level_sources)
        view._parent = root
        return view

    # reading ----------------------------------------------------------------------------------------------------

    @property
    def frames(self) -> Frames:
        """The frames with all their labels (read once per instance)."""
        if self._frames is None:
            if self.is_subset:
                self._frames = self.parent.frames.select(self.indices)
            else:
                stored = self.levels
                levels = [Level.from_dict(stored[key]["level"]) for key in sorted(stored)]
                self._frames = Frames.from_arrays(self._get(self.FRAMES_FILENAME), levels, self.frame_sources)
        return self._frames

    @property
    def is_subset(self) -> bool:
        """Whether this node holds indices into another dataset."""
        return self.base.attributes.get(self.KEY_PARENT, None) is not None

    @property
    def indices(self) -> NDArray[np.int64]:
        """(n,) indices of a subset's frames in its root dataset."""
        with self.base.repository.open(self.INDICES_FILENAME, "rb") as handle:
            return np.load(io.BytesIO(handle.read()), allow_pickle=False)

    @property
    def parent(self) -> DatasetData:
        """The root dataset of a subset, found in the graph by its content hash.

        Raises:
            FramesError: the root dataset is not in this database.
        """
        if self._parent is None:
            wanted = self.base.attributes.get(self.KEY_PARENT)
            query = orm.QueryBuilder().append(
                DatasetData,
                filters={
                    f"attributes.{self.KEY_HASH}": wanted,
                    "attributes": {"!has_key": self.KEY_PARENT},
                },
            )
            found = query.first(flat=True)
            if found is None:
                raise FramesError(
                    f"dataset {self.uuid} is a subset of a dataset with content hash {wanted}, which is not in this "
                    "database: import the archive that holds it"
                )
            self._parent = found
        return self._parent

    @property
    def content_hash(self) -> str:
        """Hash of the frames in order with all labels, without the names of their sources."""
        return self.base.attributes.get(self.KEY_HASH)

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.base.attributes.get("n_frames")

    @property
    def elements(self) -> list[str]:
        """Chemical symbols that occur."""
        return self.base.attributes.get("elements")

    @property
    def levels(self) -> dict[str, dict[str, Any]]:
        """By level key: ``level`` (metadata), ``counts`` and ``energy_eV_per_atom`` (min, mean, std)."""
        return self.base.attributes.get("levels")

    @property
    def frame_sources(self) -> list[str]:
        """Uuids of the processes that made the frames."""
        return self.base.attributes.get(self.KEY_SOURCES)

    @property
    def level_sources(self) -> dict[str, list[str]]:
        """Uuids of the processes that made the labels, by level key."""
        return self.base.attributes.get(self.KEY_LEVEL_SOURCES)

    # writing ----------------------------------------------------------------------------------------------------

    def _describe(self, frames: Frames, level_sources: Mapping[str, Sequence[str]]) -> None:
        if unknown := set(level_sources) - set(frames.labels_by_level):
            raise LabelsError(f"sources are given for levels that the frames lack: {sorted(unknown)}")
        formulas, counts = np.unique(frames.formulas, return_counts=True)
        n_atoms = frames.n_atoms
        self.base.attributes.set_many(
            {
                self.KEY_HASH: frames.content_hash(),
                self.KEY_SOURCES: list(frames.sources),
                self.KEY_LEVEL_SOURCES: {key: list(value) for key, value in level_sources.items()},
                "n_frames": len(frames),
                "elements": frames.elements,
                "formulas": dict(zip(formulas.tolist(), counts.tolist(), strict=True)),
                "n_atoms_min": int(n_atoms.min()),
                "n_atoms_max": int(n_atoms.max()),
                "levels": {key: _summary(labels, n_atoms) for key, labels in sorted(frames.labels_by_level.items())},
            }
        )
        self._frames = frames

    def _put(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        self.base.repository.put_object_from_bytes(buffer.getvalue(), name)

    def _get(self, name: str) -> dict[str, NDArray[Any]]:
        with self.base.repository.open(name, "rb") as handle:
            buffer = io.BytesIO(handle.read())
        with np.load(buffer, allow_pickle=False) as arrays:
            return dict(arrays)

    def _validate(self) -> bool:
        super()._validate()
        if self.KEY_HASH not in self.base.attributes.all:
            raise FramesError("an empty dataset cannot be stored: make it with DatasetData(frames=...)")
        return True


def _summary(labels: Labels, n_atoms: NDArray[np.int64]) -> dict[str, Any]:
    """Return what queries on a level need without opening the file."""
    per_atom = (labels.energy / n_atoms)[labels.has_energy]
    statistics = {}
    if per_atom.size:
        statistics = {"min": float(per_atom.min()), "mean": float(per_atom.mean()), "std": float(per_atom.std())}
    return {"level": labels.level.to_dict(), "counts": labels.counts, "energy_eV_per_atom": statistics}
