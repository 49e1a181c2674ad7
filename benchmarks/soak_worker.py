"""A worker of the soak: logs and prints many kinds of things, and notes in shared memory each call that has returned."""

from __future__ import annotations

import logging
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

LOGGER: Final = "soak"
LANES: Final = 3
"""Two threads that log, and what the first of them prints: each with separate numbers."""

PRINTED: Final = 2
_WORD: Final = 8
_LARGE: Final = 200_000


def open_counts(path: str) -> memoryview:
    """Return the shared numbers: first whether to stop, then one for each lane of each rank. One thread writes each number."""
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")


def size(procs: int) -> int:
    """Return the size in bytes of the shared numbers for this many ranks."""
    return _WORD * (1 + procs * LANES)


def place(rank: int, lane: int) -> int:
    """Return the position of a lane's number."""
    return 1 + rank * LANES + lane


def work(address: str, path: str, rank: int, life: int, seed: int) -> None:
    """Run one worker until told to stop, or until its random end: then it ends in one of three ways."""
    from meshlog_handler import install

    os.environ["RANK"] = str(rank)
    install(address)
    counts = open_counts(path)
    chance = random.Random(seed)
    ending = chance.choice(("return", "os._exit", "sys.exit"))
    lifetime = chance.expovariate(1 / 20.0)
    until = time.monotonic() + lifetime
    second = threading.Thread(target=_lane, args=(counts, rank, life, 1, random.Random(seed + 1), until))
    second.start()
    _lane(counts, rank, life, 0, chance, until)
    second.join()
    if ending == "os._exit":
        os._exit(0)
    if ending == "sys.exit":
        sys.exit(0)


def _lane(counts: memoryview, rank: int, life: int, lane: int, chance: random.Random, until: float) -> None:
    at, printed_at = place(rank, lane), place(rank, PRINTED)
    number = printed = 0
    kinds: list[Callable[[random.Random, tuple[int, int, int]], None]] = [_short, _short, _short, _text, _extra, _exception]
    while not counts[0] and time.monotonic() < until:
        for _ in range(int(chance.paretovariate(1.2) * 5) % 3000):
            number += 1
            kind = _large if chance.random() < 0.0003 else chance.choice(kinds)
            kind(chance, (life, lane, number))
            counts[at] = number
            if lane == 0 and chance.random() < 0.2:
                printed += 1
                sys.stdout.write(f"printed {life} {printed}\n")
                counts[printed_at] = printed
        time.sleep(chance.random() * 0.04)


_log: Final = logging.getLogger(LOGGER)


def _short(chance: random.Random, who: tuple[int, int, int]) -> None:
    _log.info("%d %d %d", *who)


def _text(chance: random.Random, who: tuple[int, int, int]) -> None:
    _log.info("%d %d %d says %s", *who, "x" * chance.randrange(2000))


def _extra(chance: random.Random, who: tuple[int, int, int]) -> None:
    extra: dict[str, Any] = {"request": "f3a91c", "spent": chance.random(), "odd": object()}
    _log.warning("%d %d %d with more", *who, extra=extra)


def _exception(chance: random.Random, who: tuple[int, int, int]) -> None:
    try:
        raise KeyError(who)
    except KeyError:
        _log.exception("%d %d %d failed", *who)


def _large(chance: random.Random, who: tuple[int, int, int]) -> None:
    # Larger than a segment of the journal.
    _log.info("%d %d %d %s", *who, "y" * _LARGE)
