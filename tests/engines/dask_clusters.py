"""Dask clusters for tests: one that a client starts, and one whose parts are no children of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster

from ..waiting import until

ROOT = Path(__file__).parents[2]
SECONDS = 60.0


class ByCommands:
    """A scheduler and workers that were started by command lines, each a process of its own."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "scheduler.json"
        self._directory = directory
        self._parts: list[subprocess.Popen[bytes]] = []
        self._start("scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        until(self._file.exists, SECONDS, "the scheduler's file")

    @property
    def file(self) -> str:
        """Which names the scheduler to clients."""
        return str(self._file)

    def add(self, *options: str) -> subprocess.Popen[bytes]:
        """Start one more command for workers; return its process, which is that of the nannies, if there are any."""
        where = ("--local-directory", str(self._directory), "--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1")
        return self._start("worker", *where, *options)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *words, "--scheduler-file", str(self._file)]
        output = open(self._directory / f"{words[0]}-{len(self._parts)}.txt", "wb")  # noqa: SIM115  # closed below
        with output:
            part = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        self._parts.append(part)
        return part

    def output(self) -> str:
        """Return what all parts have written outside of any client."""
        return "".join(path.read_text() for path in sorted(self._directory.glob("*-*.txt")))

    def close(self) -> None:
        """End all parts, workers first."""
        for part in reversed(self._parts):
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                part.terminate()
        for part in reversed(self._parts):
            try:
                part.wait(SECONDS)
            except subprocess.TimeoutExpired:
                part.kill()
                part.wait()


@contextlib.contextmanager
def local_cluster(workers: int = 2, **options: Any) -> Iterator[Client]:
    """Start a `LocalCluster`, of processes unless told otherwise; yield a client of it."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            **{"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0", **options}
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextlib.contextmanager
def by_commands(directory: Path, workers: int = 2) -> Iterator[tuple[ByCommands, Client]]:
    """Start a cluster by command lines; yield it and a client."""
    cluster = ByCommands(directory)
    try:
        cluster.add("--nworkers", str(workers))
        with Client(scheduler_file=cluster.file) as client:
            client.wait_for_workers(workers, SECONDS)
            yield cluster, client
    finally:
        cluster.close()


def pids(client: Client) -> dict[str, int]:
    """Return the process ids of the workers by address."""
    return dict(client.run(os.getpid))
