"""Programs that print records and never stop their client, run as ``python -m tests.process.endings NAME [argument ...]``."""

from __future__ import annotations

import concurrent.futures
import importlib
import logging
import logging.config
import os
import signal
import sys
import threading
import time
from typing import Any

import meshlog_handler

LOGGER = logging.getLogger("app")
CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {
        "mesh": {"class": "meshlog_handler.MeshHandler", "handlers": ["shown"]},
        "shown": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"},
    },
    "root": {"level": "INFO", "handlers": ["mesh"]},
}


def begin(kind: str) -> str | None:
    """Start the client, by a configuration or by hand; return the address that children need, if they do."""
    if kind == "config":
        logging.config.dictConfig(CONFIG)
        return None
    return meshlog_handler.LogClient(logging.StreamHandler(sys.stdout)).start().address


def join(address: str | None) -> None:
    """Join the client, unless the parent had joined before the fork."""
    if logging.getLogger().handlers:
        return
    if address is None:
        logging.config.dictConfig(CONFIG)
    else:
        meshlog_handler.install(address)


def work(address: str | None, number: int) -> None:
    """Log. As a rule, the main module of the parent has ended before the last records."""
    join(address)
    LOGGER.info("child %d begins", number)
    time.sleep(0.3)
    for each in range(100):
        LOGGER.info("child %d says %d", number, each)


def leave(how: str) -> None:
    """End the main module in the given way."""
    if how == "exit":
        sys.exit(3)
    if how == "exception":
        raise RuntimeError("as planned")


def unjoined(kind: str, library: str, method: str, imported: str, how: str = "return") -> None:
    """Start processes that only their library joins."""
    if imported == "early":
        importlib.import_module(f"{library}.util")
    address = begin(kind)
    context: Any = importlib.import_module(library).get_context(method)
    for number in range(2):
        context.Process(target=work, args=(address, number)).start()
    leave(how)


class Slow(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 has no argument there
    """Shows each record later than its process could have ended."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show it after a moment."""
        time.sleep(0.002)
        super().emit(record)


def work_in_time(number: int) -> None:
    """Log, as a process that may wait as long as this machine needs for its records to be shown."""
    vars(importlib.import_module("meshlog_handler.worker.member"))["_SHIP_SEC"] = 60.0
    work(None, number)


def joined(method: str, how: str) -> None:
    """Join processes, and end without notice."""
    CONFIG["handlers"]["shown"]["class"] = f"{__spec__.name}.Slow"  # type: ignore[index]  # the dictionary is of several types
    begin("config")
    context: Any = importlib.import_module("multiprocessing").get_context(method)
    procs = [context.Process(target=work_in_time, args=(number,)) for number in range(2)]
    for proc in procs:
        proc.start()
    for proc in procs:
        proc.join()
    if how == "_exit":
        os._exit(9)
    elif how == "execv":
        os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit(9)"])
    os.kill(os.getpid(), signal.SIGKILL)


def both(first: str, second: str) -> None:
    """Start a child of each library. Only the first library is imported before the client starts."""
    importlib.import_module(f"{first}.util")
    address = begin("by hand")
    for number, library in enumerate((first, second)):
        context: Any = importlib.import_module(library).get_context("spawn")
        context.Process(target=work, args=(address, number)).start()


def run_nested(kind: str, library: str, method: str) -> None:
    """Run the client in a child that ends without stopping the client, while its threads and its children still log."""
    context: Any = importlib.import_module(library).get_context(method)
    proc = context.Process(target=be_nested, args=(kind, library, method))
    proc.start()
    proc.join()
    assert proc.exitcode == 0, proc.exitcode


def be_nested(kind: str, library: str, method: str) -> None:
    """Run the client, as the child."""
    address = begin(kind)
    join(address)  # not in a thread, because a fork at that moment would copy the import locks
    threading.Thread(target=work, args=(address, 2)).start()
    concurrent.futures.ThreadPoolExecutor(1).submit(work, address, 3)
    context: Any = importlib.import_module(library).get_context(method)
    for number in range(2):
        context.Process(target=work, args=(address, number)).start()


def executors(kind: str, method: str) -> None:
    """Leave executors with pending work, without shutting them down."""
    multiprocessing = importlib.import_module("multiprocessing")
    address = begin(kind)
    join(address)
    processes = concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method))
    threads = concurrent.futures.ThreadPoolExecutor(1)
    threading.Thread(target=work, args=(address, 0)).start()
    processes.submit(work, address, 1)
    threads.submit(work, address, 2)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
