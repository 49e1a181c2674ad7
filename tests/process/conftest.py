"""Fixtures for tests with real processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from meshlog_handler import LogClient
from meshlog_handler.testing import RecordCollector


@pytest.fixture
def real_stdout() -> None:
    """Let ``sys.stdout`` write to file descriptor 1 during the test, as in any program.

    The ``sys.stdout`` of pytest does not, and a forked child inherits it.
    """


def serve(pipe: Any) -> None:
    """Run a client until the pipe sends a message."""
    with LogClient(RecordCollector()) as client:
        pipe.send(client.address)
        pipe.recv()


@pytest.fixture
def address() -> Iterator[str]:
    """Yield the address of a client in another process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,))
    process.start()
    yield here.recv()
    here.send(None)
    process.join()
    here.close()
    there.close()


@pytest.fixture
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process take part in a job, although an earlier test took part in another one."""
    monkeypatch.setattr("meshlog_handler.worker.job_member._current", None)
    monkeypatch.setattr("meshlog_handler.worker.member.Membership.job", None)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Suspend pytest's capture for a test that uses `real_stdout`. A fixture cannot: each phase starts a new capture."""
    if "real_stdout" not in pyfuncitem.fixturenames:
        return (yield)
    manager = pyfuncitem.config.pluginmanager.getplugin("capturemanager")
    assert manager is not None
    with manager.global_and_fixture_disabled():
        return (yield)
