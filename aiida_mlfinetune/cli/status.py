"""``aiida-mlfinetune status``: how far a run is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from aiida.orm import ProcessNode
    from rich.console import Console

    from aiida_mlfinetune.cli.progress import ProcessView

__all__ = ("follow", "status")


@click.command()
@click.argument("pk")
@click.option(
    "--follow", "-f", "live", is_flag=True, help="Show it live until it has ended; Ctrl-C leaves the run alone."
)
@click.option("--profile", help="AiiDA profile.  [default: the default one]")
def status(pk: str, live: bool, profile: str | None) -> None:
    """Show how far the process PK is: its tree, what is done, what runs, and the time left.

    PK is the number that `run` printed, a uuid, or that of any result. Running jobs are asked in their working
    folders: frames labelled, epochs trained, MD steps made.

    Next: `aiida-mlfinetune report PK` when it is done; `verdi process report PK` where it failed.
    """
    from rich.console import Console

    from aiida_mlfinetune.cli.display import summary
    from aiida_mlfinetune.cli.progress import Watcher
    from aiida_mlfinetune.cli.running import RunningJobs
    from aiida_mlfinetune.cli.session import load_process, require_profile

    require_profile(profile)
    node = load_process(pk)
    console = Console()
    if live:
        follow(node, console)
        return
    with RunningJobs() as jobs:
        console.print(summary(Watcher(jobs).view(node)))


def follow(node: ProcessNode, console: Console, interval: float = 2.0) -> ProcessView:
    """Show a process live until it has ended; without a terminal, print a line whenever a job ends.

    Returns:
        The view of the ended process.
    """
    from rich.live import Live

    from aiida_mlfinetune.cli.display import summary
    from aiida_mlfinetune.cli.progress import State, Watcher
    from aiida_mlfinetune.cli.running import RunningJobs

    with RunningJobs() as jobs:
        watcher = Watcher(jobs)
        if console.is_terminal:
            with Live(summary(watcher.view(node), folded=True), console=console, refresh_per_second=4) as live:
                while not node.is_terminated:
                    time.sleep(interval)
                    live.update(summary(watcher.view(node), folded=True))
                view = watcher.view(node)
                live.update(summary(view))
            return view
        told: set[int] = set()
        ended = False
        while not ended:
            ended = node.is_terminated
            view = watcher.view(node)
            for job in view.jobs():
                if job.state in (State.DONE, State.CACHED, State.FAILED) and job.pk not in told:
                    told.add(job.pk)
                    note = f"{job.progress}, " if job.progress else ""
                    console.print(f"{job.name} <{job.pk}>: {job.state.value}, {note}{job.elapsed:.0f} s {job.message}")
            if not ended:
                time.sleep(interval)
        return view
