"""A relay whose upstream client is lost goes on below another one, or stops and leaves the journals of its workers."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from meshlog_handler import LogClient, LogRelay
from meshlog_handler.client.relay import log_relay
from meshlog_handler.client.relay.uplink import Uplink
from meshlog_handler.errors import ProtocolError
from meshlog_handler.testing import RecordCollector
from meshlog_handler.transport import run_directory
from tests.waiting import until

from .procs import DEADLINE, run_python


class Pair(NamedTuple):
    """A client and a relay below it, as if the client were a relay that can be replaced; and what the relay reports."""

    client: LogClient
    relay: LogRelay
    uplink: Uplink
    journal: Path  # as if it were a worker's
    told: list[str]

    def lose(self) -> None:
        self.uplink._link.close()


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    told: list[str] = []
    monkeypatch.setattr(log_relay, "diagnose", told.append)
    monkeypatch.setattr(log_relay, "_ENDS_SEC", 0.05)
    with LogClient(RecordCollector()) as client:
        with LogRelay(client.address) as relay:
            uplink = relay._uplink
            assert uplink is not None
            uplink.replaceable = True
            journal = Path(uplink.directory.path) / "7.journal"
            journal.touch()
            yield Pair(client, relay, uplink, journal, told)
        until(lambda: not any(peer.sock for peer in client._loop.reactor.peers), DEADLINE, "the end of all connections")
    run_directory.clean(run_directory.base(), 0.0)  # as a client would later


def left(pair: Pair) -> bool:
    """Return whether another relay can take over the directory of the relay."""
    return run_directory.is_left(os.fspath(pair.journal.parent))


def test_a_relay_whose_thread_is_blocked_leaves_the_journals_to_another_one(pair: Pair) -> None:
    blocked, goes_on = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        goes_on.wait(DEADLINE)

    pair.relay.client.on_thread(block)
    assert blocked.wait(DEADLINE)
    pair.lose()
    until(lambda: pair.told, DEADLINE, "the relay to give up")
    assert not left(pair), "its thread may still use the directory"
    goes_on.set()
    until(lambda: not pair.relay.running and left(pair), DEADLINE, "the end of the relay")
    assert pair.journal.exists()
    (told,) = pair.told
    assert "the thread of its client does not end" in told


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.EMFILE, "Too many open files"), ProtocolError("another protocol"), RuntimeError("can't start new thread")],
    ids=["too many files", "another protocol", "no thread"],
)
def test_a_relay_that_cannot_go_on_stops(pair: Pair, failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise failure

    monkeypatch.setattr(log_relay, "Uplink", refuse)
    pair.lose()
    until(lambda: not pair.relay.running and left(pair), DEADLINE, "the end of the relay")
    assert pair.journal.exists()
    (told,) = pair.told
    assert str(failure) in told


CLOSED = """
import os
from meshlog_handler import LogClient, LogRelay
from meshlog_handler.client.relay import log_relay
log_relay._ENDS_SEC = 0.05
client = LogClient().start()
relay = LogRelay(client.address).start()
relay._uplink.replaceable = relay._uplink.lost = True
mailbox = relay.client._mailbox
for fd in (mailbox._reader.fd, mailbox._writer.fd):
    os.closerange(fd, fd + 1)  # no error, if the client's thread has noticed the first one and closed the second one
relay.stop()
client.stop()
print(relay.running, flush=True)
os._exit(0)
"""


def test_a_lost_relay_whose_descriptors_the_program_has_closed_can_be_stopped() -> None:
    assert run_python("-c", CLOSED).stdout == "False\n"
    run_directory.clean(run_directory.base(), 0.0)  # as a client would later
