"""On a terminal: lines wait while a debugger waits for input, and a hint says once how grouping is switched off."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.command_line import PYTHON
from tests.process.procs import DEADLINE, ROOT, importing
from tests.waiting import until

DEBUGGED = """
import logging, multiprocessing, pathlib, sys, threading, time
from meshlog_handler import LogClient, install
from meshlog_handler.output import console

place = pathlib.Path(sys.argv[1])

def wait_for(path):
    while not path.exists():
        time.sleep(0.01)

def work(address):
    install(address)
    wait_for(place / "go")
    logging.warning("from a worker")

def watch():
    while not console.keeping:
        time.sleep(0.01)
    (place / "kept").touch()

def main():
    with LogClient() as client:
        worker = multiprocessing.get_context("fork").Process(target=work, args=(client.address,))
        worker.start()
        threading.Thread(target=watch, daemon=True).start()
        breakpoint()
        print("goes on")
        worker.join()

main()
"""

GROUPED = """
import logging, sys
from meshlog_handler import this_host

def work():
    logging.getLogger("app").info("step")

procs = this_host().spawn_procs(per_host={"gpus": 2}, start_method="fork")
if sys.argv[1] == "chosen":
    procs.logging_option(aggregate_window_sec=60).get()
for _ in range(2):
    procs.call(work).get()
    procs.flush().get()
procs.stop().get()
"""


class Terminal:
    """What a program shows on a terminal, and its keys."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.shown = ""

    def type(self, text: str) -> None:
        """Type these keys."""
        os.write(self._fd, text.encode())

    def read(self) -> str:
        """Read what is there; return all that was shown."""
        while select.select([self._fd], [], [], 0)[0]:
            try:
                self.shown += os.read(self._fd, 65536).decode(errors="replace")
            except OSError:  # the program has ended
                break
        return self.shown

    def until(self, text: str) -> None:
        """Wait until the terminal shows a text."""

        until(lambda: text in self.read(), DEADLINE, lambda: f"{text!r} in {self.shown!r}")


@contextmanager
def on_terminal(program: str, *words: str) -> Iterator[Terminal]:
    """Run a program on a terminal; it has to end well."""
    leader, follower = os.openpty()
    env = {**importing(), "CI": "", "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen(
        [*PYTHON, program, *words], stdin=follower, stdout=follower, stderr=follower, env=env, cwd=ROOT, start_new_session=True
    ) as process:
        os.close(follower)
        try:
            yield Terminal(leader)
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
            os.close(leader)


@pytest.mark.parametrize("typed", ["c", "client.flush()"])
def test_records_of_workers_wait_until_the_debugger_goes_on_or_until_a_flush(typed: str, tmp_path: Path) -> None:
    with on_terminal(DEBUGGED, str(tmp_path)) as terminal:
        terminal.until("(Pdb) ")
        (tmp_path / "go").touch()
        until((tmp_path / "kept").exists, DEADLINE)
        assert "from a worker" not in terminal.read()
        terminal.type(f"{typed}\n")
        terminal.until("[0] from a worker")
        if typed != "c":
            assert "goes on" not in terminal.shown
            terminal.type("c\n")
        terminal.until("goes on")


@pytest.mark.parametrize(("window", "hints"), [("default", 1), ("chosen", 0)])
def test_a_mesh_with_the_default_window_says_once_how_grouping_is_switched_off(window: str, hints: int) -> None:
    with on_terminal(GROUPED, window) as terminal:
        until(lambda: terminal.read().count("[2 similar log lines] [ranks 0-1] step") == 2, DEADLINE)
    assert terminal.shown.count("aggregate_window_sec=None") == hints
