"""The path from a result back to the calculations that it came from, as a figure or as a tree of text."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from aiida import orm
from aiida.common.links import LinkType

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.plotting import INK, PALETTE
from aiida_mlfinetune.report.page import Figure, Section

__all__ = ("ProvenancePath", "provenance_section", "trace")

SHOWN = (DatasetData, MaceModelData, ObservableData, orm.StructureData, orm.ArrayData)
"""Data that the figure shows; settings and folders are left out."""


@dataclass(frozen=True)
class ProvenancePath:
    """Calculations and data behind some results.

    Attributes:
        nodes: by pk.
        edges: from, to, name of the link; in the direction of the data.
    """

    nodes: dict[int, orm.Node]
    edges: tuple[tuple[int, int, str], ...]


def trace(results: Iterable[orm.Data]) -> ProvenancePath:
    """Follow results back through the calculations that made them, as far as the graph goes."""
    nodes: dict[int, orm.Node] = {}
    edges: dict[tuple[int, int], str] = {}
    pending: list[orm.Data] = list(results)
    nodes.update({data.pk: data for data in pending})
    while pending:
        data = pending.pop()
        process = data.creator
        if process is None:
            continue
        label = data.base.links.get_incoming(link_type=LinkType.CREATE).one().link_label
        edges[process.pk, data.pk] = label
        if process.pk in nodes:
            continue
        nodes[process.pk] = process
        for link in process.base.links.get_incoming(link_type=LinkType.INPUT_CALC):
            if not isinstance(link.node, SHOWN) or isinstance(link.node, orm.AbstractCode):
                continue
            edges[link.node.pk, process.pk] = link.link_label
            if link.node.pk not in nodes:
                nodes[link.node.pk] = link.node
                pending.append(link.node)
    return ProvenancePath(nodes, tuple((start, end, label) for (start, end), label in edges.items()))


def provenance_section(results: Iterable[orm.Data]) -> Section:
    """Return the section about the way from the calculations to the results."""
    found = list(results)
    if not found:
        return Section("Provenance")
    path = trace(found)
    text = (
        f"{len(path.nodes)} nodes lead to the results: calculations as boxes, data as ellipses, each with its number "
        "in the database. Settings and codes are left out."
    )
    svg = _svg(path)
    if svg is None:
        return Section("Provenance", paragraphs=(text,), lines=tuple(_tree(path, found)))
    return Section("Provenance", paragraphs=(text,), figures=(Figure(svg, "Where the results come from."),))


def _svg(path: ProvenancePath) -> str | None:
    """Return the figure as an SVG element, None where the program dot is missing."""
    if shutil.which("dot") is None:
        return None
    lines = [
        "digraph provenance {",
        'rankdir=TB; bgcolor="transparent"; nodesep=0.25; ranksep=0.35;',
        f'node [fontname="sans-serif", fontsize=10, fontcolor="{INK}", color="{INK}", margin="0.09,0.05"];',
        f'edge [color="{INK}", arrowsize=0.6, penwidth=0.8];',
    ]
    lines += [f"{pk} [{_style(node)}];" for pk, node in path.nodes.items()]
    lines += [f"{start} -> {end};" for start, end, _ in path.edges]
    lines.append("}")
    drawn = subprocess.run(["dot", "-Tsvg"], input="\n".join(lines), capture_output=True, text=True, check=False)
    if drawn.returncode != 0:
        return None
    svg = drawn.stdout[drawn.stdout.index("<svg") :]
    svg = re.sub(r'\bid="', 'id="provenance-', svg)
    return svg.replace(INK, "currentColor")


def _style(node: orm.Node) -> str:
    name = _name(node).replace('"', "'").replace("\n", "\\n")
    if isinstance(node, orm.CalcJobNode):
        return f'label="{name}", shape=box, style="rounded,bold", color="{PALETTE[1]}"'
    if isinstance(node, orm.ProcessNode):
        return f'label="{name}", shape=box, style=rounded'
    colours = ((ObservableData, PALETTE[2]), (MaceModelData, PALETTE[3]), (DatasetData, PALETTE[0]))
    colour = next((colour for kind, colour in colours if isinstance(node, kind)), INK)
    return f'label="{name}", shape=ellipse, color="{colour}"'


def _name(node: orm.Node) -> str:
    """Return what a node is in two short lines."""
    if isinstance(node, orm.ProcessNode):
        label = (node.process_label or type(node).__name__).removesuffix("Calculation")
        return f"{label}\n{node.pk}"
    if isinstance(node, ObservableData):
        return f"{node.name.replace('_', ' ')}\n{node.pk}"
    if isinstance(node, DatasetData):
        return f"{node.n_frames} frames\n{node.pk}"
    if isinstance(node, MaceModelData):
        return f"MACE model\n{node.pk}"
    if isinstance(node, orm.StructureData):
        return f"{node.get_formula(mode='hill')}\n{node.pk}"
    return f"{type(node).__name__.removesuffix('Data').lower()}\n{node.pk}"


def _tree(path: ProvenancePath, results: list[orm.Data]) -> list[str]:
    """Return the path as indented lines, results first; what was shown already is named once more, but not unfolded."""
    sources: dict[int, list[int]] = {}
    for start, end, _ in path.edges:
        sources.setdefault(end, []).append(start)
    shown: set[int] = set()
    lines: list[str] = []

    def visit(pk: int, depth: int) -> None:
        name = _name(path.nodes[pk]).replace("\n", " <") + ">"
        again = pk in shown and pk in sources
        lines.append("  " * depth + ("← " if depth else "") + name + (" (see above)" if again else ""))
        if not again:
            shown.add(pk)
            for source in sorted(sources.get(pk, [])):
                visit(source, depth + 1)

    for result in results:
        visit(result.pk, 0)
    return lines
