"""The daemon of the demo is stopped whatever it does: no process of it is left behind."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import psutil
import pytest
from aiida.engine.daemon.client import DaemonException, DaemonTimeoutException
from click import ClickException

from aiida_mlfinetune.cli import daemon

KEEPER = """
import signal, subprocess, sys, time
worker = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE)
child.stdout.readline()

def end(*_):
    if "--orderly" in sys.argv:
        child.kill()
        child.wait()
    sys.exit()

signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(60)
"""
"""A daemon with one worker, which ignores requests to end; only an orderly daemon takes it along."""


@dataclass
class Client:
    """The part of AiiDA's daemon client that is used here, for a process of the tests."""

    keeper: subprocess.Popen
    orderly: bool
    started: bool = True
    is_daemon_running: bool = False
    daemon_log_file: str = "daemon.log"

    def get_daemon_pid(self) -> int | None:
        return self.keeper.pid if self.started else None

    def start_daemon(self, number_workers: int, timeout: int) -> None:
        if not self.started:
            raise DaemonException("no port is free")
        if not self.orderly:
            raise DaemonTimeoutException(f"{number_workers} workers are unresponsive after {timeout} seconds")

    def stop_daemon(self, wait: bool, timeout: int) -> None:
        assert wait
        if not self.orderly:
            raise DaemonTimeoutException("Connection to the daemon timed out.")
        self.keeper.terminate()
        self.keeper.wait(timeout)


@pytest.fixture
def make_client(monkeypatch):
    """Return a function that starts a stand-in for a daemon, whose processes end with the test at the latest."""
    monkeypatch.setattr(daemon, "KILL_S", 0.3)
    made: list[psutil.Process] = []

    def make(*, orderly: bool, **kwargs) -> Client:
        arguments = ["--orderly"] if orderly else []
        keeper = subprocess.Popen([sys.executable, "-c", KEEPER, *arguments], stdout=subprocess.PIPE)
        assert keeper.stdout is not None
        keeper.stdout.readline()
        made.extend([psutil.Process(keeper.pid), *psutil.Process(keeper.pid).children()])
        client = Client(keeper, orderly, **kwargs)
        monkeypatch.setattr("aiida.engine.daemon.client.get_daemon_client", lambda: client)
        return client

    yield make
    for process in made:
        if process.is_running():
            process.kill()


def family(client: Client) -> list[psutil.Process]:
    keeper = psutil.Process(client.keeper.pid)
    processes = [keeper, *keeper.children()]
    assert len(processes) == 2
    return processes


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_a_daemon_that_obeys_is_stopped_without_a_word(make_client, capsys):
    client = make_client(orderly=True)
    processes = family(client)
    with daemon.running_daemon(2):
        assert alive(processes) == processes
    assert alive(processes) == []
    assert capsys.readouterr() == ("", "")


def test_a_daemon_that_does_not_answer_is_ended_with_its_workers(make_client, capsys):
    client = make_client(orderly=False)
    processes = family(client)
    daemon.stop_daemon(client, timeout=7)
    assert alive(processes) == []
    assert "did not stop in 7 s (Connection to the daemon timed out.) and was ended by force" in capsys.readouterr().err


def test_a_daemon_that_starts_half_is_ended(make_client):
    client = make_client(orderly=False)
    processes = family(client)
    message = r"does not start: 3 workers are unresponsive .* log: daemon\.log"
    with pytest.raises(ClickException, match=message), daemon.running_daemon(3):
        pytest.fail("the context was entered")
    assert alive(processes) == []


def test_a_daemon_that_never_started_needs_no_stop(make_client):
    make_client(orderly=True, started=False)
    with pytest.raises(ClickException, match="does not start: no port is free"), daemon.running_daemon(1):
        pytest.fail("the context was entered")


def test_a_daemon_of_the_user_is_left_running(make_client):
    client = make_client(orderly=True, is_daemon_running=True)
    processes = family(client)
    with daemon.running_daemon(2):
        pass
    assert alive(processes) == processes
