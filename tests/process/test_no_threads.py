"""A process that can start no more threads, as under a limit of processes: it goes on, and shows its own records."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any

import pytest

import meshlog_handler
from meshlog_handler import LogClient, MeshHandler
from meshlog_handler.testing import RecordCollector


@pytest.fixture(params=["meshlog-", "meshlog-runtime", "meshlog-client"])
def no_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let no thread of the package start whose name begins so; return the beginning."""
    start, beginning = threading.Thread.start, request.param

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith(beginning):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return str(beginning)


@pytest.mark.usefixtures("real_stdout", "restored_logging")
def test_a_worker_without_threads_goes_on_unchanged(address: str, no_threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("meshlog_handler.installation.diagnose", said.append)
    own = RecordCollector()
    logging.getLogger().addHandler(own)
    meshlog_handler.install(address)
    logging.warning("own")
    assert own.messages == ["own"]
    assert len([each for each in said if "can't start new thread" in each]) == (no_threads != "meshlog-client")
    meshlog_handler.uninstall()


@pytest.mark.usefixtures("restored_logging", "no_job")
@pytest.mark.parametrize("options", [{}, {"job": "no-threads"}], ids=["own", "job"])
def test_a_handler_without_threads_shows_its_own_records(
    options: dict[str, Any], no_threads: str, capfd: pytest.CaptureFixture[str]
) -> None:
    own = RecordCollector()
    handler = MeshHandler(handlers=[own], **options)
    handler.handle(logging.makeLogRecord({"msg": "own", "levelno": logging.WARNING, "levelname": "WARNING"}))
    assert own.messages == ["own"]
    assert "can't start new thread" in capfd.readouterr().err
    handler.close()
    meshlog_handler.uninstall()
    client: LogClient | None = sys.modules["meshlog_handler.handler"]._own_client
    if client is not None:
        client.stop()
    os.environ.pop("MESHLOG_ADDRESS", None)


def test_a_client_without_threads_raises_and_leaves_nothing(no_threads: str) -> None:
    client = LogClient(RecordCollector())
    if no_threads != "meshlog-runtime":
        with pytest.raises(RuntimeError, match="can't start new thread"):
            client.start()
    client.stop()
    assert not client.running
