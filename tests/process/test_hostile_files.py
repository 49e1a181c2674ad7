"""What another process of the same user may have put into the directories of clients: no client blocks, fails or grows."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshlog_handler import LogClient
from meshlog_handler.cli.view.observer import runs
from meshlog_handler.journal.shown import ShownMark, position
from meshlog_handler.testing import RecordCollector
from meshlog_handler.transport.election import Election
from meshlog_handler.transport.run_directory import base

JOB = "hostile"
SPARSE = 1 << 30
JOURNAL = "1-0-token-rank0.journal"


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield the parent of the run directories; remove what a test puts there."""
    parent = Path(base())
    before = set(parent.iterdir())
    yield parent
    for path in set(parent.iterdir()) - before:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def run_of_job(place: Path) -> Path:
    """Make what a killed client of the job has left."""
    run = place / "run-hostile"
    run.mkdir(mode=0o700)
    (run / "client.lock").touch()
    (run / "job").write_text(JOB)
    return run


def job_is_a_pipe(place: Path) -> None:
    (run_of_job(place) / "job").unlink()
    os.mkfifo(place / "run-hostile" / "job")


def job_is_no_text(place: Path) -> None:
    (run_of_job(place) / "job").write_bytes(b"\xff\xfe\x00")


def job_is_endless(place: Path) -> None:
    os.truncate(run_of_job(place) / "job", SPARSE)


def lock_is_a_pipe(place: Path) -> None:
    (run_of_job(place) / "client.lock").unlink()
    os.mkfifo(place / "run-hostile" / "client.lock")


def run_is_a_file(place: Path) -> None:
    (place / "run-hostile").write_bytes(b"\0" * 100)


def pid_is_huge(place: Path) -> None:
    (place / ("told-" + "9" * 100)).touch()


def mark_is_random(place: Path) -> None:
    (run_of_job(place) / f"{JOURNAL}.shown").write_bytes(os.urandom(16384))


def mark_is_a_pipe(place: Path) -> None:
    os.mkfifo(run_of_job(place) / f"{JOURNAL}.shown")


def a_mark(place: Path, hello: object = None) -> ShownMark:
    path = str(run_of_job(place) / JOURNAL)
    named = {"pid": 1, "hostname": "there", "rank": 0, "local_rank": None, "mesh": "", "captured": (), "forwarding": True}
    return ShownMark.create(path, {"hello": hello or {**named, "started": 0.0}, "rank": 0})


def files_are_a_pipe(place: Path) -> None:
    mark = a_mark(place)
    os.mkfifo(place / "run-hostile" / "files")
    mark.table = str(place / "run-hostile" / "files")
    mark.begin(position(1, 1), 1)
    mark.close()


def mark_names_a_huge_pid(place: Path) -> None:
    a_mark(place, {"pid": 1 << 62}).close()


def journal_is_a_pipe(place: Path) -> None:
    a_mark(place).close()
    os.mkfifo(place / "run-hostile" / JOURNAL)


def journal_is_endless(place: Path) -> None:
    a_mark(place).close()
    (place / "run-hostile" / JOURNAL).touch()
    os.truncate(place / "run-hostile" / JOURNAL, SPARSE)


def description_is_deep(place: Path) -> None:
    (run_of_job(place) / "client.json").write_bytes(b"[" * 60_000)


FILES = [
    job_is_a_pipe,
    job_is_no_text,
    job_is_endless,
    lock_is_a_pipe,
    run_is_a_file,
    pid_is_huge,
    mark_is_random,
    mark_is_a_pipe,
    files_are_a_pipe,
    mark_names_a_huge_pid,
    journal_is_a_pipe,
    journal_is_endless,
    description_is_deep,
]


def shows(client: LogClient, shown: RecordCollector) -> bool:
    """Return whether a client shows a record of this process, and what took less than five seconds."""
    began = time.monotonic()
    client.queue.put(logging.makeLogRecord({"name": "honest", "msg": "heard"}))
    client.flush(5.0)
    return [record.getMessage() for record in shown.records if record.name == "honest"] == ["heard"] and (
        time.monotonic() - began < 5.0
    )


@pytest.mark.usefixtures("no_job")
@pytest.mark.parametrize("put", FILES, ids=lambda put: put.__name__)
def test_no_file_in_a_run_directory_harms_a_client(put: Callable[[Path], None], place: Path) -> None:
    put(place)
    began = time.monotonic()
    shown = RecordCollector()
    with LogClient(shown) as client:
        assert shows(client, shown)
        assert [run.address for run in runs() if run.address == client.address]
    with LogClient(RecordCollector(), job=JOB) as of_job:
        of_job.flush(5.0)
        assert of_job.running
    assert time.monotonic() - began < 5.0


def is_a_directory(path: Path, _: Path) -> None:
    path.mkdir()


def is_a_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def is_a_link(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


@pytest.mark.usefixtures("no_job")
@pytest.mark.parametrize("put", [is_a_directory, is_a_pipe, is_a_link])
def test_what_is_no_file_in_the_place_of_a_jobs_lock_is_refused(
    put: Callable[[Path, Path], None], place: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("stays")
    put(place / f"job-{JOB}", elsewhere)
    client = LogClient(RecordCollector(), job=JOB)
    with pytest.raises(OSError, match=f"job-{JOB}"):
        client.start()
    client.stop()
    assert elsewhere.read_text() == "stays"


@pytest.mark.parametrize("content", [b"\xff\n", b"no address\n", b"\0" * 100_000, b"/nowhere\n", b""])
def test_what_is_no_address_in_a_jobs_lock_is_no_address(content: bytes, place: Path) -> None:
    election = Election(JOB)
    Path(election.path).write_bytes(content)
    assert election.address() == ""
    assert election.claim()
    election.release()
