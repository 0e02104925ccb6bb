"""The tree of a process: what is done, what runs, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING

from aiida_mlfinetune.cli.running import RunningJobs, planned
from aiida_mlfinetune.parsers.raw.progress import Progress, seconds_left

if TYPE_CHECKING:
    from aiida.orm import ProcessNode

__all__ = ("ProcessView", "State", "Watcher")

LABELLING = "LabellingWorkChain"


class State(str, Enum):
    """Where a process stands, in a user's words."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CACHED = "from cache"
    FAILED = "failed"


@dataclass(frozen=True)
class ProcessView:
    """One process of the tree.

    Attributes:
        pk: of its node.
        name: label of the process class.
        role: what its caller calls it, empty for the outermost.
        state: where it stands.
        message: exit message, or the scheduler's state of a job.
        elapsed: wall time so far in s.
        progress: units of work done, where they can be counted.
        seconds_left: estimated wall time left.
        is_job: whether it is a calculation job.
        children: jobs and work chains that it called, oldest first.
    """

    pk: int
    name: str
    role: str
    state: State
    message: str
    elapsed: float
    progress: Progress | None
    seconds_left: float | None
    is_job: bool
    children: tuple[ProcessView, ...] = ()

    def jobs(self) -> list[ProcessView]:
        """Return all calculation jobs of the tree, oldest first."""
        own = [self] if self.is_job else []
        return own + [job for child in self.children for job in child.jobs()]

    def first_failure(self) -> ProcessView | None:
        """Return the innermost process of the first branch that failed, None if nothing did."""
        for child in self.children:
            if (found := child.first_failure()) is not None and self.state is State.FAILED:
                return found
        return self if self.state is State.FAILED else None

    def count(self, *states: State) -> int:
        """Return how many jobs of the tree stand in one of ``states``."""
        return sum(job.state in states for job in self.jobs())


class Watcher:
    """Makes views of a process tree; what has ended is looked up once."""

    def __init__(self, jobs: RunningJobs) -> None:
        self._jobs = jobs
        self._ended: dict[int, ProcessView] = {}

    def view(self, node: ProcessNode, role: str = "") -> ProcessView:
        """Return the tree below ``node`` as it is now."""
        if node.pk in self._ended:
            return self._ended[node.pk]
        # A process ends after those it called: looked at first, it is never older than they are.
        ended, state = _has_ended(node), _state(node)
        children = tuple(self.view(child, label) for child, label in _called(node))
        elapsed = _elapsed(node)
        progress = self._progress(node, state, children)
        left = seconds_left(progress, elapsed) if progress is not None and state is State.RUNNING else None
        view = ProcessView(
            pk=node.pk,
            name=node.process_label or type(node).__name__,
            role=role,
            state=state,
            message=_message(node, state),
            elapsed=elapsed,
            progress=progress,
            seconds_left=left,
            is_job=_is_job(node),
            children=children,
        )
        if ended:
            self._ended[node.pk] = view
        return view

    def _progress(self, node: ProcessNode, state: State, children: tuple[ProcessView, ...]) -> Progress | None:
        if _is_job(node):
            work = planned(node)
            if work is None:
                return None
            total, unit = work
            if state in (State.DONE, State.CACHED):
                return None if total is None else Progress(total, total, unit)
            return self._jobs.progress(node) if state is State.RUNNING else None
        if node.process_label == LABELLING and "dataset" in node.inputs:
            total = int(node.inputs.dataset.base.attributes.get("n_frames"))
            done = sum(job.progress.done for child in children for job in child.jobs() if job.progress is not None)
            return Progress(min(done, total), total, "frames")
        return None


def _is_job(node: ProcessNode) -> bool:
    from aiida.orm import CalcJobNode

    return isinstance(node, CalcJobNode)


def _called(node: ProcessNode) -> list[tuple[ProcessNode, str]]:
    """Return the jobs and work chains that a process called and the names it gave them, oldest first."""
    from aiida.common.links import LinkType
    from aiida.orm import CalcJobNode, WorkChainNode

    links = node.base.links.get_outgoing(
        node_class=(CalcJobNode, WorkChainNode), link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK)
    ).all()
    ordered = sorted(links, key=lambda link: link.node.pk)
    return [(link.node, "" if link.link_label == "CALL" else link.link_label) for link in ordered]


def _has_ended(node: ProcessNode) -> bool:
    """Return whether nothing about a process changes any more.

    A job that is answered from the cache carries the state of the job it copies from the start; it is sealed last.
    """
    return node.is_terminated and node.is_sealed


def _state(node: ProcessNode) -> State:
    if _has_ended(node):
        if not node.is_finished_ok:
            return State.FAILED
        return State.CACHED if node.base.caching.is_created_from_cache else State.DONE
    if node.paused:
        return State.PAUSED
    if _is_job(node):
        scheduler = node.get_scheduler_state()
        return State.QUEUED if scheduler is None or scheduler.value in ("queued", "queued held") else State.RUNNING
    return State.RUNNING


def _message(node: ProcessNode, state: State) -> str:
    if state is State.FAILED:
        code = "" if node.exit_status is None else f"[{node.exit_status}] "
        last_lines = (node.exception or "").strip().splitlines()[-1:]
        reason = node.exit_message or " ".join(last_lines) or (node.process_state.value if node.process_state else "")
        return code + reason
    if state is State.PAUSED:
        return node.process_status or f"resume it with `verdi process play {node.pk}`"
    return ""


def _elapsed(node: ProcessNode) -> float:
    end = node.mtime if _has_ended(node) else datetime.now(timezone.utc)
    return max((end - node.ctime).total_seconds(), 0.0)
