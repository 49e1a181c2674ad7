"""A relay below a client that shows nothing holds little, and its workers wait or count: nothing is lost without a count."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import meshlog_handler
from meshlog_handler.transport.channel import Address
from meshlog_handler.worker import this_process
from meshlog_handler.worker.member import JoinOptions
from tests.waiting import until

from .procs import DEADLINE
from .test_killed_relays import answer
from .test_relay import LOGGER, tree

COUNT = 3_000
WORKERS = 4  # their journals hold more than may be on its way above a relay
MIB = 1 << 20


def flood(pipe: Any) -> None:
    """Join the relay at the received address, and log more than all buffers on the way hold."""
    address = pipe.recv()
    this_process.join(JoinOptions(address, on_full="drop"))
    logging.getLogger().addHandler(meshlog_handler.MeshHandler(address=address))
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    pipe.send("joined")
    pipe.recv()
    for number in range(COUNT):
        logger.info("%d %s", number, "x" * 1000)
    pipe.send("logged")
    pipe.recv()


class Gate(logging.Filter):
    """Lets the client's handler wait until it is opened, and counts what is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.opened, self.count = threading.Event(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        self.opened.wait(DEADLINE)
        self.count += record.name == LOGGER
        return False


def resident(pid: int) -> int:
    """Return the bytes of memory that are the process's own: without the maps of journals."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_a_relay_below_a_client_that_shows_nothing_holds_little_and_all_records_are_shown_or_counted() -> None:
    gate = Gate()
    with tree() as job:
        job.collector.addFilter(gate)
        address = job.relay()
        _, pid = job.relays[-1]
        pipes = [job.start(flood)[0] for _ in range(WORKERS)]
        before = resident(pid)
        for word, reply in ((address, "joined"), ("go", "logged")):
            for pipe in pipes:
                pipe.send(word)
            for pipe in pipes:
                assert answer(pipe) == reply
        assert resident(pid) - before < 16 * MIB
        assert on_disk(Path(Address.parse(address).path).parent) < 2 * WORKERS * MIB
        gate.opened.set()
        for pipe in pipes:
            pipe.send("end")
        expected = WORKERS * COUNT
        until(lambda: gate.count + job.client.stats().dropped == expected, DEADLINE, "all records to be shown or counted")
        assert min(gate.count, job.client.stats().dropped) > 100
        job.end()
