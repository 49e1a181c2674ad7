"""When consoles write: a fork between two flushes, and handlers that pass records on."""

from __future__ import annotations

import io
import logging.handlers
import os
import threading
from pathlib import Path

import pytest

from meshlog_handler import LogClient
from meshlog_handler.output import console
from meshlog_handler.output.console import ConsoleHandler
from meshlog_handler.output.rank_files import RankFiles

from ..unit.output.test_formatter import make
from .procs import DEADLINE


def test_a_forked_child_does_not_write_the_unwritten_records_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    handler = ConsoleHandler(out, out)
    monkeypatch.setattr(console, "flushing_threads", {threading.get_ident(): set()})
    handler.handle(make("parent"))
    pid = os.fork()
    if pid == 0:
        try:
            handler.flush()
            handler.handle(make("child"))  # its threads write at once
            os._exit(0 if out.getvalue() == "[3] child\n" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    handler.flush()
    assert out.getvalue() == "[3] parent\n"


def test_a_forked_child_writes_no_line_of_its_parent_to_the_rank_files(tmp_path: Path) -> None:
    files = RankFiles(tmp_path, report=print)
    files.line(0, "stdout", b"once")
    pid = os.fork()
    if pid == 0:
        try:
            files.flush()
            files.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert list(tmp_path.iterdir()) == []
    files.close()
    assert (tmp_path / "rank-0.stdout").read_bytes() == b"once\n"


def test_a_flush_shows_what_another_handler_passes_on_to_a_console() -> None:
    out = io.StringIO()
    with LogClient(logging.handlers.MemoryHandler(1, target=ConsoleHandler(out, out))) as client:
        client.queue.put(make("passed on"))
        client.flush(timeout=DEADLINE)
        assert out.getvalue() == "passed on\n"
