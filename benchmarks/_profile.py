"""A profile of AiiDA for the time of a benchmark, and codes in it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiida import load_profile, orm
from aiida.manage.configuration import create_profile, get_config
from aiida.manage.configuration.settings import AiiDAConfigDir
from aiida.plugins import BrokerFactory


@contextmanager
def temporary_profile(broker: str | None = None) -> Iterator[Path]:
    """Make and load a profile like those of ``aiida-mlfinetune setup`` in a temporary folder; in the end remove both.

    A ``broker``, such as ``core.zeromq``, is for runs by a daemon.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        AiiDAConfigDir.set(folder / ".aiida")
        create_profile(
            get_config(create=True),
            name="benchmark",
            email="aiida@localhost",
            storage_backend="mlfinetune.sqlite_dos",
            storage_config={"filepath": str(folder / "storage")},
            broker_backend=broker,
            broker_config=None if broker is None else BrokerFactory(broker).get_default_config(),
        )
        # Without a broker a work chain asks every 60 seconds whether its jobs are done.
        get_config().set_option("runner.poll.interval", 1)
        load_profile("benchmark", allow_switch=True)
        yield folder


def local_computer(folder: Path, poll_s: float = 5.0) -> orm.Computer:
    """Return this machine, with its jobs below ``folder``, asked every ``poll_s`` seconds which of them run."""
    computer = orm.Computer(
        label="localhost",
        hostname="localhost",
        transport_type="core.local",
        scheduler_type="core.direct",
        workdir=str(folder / "jobs"),
    ).store()
    computer.set_minimum_job_poll_interval(poll_s)
    computer.configure(safe_interval=0.0, use_login_shell=False)
    return computer


def local_code(computer: orm.Computer, executable: str, plugin: str, threads: int = 1) -> orm.InstalledCode:
    """Return a program that lies beside this Python or on PATH."""
    beside = Path(sys.executable).with_name(executable)
    found = str(beside) if beside.exists() else shutil.which(executable)
    if found is None:
        raise SystemExit(f"{executable} is not installed: run `make env`")
    return orm.InstalledCode(
        label=Path(executable).name,
        computer=computer,
        filepath_executable=found,
        default_calc_job_plugin=plugin,
        prepend_text=f"export OMP_NUM_THREADS={threads}",
    ).store()
