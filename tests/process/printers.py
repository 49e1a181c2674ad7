"""The code of the worker processes that print."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any

import meshlog_handler
from tests.process.procs import DEADLINE

NOT_TEXT = b"caf\xe9 \xff\x00 end"
LONG = b"\xc3\xa9" * 5000


def print_in_every_way(address: str) -> None:
    """Write one line each with the descriptor, C, a child and Python, and two lines to stderr."""
    meshlog_handler.install(address)
    os.write(1, b"written\n")
    assert ctypes.CDLL(None).printf(b"by C\n") == 5
    subprocess.run(["echo", "echoed"], check=True)
    print("printed")
    print("to stderr", file=sys.stderr)
    print("ERROR: bad news", file=sys.stderr)


def write(address: str, pieces: list[bytes]) -> None:
    """Write to file descriptor 1, piece by piece."""
    meshlog_handler.install(address)
    for piece in pieces:
        os.write(1, piece)


def write_progress(address: str, go: Any) -> None:
    """Draw half of a progress bar; when `go` is released, draw the rest and write a line."""
    meshlog_handler.install(address)
    for percent in range(51):
        os.write(1, b"\r%d%% of it" % percent)
    assert go.acquire(timeout=DEADLINE)
    for percent in range(51, 101):
        os.write(1, b"\r%d%% of it" % percent)
    os.write(1, b"\nafter\n")


def write_partly(address: str, go: Any) -> None:
    """Write the time without a newline; write the rest when `go` is released."""
    meshlog_handler.install(address)
    os.write(1, f"{time.time()!r} ...".encode())
    assert go.acquire(timeout=DEADLINE)
    os.write(1, b" done\n")


def print_and_die(address: str) -> None:
    """Print with Python, C and the descriptor; then be killed at once."""
    meshlog_handler.install(address)
    print("printed last")
    ctypes.CDLL(None).printf(b"by C last\n")
    print("to stderr last", file=sys.stderr)
    os.write(1, b"not even a newline")
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_child(address: str, until_closed: int) -> None:
    """Write a line and part of another, and end while a child still holds the pipe."""
    meshlog_handler.install(address)
    subprocess.Popen(["cat"], stdin=until_closed)
    os.write(1, b"line\npart")
    os._exit(0)


def restored(address: str) -> None:
    """Install and uninstall, twice; afterwards, the output goes to the original streams."""
    before = [os.fstat(fd) for fd in (1, 2)]
    streams = sys.stdout, sys.stderr
    for _ in range(2):
        meshlog_handler.install(address)
        assert all(os.fstat(fd).st_ino != was.st_ino for fd, was in zip((1, 2), before, strict=True))
        assert (sys.stdout, sys.stderr) == streams
        print("captured")
        meshlog_handler.uninstall()
        assert [os.fstat(fd)[:3] for fd in (1, 2)] == [was[:3] for was in before]
        print("after")
    meshlog_handler.uninstall()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
