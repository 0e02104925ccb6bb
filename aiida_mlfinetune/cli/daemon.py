"""The daemon of a profile, started for one command and stopped after it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import psutil
    from aiida.engine.daemon.client import DaemonClient

__all__ = ("running_daemon", "stop_daemon")

START_S = 120
STOP_S = 120
"""Workers finish the step that they are at, which takes long on a busy machine."""
KILL_S = 10


@contextlib.contextmanager
def running_daemon(workers: int) -> Iterator[None]:
    """Run the daemon of the profile while the context lasts; one that runs already is left running.

    Raises:
        click.ClickException: it does not start.
    """
    from aiida.engine.daemon.client import DaemonException, get_daemon_client

    client = get_daemon_client()
    if client.is_daemon_running:
        yield
        return
    try:
        client.start_daemon(number_workers=workers, timeout=START_S)
    except DaemonException as error:
        stop_daemon(client)  # it may be half way up
        raise click.ClickException(f"the daemon does not start: {error}. Its log: {client.daemon_log_file}") from error
    try:
        yield
    finally:
        stop_daemon(client)


def stop_daemon(client: DaemonClient, timeout: int = STOP_S) -> None:
    """Stop a daemon, its broker and all its workers, and say so if that was not possible without force.

    Processes of AiiDA survive this: they go on with the next daemon.

    Args:
        client: of the daemon.
        timeout: time in s for which an orderly end is waited for.
    """
    import psutil
    from aiida.engine.daemon.client import DaemonException

    processes = _processes(client)
    if not processes:
        return
    reason = "it is still there"
    try:
        client.stop_daemon(wait=True, timeout=timeout)
    except DaemonException as error:
        reason = str(error)
    if not (left := _wait(processes)):
        return
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        left = _wait(left)
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        click.echo(f"the daemon did not stop ({reason}): end its processes {pids} by hand", err=True)
        return
    click.echo(f"the daemon did not stop in {timeout} s ({reason}) and was ended by force; nothing is lost", err=True)


def _wait(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those processes that still run after a while; one that has ended but has no parent to note it does not."""
    import psutil

    deadline = time.monotonic() + KILL_S
    left = processes
    while True:
        still = []
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    still.append(process)
        left = still
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def _processes(client: DaemonClient) -> list[psutil.Process]:
    """Return the processes of the daemon: the one that keeps the others, its workers, and its broker."""
    import psutil

    pid = client.get_daemon_pid()
    if pid is None:
        return []
    try:
        keeper = psutil.Process(pid)
        return [keeper, *keeper.children()]
    except psutil.NoSuchProcess:
        return []
