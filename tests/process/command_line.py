"""Run ``meshlog`` as a user does: in another process, with output to files that can be read while it runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.process.procs import DEADLINE, ROOT, importing
from tests.waiting import until

MESHLOG = (sys.executable, "-m", "meshlog_handler")
PYTHON = (sys.executable, "-c")

WAIT_FOR = """
import os, sys, time
def wait_for(path):
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.002)
rank = int(os.environ.get("RANK", -1))
"""
"""The code with which most ranks of these tests begin."""


class Meshlog:
    """A running ``meshlog``."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self._directory = directory

    @property
    def out(self) -> str:
        """The text written to stdout so far."""
        return (self._directory / "out").read_text(errors="surrogateescape")

    @property
    def err(self) -> str:
        """The text written to stderr so far."""
        return (self._directory / "err").read_text(errors="surrogateescape")

    def wait(self) -> int:
        """Wait for the process to end; return its exit code. Fails at the deadline."""
        return self.process.wait(DEADLINE)

    def until(self, text: str, count: int = 1) -> None:
        """Wait until the output contains a text `count` times. Fails if the process ends before."""
        until(
            lambda: (self.out + self.err).count(text) >= count or self.process.poll() is not None,
            DEADLINE,
            lambda: f"{count} times {text!r}\n{self.out}\n{self.err}",
        )
        assert (self.out + self.err).count(text) >= count, f"it ended before\n{self.out}\n{self.err}"


@contextmanager
def running(directory: Path, *words: str, env: Mapping[str, str] | None = None) -> Iterator[Meshlog]:
    """Start ``meshlog`` with these words; stop it at the end if it still runs, if need be by SIGKILL.

    The ranks of a killed ``meshlog`` then see their pipes break.
    """
    with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
        process = subprocess.Popen(
            [*MESHLOG, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**importing(), **(env or {})}, cwd=ROOT
        )
    try:
        yield Meshlog(process, directory)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def meshlog(directory: Path, *words: str, code: int = 0, env: Mapping[str, str] | None = None) -> Meshlog:
    """Run ``meshlog`` with these words to its end; fail if the exit code is not `code`."""
    with running(directory, *words, env=env) as ran:
        found = ran.wait()
    assert found == code, f"exit code {found}\n{ran.out}\n{ran.err}"
    return ran


@contextmanager
def kept(run_dir: str) -> Iterator[None]:
    """Hold the lock of a killed client's run directory, so that no other client removes it. Remove the directory at the end."""
    lock = os.open(os.path.join(run_dir, "client.lock"), os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        shutil.rmtree(run_dir)
        os.close(lock)
