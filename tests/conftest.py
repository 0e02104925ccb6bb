"""Fixtures that all tests share."""

from __future__ import annotations

import os
import time

import pytest
from aiida.engine.processes.calcjobs.manager import JobsList
from aiida.manage import get_manager

POLL_S, MOST_POLL_S = 0.2, 2.0

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


@pytest.fixture(scope="session", autouse=True)
def aiida_profile(aiida_config, aiida_profile_factory):
    """A profile with the storage that ``aiida-mlfinetune setup`` makes.

    AiiDA asks in a test profile without a pause whether a child has ended, which keeps a core from what the child does.
    """
    with aiida_profile_factory(aiida_config, storage_backend="mlfinetune.sqlite_dos") as profile:
        manager = get_manager()
        manager.set_runner(manager.create_runner(poll_interval=POLL_S))
        yield profile


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
