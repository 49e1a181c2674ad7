"""Another process of the user truncates files that the client of a job writes and reads: no process is ended by it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshlog_handler.journal.side_files import side_path
from meshlog_handler.journal.writer import Journal
from meshlog_handler.protocol.entries import LARGE, number_entry
from meshlog_handler.protocol.frames import CONTROL, frame
from meshlog_handler.protocol.messages import Goodbye
from meshlog_handler.transport.run_directory import base
from tests.waiting import until

from .hostile import RANK, entries, honest, joined
from .procs import DEADLINE
from .test_jobs import lines, program, shown_by

TIMES = 20


def truncate(pattern: str) -> int:
    """Empty the files of this pattern in all run directories; return how many there were."""
    found = list(Path(base()).glob(f"run-*/{pattern}"))
    for path in found:
        os.truncate(path, 0)
    return len(found)


def test_marks_and_tables_that_are_truncated_while_they_are_written_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    said = {name: tmp_path / f"said-{name}" for name in "ab"}
    with program("keep_on", path, "a", output=said["a"]) as one:
        until(shown_by, DEADLINE)
        with program("keep_on", path, "b", output=said["b"]) as two:
            until(lambda: lines(path)["b 0"], DEADLINE)
            for _ in range(TIMES):
                assert truncate("*.shown") >= 2
                assert truncate("files") == 1
                before = sum(lines(path).values())
                until(lambda: sum(lines(path).values()) > before + 4, DEADLINE)  # noqa: B023
            for process in (two, one):
                process.terminate()
                assert process.wait(DEADLINE) == 0
    assert lines(path) == {f"{name} {n}": 1 for name, file in said.items() for n in range(int(file.read_text()))}


@pytest.mark.parametrize(("size", "said"), [(0, "is truncated"), (1 << 14, "has a header that does not fit its size")])
def test_a_truncated_journal_is_named_and_the_others_go_on(size: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    with honest() as others:
        with joined(others.address) as peer:
            journal = Journal(peer.journal, 1 << 20)
            journal.appender[1](entries("sent") + entries("never sent"))
            peer.log(entries("sent"))
            others.until_shown("sent")
            journal.close()
            os.truncate(peer.journal, size)
            peer.send(frame(CONTROL, Goodbye().encode()))
        until(lambda: not others.logs.client.stats()[RANK].alive, DEADLINE, "the end of the peer to be noted")
        others.are_heard()
        others.are_counted()
    assert f"journal {peer.journal} {said}" in capfd.readouterr().err


def test_a_truncated_side_file_is_named_in_place_of_its_record(capfd: pytest.CaptureFixture[str]) -> None:
    with honest() as others:
        with joined(others.address) as peer:
            Path(side_path(peer.journal, 1)).write_bytes(entries("large")[:-1])
            peer.log(number_entry(LARGE, 1) + entries("after"))
            others.until_shown("after")
            assert "a record cannot be read" in [record.getMessage() for record in others.logs.records][-2]
        others.are_heard()
        others.are_counted()
