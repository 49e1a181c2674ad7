"""Fixtures for tests with real processes."""

from __future__ import annotations

from collections.abc import Generator

import pytest


@pytest.fixture
def real_stdout() -> None:
    """Let ``sys.stdout`` write to file descriptor 1 during the test, as in any program.

    The ``sys.stdout`` of pytest does not, and a forked child inherits it.
    """


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Suspend pytest's capture for a test that uses `real_stdout`. A fixture cannot: each phase starts a new capture."""
    if "real_stdout" not in pyfuncitem.fixturenames:
        return (yield)
    manager = pyfuncitem.config.pluginmanager.getplugin("capturemanager")
    assert manager is not None
    with manager.global_and_fixture_disabled():
        return (yield)
