"""Fixtures that all tests share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")

pytest_plugins = [
    "aiida.tools.pytest_fixtures",
    "tests.fixtures.codes",
    "tests.fixtures.frames",
    "tests.fixtures.jobs",
    "tests.fixtures.models",
    "tests.fixtures.water",
]
