"""Output printed just before a process ends, when the client has exited and the process has not noticed yet."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import LogClient, install
from meshlog_handler.worker.member import Membership
from tests.waiting import until

from . import orphans
from .procs import DEADLINE, join_all, run_python, started


def work(address: str, directory: str, joined: Any, gone: Any) -> None:
    """Join, and print when the client is gone. The thread that would notice this is kept from doing so."""
    logging.getLogger().handlers.clear()
    orphans.redirect(directory, "worker")
    Membership._lose_client = lambda self: None  # type: ignore[method-assign]  # forces the race: the thread is always too late
    install(address)
    joined.set()
    gone.wait(DEADLINE)
    print("last words")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_last_output_of_a_child_goes_to_its_original_stdout(method: str, tmp_path: Path) -> None:
    context: Any = multiprocessing.get_context(method)
    joined, gone = context.Event(), context.Event()
    client = LogClient(logging.NullHandler()).start()
    with started(method, work, [(client.address, str(tmp_path), joined, gone)]) as procs:
        until(joined.is_set, DEADLINE, "the worker to join")
        client.stop()
        gone.set()
        assert join_all(procs) == [0]
    assert (tmp_path / "worker.stdout").read_text() == "last words\n"


_FULL = """
import os, sys
from meshlog_handler.system import fd_capture
from meshlog_handler.worker import member

way = sys.argv[1]
member._ROOM_SEC = 0.1
captured = fd_capture.FdCapture()
captured.start()
os.set_blocking(1, False)
try:
    while True:
        os.write(1, b"x" * 4096)  # nobody reads it, as while the client is stopped
except BlockingIOError:
    os.set_blocking(1, True)
print("last words", end="")  # stand in the buffer, for the line has no end
if way == "stop":
    captured.stop(drain=False)
else:
    assert not captured.has_room(0.1)
    captured.lead_back()
print()
"""


@pytest.mark.parametrize("way", ["stop", "lead back"])
def test_the_end_of_a_capture_does_not_block_on_a_full_pipe(way: str) -> None:
    assert run_python("-c", _FULL, way, timeout=30).stdout == "last words\n"


_PROGRAM = """
import logging
from meshlog_handler import LogClient, install
from meshlog_handler.worker.member import Membership
from tests.process.procs import importing
import subprocess, sys
if len(sys.argv) > 1:
    Membership._lose_client = lambda self: None
    install()
    print("joined", flush=True)
    input()
    print("last words")
else:
    class Joined(logging.Handler):
        def handle(self, record):
            joined.append(record.getMessage())
    joined = []
    client = LogClient(Joined()).start()
    child = subprocess.Popen([sys.executable, "-c", sys.orig_argv[2], "child"], env=client.environ(), stdin=subprocess.PIPE)
    from tests.waiting import until
    until(lambda: joined)
    client.stop()
    child.communicate(b"go\\n")
"""


def test_the_last_output_of_a_subprocess_goes_to_its_original_stdout() -> None:
    done = run_python("-c", _PROGRAM)
    assert done.stdout == "last words\n"
