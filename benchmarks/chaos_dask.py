"""The programs of `benchmarks.chaos --engine dask`: a client, and on each host a keeper that starts a nanny again and again.

::

    a thread of a Dask worker -> HostRelay, in its nanny -- Dask's messages, by TCP, which is cut --> LogClient

The keeper starts the next nanny in the place of one that was killed, and Dask the next worker. Each worker imports this file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from tests.engines.dask_clusters import ByCommands

from .chaos_programs import Arrivals, answer_orders, log_numbers, telling

DIRECTORY: Final = "CHAOS_DIRECTORY"
"""The variable that names the directory of the run to a Dask worker."""

_LOOK_SEC: Final = 0.05
_END_SEC: Final = 60.0


def client(directory: Path, here: str) -> None:
    """Run the scheduler, on another process, and the client that is attached; answer the orders from stdin."""
    import distributed

    from meshlog_handler.integrations.dask import attach

    arrivals = Arrivals()
    with contextlib.closing(ByCommands(directory, here)) as cluster, distributed.Client(scheduler_file=cluster.file) as dask:
        logs = attach(dask, [arrivals], relay=True)  # the hosts share a file system, so they could reach the client's socket
        logs.set_mode(True, None, logging.INFO)
        answer_orders(logs.client, arrivals, {}, lambda: logs.drain_and_stop(_END_SEC))


def keep(name: str, directory: Path, address: str) -> None:
    """On a host: start a nanny, and others in the place of those that end; until all is over."""
    where = ("--scheduler-file", str(directory / "scheduler.json"), "--local-directory", str(directory / name))
    options = ("--host", address, "--nthreads", "1", "--no-dashboard", "--preload", __spec__.name)
    words = [sys.executable, "-m", "dask", "worker", "--name", f"{name}-0", *options, *where]
    nanny = subprocess.Popen(words)
    while not (directory / "over").exists():
        if nanny.poll() is not None:
            nanny = subprocess.Popen(words)
        time.sleep(_LOOK_SEC)
    nanny.terminate()
    nanny.wait(_END_SEC)


def dask_setup(worker: Any) -> None:
    """Start to log in a Dask worker that starts; Dask calls it."""
    threading.Thread(target=_log, args=(str(worker.name), Path(os.environ[DIRECTORY])), daemon=True).start()


def _log(slot: str, directory: Path) -> None:
    from meshlog_handler.worker import this_process

    name, host = f"{slot}/{os.getpid()}", slot.rpartition("-")[0]
    told = telling(name, directory)
    while (member := this_process.current()) is None:
        time.sleep(_LOOK_SEC)
    (directory / f"{host}.relay").touch()
    log_numbers(member, told, name, int(host[-1]), directory)


if __name__ == "__main__":
    if sys.argv[1] == "client":
        client(Path(sys.argv[2]), sys.argv[3])
    else:
        keep(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
