"""The tasks and actors of the Ray tests. They are importable, so that the workers of any node find them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from typing import Any

import ray

from meshlog_handler.integrations.ray import join

NAME = "app"


def say(text: str) -> int:
    """Log, print on both streams, and have a subprocess print; return this process's pid."""
    logging.getLogger(NAME).info("logged %s", text)
    logging.getLogger("ray").warning("told %s", text)
    print(f"printed {text}")
    print(f"warned {text}", file=sys.stderr)
    os.system(f"echo echoed {text}")
    return os.getpid()


def say_and_let_say(text: str) -> list[int]:
    """Call `say`, here and in a task that this task starts."""
    return [say(text), ray.get(ray.remote(say).options(num_cpus=0).remote(f"below {text}"))]


def log(level: int, text: str) -> int:
    """Log once; return this process's pid."""
    logging.getLogger(NAME).log(level, text)
    return os.getpid()


def log_and_die(count: int) -> None:
    """Log and print numbers, then kill this process at once."""
    for number in range(count):
        logging.getLogger(NAME).info("number %d", number)
        print(f"line {number}")
    os.kill(os.getpid(), signal.SIGKILL)


def fail(text: str) -> None:
    """Log an exception and raise it again."""
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger(NAME).exception("failed")
        raise


def state() -> dict[str, Any]:
    """Return how logging is set up in this process, and whether its stdout is captured."""
    root = logging.getLogger()
    return {
        "level": root.level,
        "handlers": [type(handler).__name__ for handler in root.handlers],
        "captured": os.readlink("/proc/self/fd/1").startswith("pipe:"),
    }


def hook() -> None:
    """Join, and do something else, as a job's own hook does."""
    os.environ["HOOKED"] = "1"
    join()


class Counter:
    """A simple actor."""

    def say(self, text: str) -> int:
        """See `say`."""
        return say(text)

    def log(self, level: int, text: str) -> int:
        """See `log`."""
        return log(level, text)

    def sleep(self, seconds: float) -> None:
        """Be busy."""
        time.sleep(seconds)

    def fail(self, text: str) -> None:
        """See `fail`."""
        fail(text)

    def state(self) -> dict[str, Any]:
        """See `state`."""
        return state()
