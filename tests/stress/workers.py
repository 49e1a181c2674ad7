"""The worker processes of a trial: they log numbered records until they are told to end, or are ended."""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import meshlog_handler

from .tally import LOGGER, Lane, Tally

LANES_EACH: Final = 8
SPARES: Final = 200
_PAD: Final = "x" * 300
_LARGE: Final = "y" * 40_000


@dataclass
class Worker:
    """One worker process, seen from inside.

    Attributes
    ----------
    lanes : list of Lane
        Its own lanes; the first one belongs to its main thread.
    spares : list of Lane
        Lanes for threads and children that are started later.
    rng : random.Random
        Its own source of random choices.
    capture : bool
        Whether its file descriptors are captured.
    on_full : str
        The policy of its handler.
    """

    address: str
    tally: Tally
    lanes: list[Lane]
    spares: list[Lane]
    rng: random.Random
    capture: bool = False
    on_full: str = "block"

    def join(self) -> None:
        """Forward the root logger, and nothing else."""
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if not isinstance(handler, meshlog_handler.MeshHandler):  # another thread may log through it right now
                root.removeHandler(handler)
        root.setLevel(logging.INFO)
        if self.on_full == "block":
            meshlog_handler.install(self.address, capture=self.capture)
        else:
            root.addHandler(meshlog_handler.MeshHandler(address=self.address, on_full=self.on_full))

    def spare(self) -> Lane:
        """Take one of the spare lanes."""
        return self.spares.pop()

    def log_on(self, lane: int = 0, until: Callable[[], bool] = lambda: False) -> None:
        """Log in bursts, with all kinds of records, until told to end."""
        mine, rng = self.lanes[lane], random.Random(self.rng.random())
        burst, pause = rng.choice((1, 10, 100, 400)), rng.choice((0.0, 0.001, 0.004))
        odd = rng.choice((0, 7, 50, 400))
        while not self.tally.stopped:
            for number in range(burst):
                if until():
                    return
                if odd and number % odd == odd - 1:
                    log_oddly(mine, rng)
                else:
                    mine.log()
            time.sleep(pause)

    def in_thread(self, work: Callable[..., object], *args: Any, daemon: bool = True) -> threading.Thread:
        """Run a function in a new thread."""
        thread = threading.Thread(target=work, args=args, daemon=daemon)
        thread.start()
        return thread


def log_oddly(lane: Lane, rng: random.Random) -> None:
    """Log a record that takes a path other than the shortest one."""
    kind = rng.randrange(7)
    if kind == 0:
        lane.log(LOGGER.warning, "%d %d %s", _PAD)
    elif kind == 1:
        lane.log(LOGGER.info, "%d %d %s", object())
    elif kind == 2:
        lane.log(LOGGER.info, extra={"step": [1, {"two": 3.0}]})
    elif kind == 3:
        lane.log(LOGGER.info, f"%d %d {rng.random()}")
    elif kind == 4:
        try:
            raise ValueError("in a worker")
        except ValueError:
            lane.log(LOGGER.exception)
    elif kind == 5:
        lane.log(LOGGER.info, "%d %d %r %.3f", rng.random(), 1 << 70)
    elif rng.random() < 0.2:
        lane.log(LOGGER.info, "%d %d %s", _LARGE)


def at_work(worker: Worker) -> None:
    """Join, and log until told to end, with or without extra threads."""
    worker.join()
    threads = [worker.in_thread(worker.log_on, lane) for lane in range(1, worker.rng.choice((1, 1, 2, 4)))]
    worker.log_on()
    for thread in threads:
        thread.join()


def begin(worker: Worker, work: Callable[[Worker], object]) -> None:
    """Run a worker in a process forked for it."""
    # Replacements of the streams by a test runner do not write to the descriptors.
    sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115  # open as long as the process
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115  # as above
    os.environ["MESHLOG_ADDRESS"] = worker.address
    work(worker)
