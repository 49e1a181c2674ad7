"""Captured lines of workers, written by any code, are shown with rank and stream: odd bytes, unfinished and last lines too."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import ConsoleHandler, LogClient, MeshFormatter
from meshlog_handler.protocol.record import info_of
from meshlog_handler.testing import RecordCollector, collected

from . import printers
from .procs import join_all, run_python, started


def lines_of(records: Sequence[logging.LogRecord], stream: str = "stdout") -> list[str]:
    """Return the text of each captured line of a stream, in order."""
    return [record.getMessage() for record in records if vars(record)["stream"] == stream]


def run_worker(logs: Any, target: Any, *args: Any) -> None:
    """Run one worker to its end and flush."""
    with started("spawn", target, [(logs.address, *args)]) as procs:
        assert join_all(procs) == [0]
    logs.flush()


def test_lines_from_python_c_descriptors_and_children_arrive_with_rank_and_stream() -> None:
    with collected() as logs:
        run_worker(logs, printers.print_in_every_way)
        records = logs.records
        counts = logs.client.stats()[0]
    assert lines_of(records) == ["written", "by C", "echoed", "printed"]
    assert lines_of(records, "stderr") == ["to stderr", "ERROR: bad news"]
    assert {(vars(record)["rank"], record.process) for record in records} == {(0, counts.pid)}
    assert {record.levelname for record in records if record.getMessage().startswith("ERROR")} == {"ERROR"}
    assert {record.levelname for record in records if not record.getMessage().startswith("ERROR")} == {"INFO"}
    assert {record.name for record in records} == {"stdout", "stderr"}
    assert (counts.lines, counts.received) == (6, 0)


def test_uninstall_restores_descriptors() -> None:
    with collected() as logs:
        done = run_python("-m", "tests.process.printers", "restored", logs.address)
        logs.flush()
        assert logs.messages == ["captured"] * 2
    assert done.stdout == "after\n" * 2
    assert done.stderr == ""


def test_bytes_that_are_not_text_are_shown_escaped_and_kept_raw() -> None:
    with collected() as logs:
        run_worker(logs, printers.write, [printers.NOT_TEXT + b"\n", b"next\n"])
        odd, following = logs.records
    assert odd.getMessage() == "caf\\xe9 \\xff\0 end"
    assert str(info_of(odd).raw).encode("utf-8", "surrogateescape") == printers.NOT_TEXT
    assert following.getMessage() == "next"


def test_an_unfinished_line_is_shown_within_a_second_and_completed_later() -> None:
    go = multiprocessing.get_context("spawn").Semaphore(0)
    with collected() as logs:
        with started("spawn", printers.write_partly, [(logs.address, go)]) as procs:
            partial = logs.wait_for(lambda records: bool(records))[0]
            seen = time.time()
            written, dots = partial.getMessage().split()
            assert dots == "..."
            assert 0 <= seen - float(written) < 1.0
            go.release()
            assert join_all(procs) == [0]
        logs.flush()
        assert "".join(logs.messages) == f"{written} ... done"
        assert logs.client.stats()[0].lines == 1


def test_a_progress_bar_shows_its_newest_state_without_carriage_returns() -> None:
    go = multiprocessing.get_context("spawn").Semaphore(0)
    begun = time.monotonic()
    with collected() as logs:
        with started("spawn", printers.write_progress, [(logs.address, go)]) as procs:
            logs.wait_for(lambda records: bool(records) and records[-1].getMessage() == "50% of it")
            go.release()
            assert join_all(procs) == [0]
        logs.flush()
        *progress, final, after = logs.records
    seconds = time.monotonic() - begun
    assert (final.getMessage(), after.getMessage()) == ("100% of it", "after")
    assert not info_of(final).progress
    assert all(info_of(record).progress for record in progress)
    assert not any("\r" in record.getMessage() for record in progress)
    assert 1 <= len(progress) <= seconds + 2, "the first at once, one a second, and what a flush asks for"


def test_a_long_line_is_truncated_on_the_console_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLOG_MAX_LINE_SIZE", "100")
    collector, shown = RecordCollector(), io.StringIO()
    console = ConsoleHandler(shown, shown, MeshFormatter("%(message)s", prefix=""))
    with LogClient(collector, console, log_dir=tmp_path) as client:
        run_worker(client, printers.write, [printers.LONG, b"\n", b"next\n"])
        files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "stdout" in str(path)]
        long, following = collector.records
    assert shown.getvalue() == "\u00e9" * 50 + " ... [9,900 more bytes; the file has the whole line]\nnext\n"
    assert long.getMessage().encode() == printers.LONG
    assert str(info_of(long).raw).encode() == printers.LONG
    assert following.getMessage() == "next"
    assert files == [printers.LONG + b"\nnext\n"]


def test_an_unfinished_line_is_in_the_file_even_if_a_grandchild_holds_the_pipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with LogClient(RecordCollector(), log_dir=tmp_path) as client:
        with started("fork", printers.leave_a_child, [(client.address, reader)]) as procs:
            assert join_all(procs) == [0]
        client.flush()
    os.close(writer)
    os.close(reader)
    assert (tmp_path / "rank-0.stdout").read_bytes() == b"line\npart\n"


def test_the_last_output_of_a_killed_worker_arrives() -> None:
    with collected() as logs:
        with started("spawn", printers.print_and_die, [(logs.address,)]) as procs:
            # Once a process was reaped, the kernel no longer tells how it ended.
            logs.wait_for(lambda records: any(record.name == "meshlog" for record in records))
            assert join_all(procs) == [-signal.SIGKILL]
        logs.flush()
        records = logs.records
    assert lines_of(records) == ["printed last", "by C last", "not even a newline"]
    assert lines_of(records, "stderr") == ["to stderr last"]
    obituary = [record.getMessage() for record in records if record.name == "meshlog"]
    assert len(obituary) == 1
    assert "ended by SIGKILL" in obituary[0]
    assert "not even a newline" in obituary[0]
    assert records[-1].name == "meshlog", "what a process said is shown before how it ended"
