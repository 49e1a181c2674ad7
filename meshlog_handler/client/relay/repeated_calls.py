"""The calls of a tunnel over messages that may be lost: a call is made again until it is answered, and carried out once.

::

    RepeatingCalls, in the client's process -- take 7 -->  RepeatedCalls, at the HostRelay
                                            <-- lost ---
                                            -- take 7 -->
                                            <-- the same bytes as before ---

A tunnel over which a call was made for too long has ended. The next one has a higher number (`RenewedCalls`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from ...errors import ClosedError
from ...system.waits import monotonic
from .tunnel import HostRelay

REPEAT_SEC: Final = 60.0
"""Seconds for which a call is made again."""

SILENT_SEC: Final = 60.0
"""Seconds without a `take` after which a relay leaves, because the client counts as ended or cut off."""

_PAUSE_SEC: Final = 1.0


class RepeatedCalls:
    """At the relay: carries out the calls, which have numbers from 1 on. Any thread may call its methods."""

    def __init__(self, relay: HostRelay) -> None:
        self.relay = relay
        self._taking = threading.Lock()
        self._giving = threading.Lock()
        self._taken = 0, b""
        self._given = 0

    def take(self, number: int, timeout: float) -> bytes:
        """Return bytes for the client, the same as before if the number is the same; see `HostRelay.take`."""
        with self._taking:
            if number > self._taken[0]:
                self._taken = number, self.relay.take(timeout)
            return self._taken[1]

    def give(self, number: int, data: bytes) -> None:
        """Accept bytes from the client, once for each number; see `HostRelay.give`."""
        with self._giving:
            if number > self._given:
                self.relay.give(data)
                self._given = number


class RenewedCalls:
    """At the relay: carries out the calls of tunnels, which have numbers from 1 on. Any thread may call its methods.

    `start` starts a relay. With each tunnel after the first, another relay takes the place of the one before.
    """

    def __init__(self, start: Callable[[], HostRelay]) -> None:
        self._start = start
        self._renewing = threading.Lock()
        self._tunnel = 0
        self._calls = RepeatedCalls(start())
        self._last_take_end = monotonic()

    @property
    def relay(self) -> HostRelay:
        """The relay of the latest tunnel."""
        return self._calls.relay

    @property
    def silent_sec(self) -> float:
        """Seconds without a `take`. Negative while one may wait."""
        return monotonic() - self._last_take_end

    def take(self, tunnel: int, number: int, timeout: float) -> bytes:
        """Return bytes for the client; see `RepeatedCalls.take`. Raises `ClosedError` if that tunnel has ended."""
        self._last_take_end = monotonic() + timeout
        return self._of(tunnel).take(number, timeout)

    def give(self, tunnel: int, number: int, data: bytes) -> None:
        """Accept bytes from the client; see `RepeatedCalls.give`. Raises `ClosedError` if that tunnel has ended."""
        self._of(tunnel).give(number, data)

    def is_latest(self, tunnel: int) -> bool:
        """Return whether no later tunnel has begun."""
        return tunnel >= self._tunnel

    def _of(self, tunnel: int) -> RepeatedCalls:
        with self._renewing:
            if tunnel < self._tunnel:
                raise ClosedError("this tunnel has ended")
            if tunnel > self._tunnel > 0:
                self._calls.relay.leave()
                self._calls = RepeatedCalls(self._start())
            self._tunnel = tunnel
            return self._calls


class RepeatingCalls:
    """In the client's process: makes the calls. `take` is called on one thread, and `give` on one.

    `ask` makes a call: ``ask("take", number=7, timeout=1.0)``. If it raises, the call is made again, for `REPEAT_SEC` and while
    `goes_on`. Then the exception is raised.
    """

    def __init__(self, ask: Callable[..., Any], goes_on: Callable[[], bool]) -> None:
        self._ask = ask
        self._goes_on = goes_on
        self._over = threading.Event()
        self._taken = self._given = 0

    def take(self, timeout: float) -> Any:
        """Return the answer to the next `take`."""
        self._taken += 1
        return self._asked("take", number=self._taken, timeout=timeout)

    def give(self, data: bytes) -> None:
        """Make the next `give`."""
        self._given += 1
        self._asked("give", number=self._given, data=data)

    def end(self) -> None:
        """Make no call again."""
        self._over.set()

    def _asked(self, what: str, **fields: Any) -> Any:
        until = float("inf")
        while True:
            try:
                return self._ask(what, **fields)
            except ClosedError:
                raise
            except Exception:  # engines may raise anything
                until = min(until, monotonic() + REPEAT_SEC)
                if monotonic() >= until or self._over.wait(_PAUSE_SEC) or not self._goes_on():
                    raise
