"""Run a process that a command waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import ProcessNode

__all__ = ("run_to_end",)


def run_to_end(builder: ProcessBuilder, what: str, later: str, *, here: bool) -> ProcessNode:
    """Run a process to its end, in this process if ``here`` or by the daemon, and return it.

    Args:
        builder: of the process.
        what: it is, for messages, such as ``the pilot``.
        later: what to do if the user goes away before the end; ``{pk}`` stands for the process.
        here: whether it is run without the daemon.

    Raises:
        click.ClickException: it failed, or the user went away.
    """
    from rich.console import Console

    from aiida_mlfinetune.cli.display import failure
    from aiida_mlfinetune.cli.progress import Watcher
    from aiida_mlfinetune.cli.running import RunningJobs
    from aiida_mlfinetune.cli.status import follow

    if here:
        from aiida.engine import run_get_node

        _, node = run_get_node(builder)
    else:
        from aiida.engine import submit

        node = submit(builder)
        click.echo(f"Submitted {node.process_label} <{node.pk}>.")
        try:
            follow(node, Console())
        except KeyboardInterrupt as error:
            raise click.ClickException(f"{what} goes on{later.format(pk=node.pk)}") from error
    if not node.is_finished_ok:
        with RunningJobs() as jobs:
            raise click.ClickException(f"{what} failed: {failure(Watcher(jobs).view(node))}")
    return node
