"""Fixtures of the command line's tests."""

from __future__ import annotations

import pytest
from aiida.manage.configuration import get_config


@pytest.fixture
def bare_profile(aiida_profile_clean):
    """A profile without codes, whose caching options are put back afterwards."""
    yield aiida_profile_clean
    get_config().unset_option("caching.enabled_for", scope=aiida_profile_clean.name)
