"""Where the frames of a dataset were chosen from, by the graph."""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.data.dataset import DatasetData

__all__ = ("origins",)

SAME_FRAMES = ("dataset", "batch")
"""Inputs of a calcfunction whose frames its result holds; others give labels only."""
JOIN = "join"
"""The calcfunction whose result holds the frames of all of its inputs, whatever they are called."""


def origins(dataset: DatasetData) -> list[DatasetData]:
    """Return the datasets that the frames of a dataset come from: trajectories of jobs, and files that were imported.

    Calcfunctions that choose, join, or label frames are followed back, and a subset leads to the set it is a part of. A
    dataset that a job or a file made is its own origin, for which the list is empty.
    """
    found: dict[int, DatasetData] = {}
    seen: set[int] = set()
    pending = [dataset]
    while pending:
        node = pending.pop()
        if node.pk in seen:
            continue
        seen.add(node.pk)
        parents = _parents(node)
        if parents:
            pending += parents
        elif node.pk != dataset.pk:
            found[node.pk] = node
    return [found[pk] for pk in sorted(found)]


def _parents(node: DatasetData) -> list[DatasetData]:
    """Return the datasets whose frames a dataset holds or chooses from; none where a job or a file made it."""
    creator = node.creator
    if not isinstance(creator, orm.CalcFunctionNode):
        return [node.parent] if node.is_subset else []
    links = creator.base.links.get_incoming(node_class=DatasetData).all()
    named = [link.node for link in links if link.link_label in SAME_FRAMES]
    if creator.process_label == JOIN:
        named = []
    return named or [link.node for link in links]
