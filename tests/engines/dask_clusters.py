"""A Dask cluster for tests. Command lines start its parts: no worker is a child of the client."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..waiting import until

ROOT = Path(__file__).parents[2]
SECONDS = 60.0


class ByCommands:
    """A scheduler and workers, each a separate process started by a command line. `host` is the address of the scheduler."""

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        self._file = directory / "scheduler.json"
        self._directory = directory
        self._parts: list[subprocess.Popen[bytes]] = []
        self._start("scheduler", "--port", "0", "--no-dashboard", "--host", host)
        until(self._file.exists, SECONDS, "the scheduler's file")

    @property
    def file(self) -> str:
        """The file that names the scheduler to clients."""
        return str(self._file)

    @property
    def scheduler(self) -> int:
        """The process id of the scheduler."""
        return self._parts[0].pid

    def start_worker(self, *options: str) -> subprocess.Popen[bytes]:
        """Start one more worker command; return its process, which runs the nannies if there are any."""
        where = ("--local-directory", str(self._directory), "--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1")
        return self._start("worker", *where, *options)

    @contextlib.contextmanager
    def one_more(self, *options: str) -> Iterator[None]:
        """Run one more worker command for the length of the context."""
        part = self.start_worker(*options)
        try:
            yield
        finally:
            self._end(part)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *words, "--scheduler-file", str(self._file)]
        output = open(self._directory / f"{words[0]}-{len(self._parts)}.txt", "wb")  # noqa: SIM115  # closed below
        with output:
            part = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        self._parts.append(part)
        return part

    def close(self) -> None:
        """End all parts, the scheduler last."""
        for part in reversed(self._parts):
            self._end(part)

    @staticmethod
    def _end(part: subprocess.Popen[bytes]) -> None:
        part.terminate()
        try:
            part.wait(SECONDS)
        except subprocess.TimeoutExpired:
            part.kill()
            part.wait()


@contextlib.contextmanager
def by_commands(directory: Path, workers: int) -> Iterator[ByCommands]:
    """Start a cluster by command lines, and end it."""
    cluster = ByCommands(directory)
    try:
        cluster.start_worker("--nworkers", str(workers))
        yield cluster
    finally:
        cluster.close()


def pids(client: Any) -> dict[str, int]:
    """Return the process ids of the workers by address."""
    return dict(client.run(os.getpid))
