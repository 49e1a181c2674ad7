"""Workers that log more than their client can show."""

from __future__ import annotations

import logging
import time
from typing import Any

import meshlog_handler
from tests.process.procs import DEADLINE

LOGGER = logging.getLogger("flooder")
LEVELS = (logging.INFO, logging.WARNING)


def forward(address: str, on_full: str) -> None:
    """Let the root logger only forward its records."""
    root = logging.getLogger()
    root.handlers.clear()
    root.setLevel(logging.DEBUG)
    root.addHandler(meshlog_handler.MeshHandler(address=address, on_full=on_full))


def flood(address: str, on_full: str, count: int, size: int, answer: Any) -> None:
    """Log `count` records of two alternating levels, as fast as possible; send the seconds that each call took."""
    forward(address, on_full)
    text = "x" * size
    took = []
    for number in range(count):
        begun = time.perf_counter()
        LOGGER.log(LEVELS[number % 2], "%d %s", number, text)
        took.append(time.perf_counter() - begun)
    answer.send(took)
    answer.recv()


def flood_until(address: str, on_full: str, size: int, ready: Any, end: Any) -> None:
    """Log as fast as possible until `end` is set."""
    forward(address, on_full)
    number, text = 0, "x" * size
    while not end.is_set():
        LOGGER.info("flood %d %s", number, text)
        number += 1
        if number == 1000:
            ready.release()


def log_now_and_then(address: str, ready: Any, go: Any, count: int) -> None:
    """Log one record each time `go` is released."""
    forward(address, "block")
    ready.release()
    for number in range(count):
        assert go.acquire(timeout=DEADLINE)
        LOGGER.info("single %d", number)
