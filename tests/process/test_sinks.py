"""A fork between two flushes: only the parent writes what it had not written before the fork."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest

from meshlog_handler.output import console
from meshlog_handler.output.console import ConsoleHandler
from meshlog_handler.output.rank_files import RankFiles

from ..unit.output.test_formatter import make


def test_a_forked_child_does_not_write_the_unwritten_records_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    handler = ConsoleHandler(out, out)
    monkeypatch.setattr(console, "flushing_threads", {threading.get_ident()})
    handler.handle(make("parent"))
    pid = os.fork()
    if pid == 0:
        try:
            handler.flush()
            handler.handle(make("child"))
            handler.flush()
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
