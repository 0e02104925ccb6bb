"""What a study returned, by what it is called, and the links from numbers to their nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common.links import LinkType

from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.report.page import Anchor, Linked, Section, Table
from aiida_mlfinetune.report.text import with_error

__all__ = ("StudyResults", "named")

Tree = dict[str, Any]


class StudyResults:
    """The outputs of a process ``mlfinetune.study``, and a list of the nodes that its page shows.

    Args:
        process: that has ended, or not.
    """

    def __init__(self, process: orm.ProcessNode) -> None:
        self.process = process
        self.tree = _nested(process)
        self.crystals = sorted(process.inputs.crystals) if "crystals" in process.inputs else []
        self._shown: dict[str, orm.Node] = {}

    def at(self, *path: str) -> Tree:
        """Return the outputs below a path, none where there are none."""
        found: Any = self.tree
        for name in path:
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return found if isinstance(found, dict) else {}

    def label(self, crystal: str) -> str:
        """Return the name of the production model of a crystal; empty where there is none."""
        known = self.tree.get("convergence", {}).get(crystal)
        if known is not None:
            return str(known.details["reference_model"])
        wanted = self.process.inputs.production.get_dict()
        own = [name for name in self.at("averages", crystal) if name.startswith(f"{wanted['mode']}_n")]
        if wanted.get("size") is not None:
            own = [name for name in own if name.startswith(f"{wanted['mode']}_n{wanted['size']}_s")]
        return max(own, key=lambda name: int(name.split("_n")[-1].split("_s")[0]), default="")

    def production(self, crystal: str) -> Tree:
        """Return the averages of the production model's run of a crystal."""
        return self.at("averages", crystal, self.label(crystal))

    def reference(self, crystal: str) -> Tree:
        """Return the averages of a crystal at the reference level."""
        return self.at("reference", crystal)

    def experiment(self, crystal: str) -> Mapping[str, Any]:
        """Return what was measured of a crystal."""
        given = self.process.inputs.experiment.get_dict() if "experiment" in self.process.inputs else {}
        own: Mapping[str, Any] = given.get(crystal, {})
        return own

    def link(self, node: orm.Node, text: str | None = None) -> Linked:
        """Return a text, by default value and error of an observable, that leads to the node's row."""
        self._shown[node.uuid] = node
        if text is None:
            text = with_error(node.value, node.error)
        return Linked(text, _target(node))

    def cell(self, found: Tree, name: str) -> str:
        """Return the linked value of an observable, a dash where there is none."""
        return self.link(found[name]) if name in found else "–"

    def shift(self, found: Tree, name: str) -> str:
        """Return reference - model with its standard error, linked; a dash where it is not known."""
        if name not in found or "shift" not in found[name].details:
            return "–"
        pair = found[name].details["shift"]
        error = math.inf if pair["error"] is None else pair["error"]
        text = with_error(pair["value"], error)
        return self.link(found[name], text if text.startswith("-") else f"+{text}")

    def nodes_section(self) -> Section:
        """Return the list of all nodes that the page links to, each with the process that made it."""
        rows = []
        for node in sorted(self._shown.values(), key=lambda one: (one.ctime, one.uuid)):
            creator = node.creator
            maker = "–" if creator is None else f"{creator.process_label} {creator.uuid}"
            what = node.name.replace("_", " ") if isinstance(node, ObservableData) else type(node).__name__
            unit = node.unit if isinstance(node, ObservableData) else ""
            rows.append((Anchor(node.uuid, _target(node)), what, unit, maker))
        if not rows:
            return Section("Nodes")
        text = "`verdi node show UUID` shows a node, `aiida-mlfinetune report UUID` what made it."
        return Section("Nodes", (text,), (Table(("node", "what", "unit", "made by"), tuple(rows)),))


def named(name: str) -> str:
    """Return what a crystal or a run is called on the page."""
    return name.replace("_", " ")


def _target(node: orm.Node) -> str:
    return f"node-{node.uuid}"


def _nested(process: orm.ProcessNode) -> Tree:
    """Return the outputs of a work chain as nested mappings."""
    tree: Tree = {}
    links = process.base.links.get_outgoing(link_type=LinkType.RETURN).all()
    for link in sorted(links, key=lambda one: one.link_label):
        *path, last = link.link_label.split("__")
        place = tree
        for name in path:
            place = place.setdefault(name, {})
        place[last] = link.node
    return tree
