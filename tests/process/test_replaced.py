"""A membership that is replaced, because the output is captured from now on, loses no record that another thread logs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from meshlog_handler import LogClient, install
from meshlog_handler.testing import collected
from meshlog_handler.worker import this_process
from meshlog_handler.worker.member import Membership
from meshlog_handler.worker.record_stream import RecordStream

from .forkers import fork, wait
from .procs import DEADLINE

LOGGER = logging.getLogger("other thread")


def log(client: LogClient, text: str) -> None:
    """Log in the usual way."""
    LOGGER.info(text)


def put(client: LogClient, text: str) -> None:
    """Put a record into the client's queue."""
    client.queue.put(logging.makeLogRecord({"name": "other thread", "msg": text, "levelno": logging.INFO, "levelname": "INFO"}))


def replace(client: LogClient, address: str, say: Callable[[LogClient, str], None], when: str) -> None:
    """Install again, and let another thread log meanwhile."""
    install(address, capture=False)
    say(client, "before")
    thread = threading.Thread(target=say, args=(client, "meanwhile"))
    leave, rejoin, append = Membership.leave, this_process.rejoin, RecordStream.append
    began, left, asked = threading.Event(), threading.Event(), threading.Event()

    def leave_slowly(member: Membership) -> None:
        leave(member)
        left.set()
        if when == "after it has left":
            thread.start()
            assert say is put or asked.wait(DEADLINE)

    def ask(*, quiet: bool = False) -> Membership | None:
        asked.set()
        return rejoin(quiet=quiet)

    def append_late(stream: RecordStream, *args: Any) -> bool:
        if threading.current_thread() is thread and when == "before it has left" and not began.is_set():
            began.set()
            assert left.wait(DEADLINE)
        return append(stream, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Membership, "leave", leave_slowly)
        patch.setattr(this_process, "rejoin", ask)
        patch.setattr(RecordStream, "append", append_late)
        if when == "before it has left":
            thread.start()
            assert began.wait(DEADLINE)
        install(address, capture=True)
        thread.join(DEADLINE)
    say(client, "after")


@pytest.mark.usefixtures("real_stdout")
@pytest.mark.parametrize("when", ["before it has left", "after it has left"])
@pytest.mark.parametrize("say", [log, put], ids=["handler", "queue"])
def test_a_record_that_is_logged_while_the_membership_is_replaced_is_shown(
    say: Callable[[LogClient, str], None], when: str
) -> None:
    with collected() as logs:
        assert wait(fork(partial(replace, logs.client, logs.address, say, when))) == 0
        logs.flush()
        assert logs.messages == ["before", "meanwhile", "after"]
