"""Fixtures that all tests share."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from aiida.engine.processes.calcjobs.manager import JobsList
from aiida.manage.manager import Manager

HERE = Path(__file__).parent
POLL_S, MOST_POLL_S = 0.2, 2.0
SLOWEST_FIRST = ("e2e", "validation", "calculations", "workchains")
"""Folders whose files go to the workers first: a long file that comes last leaves the other worker idle."""

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")

pytest_plugins = [
    "aiida.tools.pytest_fixtures",
    "tests.fixtures.codes",
    "tests.fixtures.frames",
    "tests.fixtures.jobs",
    "tests.fixtures.models",
    "tests.fixtures.validation",
    "tests.fixtures.vasp",
    "tests.fixtures.water",
    "tests.fixtures.training",
    "tests.fixtures.web",
]


def pytest_collection_modifyitems(items):
    """Put the slow folders first; files stay together."""
    places = {folder: place for place, folder in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.relative_to(HERE).parts[0], len(places)))


@pytest.fixture(scope="session", autouse=True)
def aiida_profile(aiida_config, aiida_profile_factory):
    """A profile with the storage that ``aiida-mlfinetune setup`` makes."""
    with aiida_profile_factory(aiida_config, storage_backend="mlfinetune.sqlite_dos") as profile:
        yield profile


@pytest.fixture(scope="session", autouse=True)
def patient_with_children():
    """Pause before asking again whether a child has ended: AiiDA does not in a test profile, which takes a core.

    Each process that a test runs has a runner of its own, so that all of them are made with the pause.
    """
    create = Manager.create_runner

    def patient(self, *args, **kwargs):
        return create(self, *args, **{"poll_interval": POLL_S, **kwargs})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manager, "create_runner", patient)
        yield


@pytest.fixture(scope="session", autouse=True)
def patient_with_long_jobs():
    """Ask for a job the more seldom the longer it runs: asking costs a third of a core at five times a second."""

    def interval(self):
        jobs = frozenset(self._job_update_requests)
        if jobs != getattr(self, "asked_for", None):
            self.asked_for, self.since = jobs, time.monotonic()
        return min(MOST_POLL_S, max(POLL_S, 0.05 * (time.monotonic() - self.since)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobsList, "get_minimum_update_interval", interval)
        yield


@pytest.fixture
def aiida_localhost(aiida_localhost):
    """This machine, without a login shell for each command, and asked for its jobs with pauses."""
    aiida_localhost.configure(use_login_shell=False)
    aiida_localhost.set_minimum_job_poll_interval(POLL_S)
    return aiida_localhost
