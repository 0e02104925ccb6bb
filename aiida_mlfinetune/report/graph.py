"""Looking things up in the graph below a work chain and above a result."""

from __future__ import annotations

from collections.abc import Iterator

from aiida import orm
from aiida.common.links import LinkType

__all__ = ("called", "chains", "children", "jobs", "owner", "role")

CHAINS = {
    "sampling": "SamplingWorkChain",
    "model_sampling": "ModelSamplingWorkChain",
    "labelling": "LabellingWorkChain",
    "training": "TrainingWorkChain",
    "dynamics": "DynamicsWorkChain",
    "assess": "AssessWorkChain",
    "reweighting": "ReweightingWorkChain",
    "averages": "AveragesWorkChain",
    "convergence": "ConvergenceWorkChain",
    "closed_loop": "ClosedLoopWorkChain",
    "error_budget": "ErrorBudgetWorkChain",
}
"""Names of the work chains' classes, by the end of their entry points."""


def owner(node: orm.Node) -> orm.ProcessNode:
    """Return the process whose report is asked for: the outermost one behind a data node, a process itself.

    Raises:
        ValueError: data that no process made.
    """
    if isinstance(node, orm.ProcessNode):
        return node
    process = node.creator
    if process is None:
        raise ValueError(f"node {node.pk} is data that no process made: give the pk of a work chain or of its result")
    while process.caller is not None:
        process = process.caller
    return process


def children(node: orm.ProcessNode) -> list[orm.ProcessNode]:
    """Return the processes that a process called, oldest first."""
    links = node.base.links.get_outgoing(link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK)).all_nodes()
    return sorted(links, key=lambda child: child.pk)


def called(node: orm.ProcessNode) -> Iterator[tuple[int, orm.ProcessNode]]:
    """Yield all processes below a process with their depth (1 for its own), in the order of their making."""
    for child in children(node):
        yield 1, child
        for depth, grandchild in called(child):
            yield depth + 1, grandchild


def jobs(node: orm.ProcessNode) -> list[orm.CalcJobNode]:
    """Return all calculation jobs below a process."""
    return [child for _, child in called(node) if isinstance(child, orm.CalcJobNode)]


def chains(node: orm.ProcessNode, name: str) -> list[orm.ProcessNode]:
    """Return the outermost work chains ``mlfinetune.<name>`` at or below ``node``."""
    if node.process_label == CHAINS[name]:
        return [node]
    return [chain for child in children(node) for chain in chains(child, name)]


def role(node: orm.ProcessNode) -> str:
    """Return what its caller calls a process, without the numbers that AiiDA adds; empty for an outermost one."""
    labels = node.base.links.get_incoming(link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK)).all_link_labels()
    label = labels[0] if labels else ""
    return "" if label == "CALL" else label.replace("__", " ").replace("_", " ")
