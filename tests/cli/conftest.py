"""Fixtures of the command line's tests."""

from __future__ import annotations

import pytest
from aiida.manage.configuration import get_config


@pytest.fixture
def bare_profile(aiida_profile_clean):
    """A profile without codes; what a test set up in it (codes of programs that are not there) is gone afterwards."""
    yield aiida_profile_clean
    aiida_profile_clean.reset_storage()
    get_config().unset_option("caching.enabled_for", scope=aiida_profile_clean.name)
