"""Fixtures for tests with real engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def ray_keeps_to_itself() -> Iterator[None]:
    """Stop Ray from reporting its use, and from putting a key into the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield
