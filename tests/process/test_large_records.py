"""Records larger than a segment of the journal arrive, and their side files never fill the disk."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import meshlog_handler
from meshlog_handler import LogClient, LogRelay
from meshlog_handler.cli.view.tail import read_tails
from meshlog_handler.testing import RecordCollector
from tests.waiting import until

from .procs import DEADLINE, held_up, join_all, started

SIZE = 200_000


class Looking(RecordCollector):
    """Keeps numbers instead of texts, and measures the side files in a directory at each record."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self.numbers: list[int] = []
        self.most = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the number of a record, and measure the side files."""
        if record.name != "worker":
            return
        number, _, text = record.getMessage().partition(" ")
        assert text == "x" * SIZE
        self.numbers.append(int(number))
        self.most = max(self.most, used(self._directory))


def used(directory: Path) -> int:
    """Return the total size of the side files in the run directories below `directory`."""
    size = 0
    for path in directory.rglob("*.journal.*"):
        with contextlib.suppress(FileNotFoundError):  # the client has read and removed the file
            size += path.stat().st_size
    return size


def log_large(address: str, count: int, ready: Any = None, go: Any = None, die: bool = False) -> None:
    """Join; with the semaphores `ready` and `go`, release one and wait for the other. Log large records; then `die`."""
    meshlog_handler.install(address, capture=False)
    if ready is not None:
        ready.release()
        assert go.acquire(timeout=DEADLINE)
    for number in range(count):
        logging.getLogger("worker").info("%d %s", number, "x" * SIZE)
    if die:
        os.kill(os.getpid(), signal.SIGKILL)


def log_sizes(address: str, sizes: list[int]) -> None:
    """Log messages of these sizes, each with a known schema and with a new one."""
    meshlog_handler.install(address, capture=False)
    logger = logging.getLogger("worker")
    logger.info("%s", "x")
    for size in sizes:
        logger.info("%s", "x" * size)
        logger.info("x" * size)


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the parent of the run directories. Make all journals small, also those of relays, which are larger by default."""
    monkeypatch.setenv("MESHLOG_JOURNAL_SIZE", str(128 * 1024))
    monkeypatch.setenv("MESHLOG_RUN_DIR", str(tmp_path))
    return tmp_path


@contextlib.contextmanager
def showing(relayed: bool, looking: Looking) -> Iterator[tuple[LogClient, str]]:
    """Run a client, and a relay of it if `relayed`. Yield the client and the address for workers."""
    with LogClient(looking) as client:
        if relayed:
            with LogRelay(client.address) as relay:
                yield client, relay.address
        else:
            yield client, client.address


@pytest.mark.parametrize("relayed", [False, True])
def test_the_run_directory_holds_few_large_records_at_a_time(relayed: bool, run_dir: Path) -> None:
    looking = Looking(run_dir)
    with showing(relayed, looking) as (client, address):
        with started("fork", log_large, [(address, 100)]) as procs:
            assert join_all(procs) == [0]
        client.flush(DEADLINE)
        until(lambda: used(run_dir) == 0, DEADLINE, "no side file")  # a relay keeps them until the client has the records
        receipt = client.flush()
    assert looking.numbers == list(range(100))
    assert receipt.dropped == 0
    assert looking.most <= (5 << 20 if relayed else 1 << 19)


@pytest.mark.parametrize("relayed", [False, True])
@pytest.mark.parametrize("count", [2, 50])
def test_the_large_records_of_a_killed_worker_are_read_from_their_files(count: int, relayed: bool, run_dir: Path) -> None:
    """While the client is blocked, it reads no record. The worker logs a few and dies, or logs too many and waits."""
    looking = Looking(run_dir)
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Semaphore(0)
    with showing(relayed, looking) as (client, address):
        with started("fork", log_large, [(address, count, ready, go, True)]) as procs:
            assert ready.acquire(timeout=DEADLINE)
            with held_up(client):
                go.release()
                if count == 2:
                    assert join_all(procs) == [-signal.SIGKILL]
                until(lambda: used(run_dir) >= 2 * SIZE, DEADLINE, "side files")
            assert join_all(procs) == [-signal.SIGKILL]
        until(lambda: len(looking.numbers) == count, 5.0, lambda: f"all records: {looking.numbers}")
        client.flush(DEADLINE)
        until(lambda: used(run_dir) == 0, DEADLINE, "no side file")  # a relay keeps them until the client has the records
    assert looking.numbers == list(range(count))


def test_a_log_dir_keeps_the_newest_large_records_for_tail(tmp_path: Path) -> None:
    with LogClient(logging.NullHandler(), log_dir=tmp_path) as client:
        with started("fork", log_large, [(client.address, 100, None, None, True)]) as procs:
            assert join_all(procs) == [-signal.SIGKILL]
        client.flush(DEADLINE)
    assert 2 << 20 < used(tmp_path) < 5 << 20
    complaints: list[str] = []
    (tail,) = read_tails(str(tmp_path), 3, None, complaints.append)
    texts = [template.text(values) for _, template, values in tail.items]
    assert [text.partition(" ")[0] for text in texts] == ["97", "98", "99"]
    assert complaints == []
    (tail,) = read_tails(str(tmp_path), 100, None, complaints.append)
    assert "too large for the journal, and its side file is missing" in tail.items[0][1].text(tail.items[0][2])


@pytest.mark.parametrize("journal", [64 << 10, 1 << 20, 9 << 20, 64 << 20])
def test_records_with_sizes_around_every_limit_arrive_complete(journal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are those of a batch, a segment, a side file and a frame, for each size of the journal."""
    monkeypatch.setenv("MESHLOG_JOURNAL_SIZE", str(journal))
    limits = (journal // 8, 256 << 10, 1 << 20, 4 << 20, 7 << 20)
    sizes = [size + more for size in limits for more in (-4096, -100, -50, -1, 0, 1, 100)]
    lengths: list[int] = []
    handler = RecordCollector()
    handler.emit = lambda record: lengths.append(len(record.getMessage()))  # type: ignore[method-assign]  # only lengths
    with LogClient(handler) as client:
        with started("fork", log_sizes, [(client.address, sizes)]) as procs:
            assert join_all(procs) == [0]
        assert client.flush(DEADLINE).dropped == 0
    assert lengths == [1, *(size for size in sizes for _ in range(2))]
