"""Process trees and durations for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from aiida_mlfinetune.cli.progress import ProcessView, State

__all__ = ("duration", "failure", "render_tree", "summary")

STYLES = {
    State.QUEUED: ("·", "dim"),
    State.RUNNING: ("▸", "bold cyan"),
    State.PAUSED: ("‖", "yellow"),
    State.DONE: ("✓", "green"),
    State.CACHED: ("✓", "green"),
    State.FAILED: ("✗", "bold red"),
}
BAR_WIDTH = 16
SUFFIXES = ("WorkChain", "Calculation")


def failure(view: ProcessView) -> str:
    """Return what failed first, why, and where to read more, for a run that failed."""
    culprit = view.first_failure() or view
    role = f" {culprit.role}" if culprit.role else ""
    return (
        f"{culprit.name}{role} <{culprit.pk}> failed: {culprit.message.rstrip('.')}. "
        f"`verdi process report {culprit.pk}` tells more"
    )


def duration(seconds: float) -> str:
    """Return a wall time such as ``3 min 05 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def render_tree(view: ProcessView, *, folded: bool = False, tree: Tree | None = None) -> Tree:
    """Return the process tree for the terminal; ``folded`` leaves out what is below finished work chains."""
    branch = Tree(_line(view), guide_style="dim") if tree is None else tree.add(_line(view))
    if folded and view.state is State.DONE:
        return branch
    for child in view.children:
        render_tree(child, folded=folded, tree=branch)
    return branch


def summary(view: ProcessView, *, folded: bool = False) -> RenderableType:
    """Return the tree and one line about the whole; ``folded`` keeps it short while it is shown live."""
    jobs = view.jobs()
    ended = view.count(State.DONE, State.CACHED)
    text = Text()
    text.append(f"{ended} of {len(jobs)} calculations so far are done", style="bold")
    for state, word in ((State.CACHED, "from cache"), (State.RUNNING, "running"), (State.FAILED, "failed")):
        if number := view.count(state):
            text.append(f", {number} {word}")
    text.append(f"; {duration(view.elapsed)}")
    return Group(render_tree(view, folded=folded), text)


def _line(view: ProcessView) -> Text:
    mark, style = STYLES[view.state]
    name = view.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    text = Text()
    text.append(f"{mark} ", style=style)
    text.append(name, style=style if view.state in (State.RUNNING, State.FAILED) else "")
    if view.role:
        text.append(f" {view.role}", style="dim")
    text.append(f" <{view.pk}>", style="dim")
    notes = []
    if view.progress is not None:
        fraction = view.progress.fraction
        if fraction is not None and view.state is State.RUNNING:
            filled = round(BAR_WIDTH * fraction)
            text.append("  " + "━" * filled, style="cyan").append("━" * (BAR_WIDTH - filled), style="bright_black")
        notes.append(str(view.progress))
    if view.state is State.CACHED:
        notes.append("from cache")
    elif view.state in (State.DONE, State.RUNNING):
        notes.append(duration(view.elapsed))
    elif view.state is State.QUEUED:
        notes.append("waiting")
    if view.seconds_left is not None:
        notes.append(f"about {duration(view.seconds_left)} left")
    if notes:
        text.append("  " + ", ".join(notes))
    if view.message:
        text.append(f"  {view.message}", style="red" if view.state is State.FAILED else "yellow")
    return text
