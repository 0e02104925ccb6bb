"""Fixtures that all tests share."""

from __future__ import annotations

import os

import pytest

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


@pytest.fixture
def aiida_localhost(aiida_localhost):
    """This machine, without a login shell for each command."""
    aiida_localhost.configure(use_login_shell=False)
    return aiida_localhost
