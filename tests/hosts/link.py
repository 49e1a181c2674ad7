"""A link that can be slow: a process joins two TAP devices, and delays, drops and limits the frames between them.

::

    bridge -- TAP -- this process -- TAP, which is the eth0 of a host

It needs no kernel with netem. Orders come on stdin, a line each: seconds of delay, the part that is lost, bytes in a second.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

ROOM: Final = 128 * 1024
"""Bytes that wait for a link with a rate, in each direction; more is dropped, as routers do."""

_TUNSETIFF: Final = 0x400454CA
_TAP_WITHOUT_HEADER: Final = 0x1002
_FRAME: Final = 65536
_AT_ONCE: Final = 64


class Pace(NamedTuple):
    """How slow a link is, in each direction: seconds, the part of the frames that is lost, bytes in a second (0: no limit)."""

    delay: float = 0.0
    loss: float = 0.0
    rate: float = 0.0


class Way:
    """The frames in one direction. Without a clock: time is an argument."""

    def __init__(self, chance: random.Random) -> None:
        self.pace = Pace()
        self._chance = chance
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._free = 0.0  # when the last frame has left the sender
        self._last = 0.0  # when the last frame arrives

    def send(self, now: float, frame: bytes) -> None:
        """Take a frame; it is lost, or arrives after those before it."""
        delay, loss, rate = self.pace
        if self._chance.random() < loss:
            return
        begin = max(now, self._free) if rate else now
        if rate and (begin - now) * rate > ROOM:
            return
        self._free = begin + (len(frame) / rate if rate else 0.0)
        self._last = max(self._last, self._free + delay)
        self._waiting.append((self._last, frame))

    def due(self) -> float | None:
        """Return when the next frame arrives."""
        return self._waiting[0][0] if self._waiting else None

    def arrived(self, now: float) -> list[bytes]:
        """Return the frames that have arrived."""
        frames = []
        while self._waiting and self._waiting[0][0] <= now:
            frames.append(self._waiting.popleft()[1])
        return frames


class Link:
    """The process of a link, with a TAP device of the given name at each end."""

    def __init__(self, *names: str) -> None:
        ends = [_tap(name) for name in names]
        words = [sys.executable, str(Path(__file__).resolve()), *map(str, ends)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=ends, text=True)
        for end in ends:
            os.close(end)

    def become(self, pace: Pace) -> None:
        """Change how slow it is, in both directions."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{pace.delay} {pace.loss} {pace.rate}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process; the devices are gone with it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def _tap(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH14s", name.encode(), _TAP_WITHOUT_HEADER, b""))
    return end


def carry(ends: tuple[int, int]) -> None:
    """Carry frames between two devices until stdin ends."""
    chance = random.Random(1)
    ways = {ends[0]: (Way(chance), ends[1]), ends[1]: (Way(chance), ends[0])}
    orders = sys.stdin.fileno()
    while True:
        dues = [due for way, _ in ways.values() if (due := way.due()) is not None]
        wait = max(0.0, min(dues) - time.monotonic()) if dues else None
        ready = select.select([*ends, orders], [], [], wait)[0]
        for end in set(ready) - {orders}:
            for frame in _frames(end):
                ways[end][0].send(time.monotonic(), frame)
        if orders in ready:
            told = os.read(orders, _FRAME).splitlines()
            if not told:
                return
            for way, _ in ways.values():
                way.pace = Pace(*map(float, told[-1].split()))
        for way, other in ways.values():
            for frame in way.arrived(time.monotonic()):
                with contextlib.suppress(OSError):  # it is down, or full: the frame is lost
                    os.write(other, frame)


def _frames(end: int) -> list[bytes]:
    frames: list[bytes] = []
    with contextlib.suppress(BlockingIOError):  # no more of them
        while len(frames) < _AT_ONCE:
            frames.append(os.read(end, _FRAME))
    return frames


if __name__ == "__main__":
    carry((int(sys.argv[1]), int(sys.argv[2])))
