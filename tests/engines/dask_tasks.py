"""The tasks of the Dask tests. They are importable, so that workers of any cluster find them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import distributed

LOGGERS = (None, "app", "distributed", "distributed.worker", "tornado")


def say(text: str) -> int:
    """Log, print, and have a subprocess print; return this process's pid."""
    logging.getLogger("app").info("logged %s", text)
    print(f"printed {text}")
    os.system(f"echo echoed {text}")
    return os.getpid()


def log(level: int, text: str) -> None:
    logging.getLogger("app").log(level, text)


def log_many(count: int) -> None:
    for number in range(count):
        logging.getLogger("app").info("number %d", number)


def log_and_kill_nanny(count: int) -> None:
    """Log numbers, then kill the nanny of this worker, which ends with it."""
    log_many(count)
    os.kill(os.getppid(), signal.SIGKILL)
    threading.Event().wait()


def log_when(gate: str, count: int) -> None:
    """Make a file beside `gate`; when there is a file `gate`, log numbers and make another one."""
    Path(f"{gate}.waits").touch()
    while not os.path.exists(gate):
        time.sleep(0.01)
    log_many(count)
    Path(f"{gate}.logged").touch()


def fail(text: str) -> None:
    raise ValueError(text)


def print_by_dask(text: str) -> None:
    distributed.print(f"dask printed {text}")


def say_by_dask(text: str) -> None:
    """Print and warn through Dask's own functions."""
    print_by_dask(text)
    distributed.warn(f"dask warned {text}")


def log_and_die(marker: str, count: int) -> None:
    """Log and print numbers, then kill this process at once. Do nothing if that has happened before."""
    with contextlib.suppress(FileExistsError):  # Dask runs a task again if its worker has died
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        for number in range(count):
            logging.getLogger("app").info("number %d", number)
            print(f"line {number}")
        os.kill(os.getpid(), signal.SIGKILL)


def state() -> dict[str, Any]:
    """Return the logging state of a worker's process: loggers, descriptors, threads of ours."""
    return {
        **{str(name): _logger(logging.getLogger(name)) for name in LOGGERS},
        "streams": [os.readlink(f"/proc/self/fd/{fd}") for fd in (1, 2)],
        "buffering": [sys.stdout.line_buffering, sys.stderr.line_buffering],
        "threads": sorted(t.name for t in threading.enumerate() if t.name.startswith("meshlog")),
    }


def plugins(dask_scheduler: Any) -> list[str]:
    """On the scheduler: return the names of our plug-ins that are registered there."""
    return [name for name in dask_scheduler.worker_plugins if name.startswith("meshlog")]


def close_broadcasts(dask_scheduler: Any) -> int:
    """On the scheduler: close the connections to workers and nannies that wait for an answer; return how many these were."""
    occupied = [comm for comms in dask_scheduler.rpc.occupied.values() for comm in comms]
    waiting = [comm for comm in occupied if comm.name == "Scheduler Broadcast"]
    for comm in waiting:
        comm.abort()
    return len(waiting)


def _logger(logger: logging.Logger) -> tuple[Any, ...]:
    return logger.level, logger.propagate, [f"{type(h).__name__} {h.level}" for h in logger.handlers]


async def use_executor_threads(count: int | None) -> None:
    """Give this process's event loop an executor with `count` threads; None means Python's default."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(count))
