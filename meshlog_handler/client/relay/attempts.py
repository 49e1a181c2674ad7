"""When to try again to start a relay on a host. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

PAUSES_SEC: Final = (10.0, 20.0, 40.0, 80.0, *(160.0,) * 5)
"""The seconds after each attempt that failed. After as many pauses and one more attempt, no other is made."""


class Attempts:
    """The attempts to start a relay on each host, of which those are kept that failed. Times are arguments."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, float]] = {}  # how often, and when the next attempt is due

    def due(self, host: str, now: float) -> bool:
        """Return whether to try now."""
        return now >= self._failed.get(host, (0, now))[1]

    def failed(self, host: str, now: float) -> str:
        """Note that an attempt has failed; return when the next one follows, in words."""
        count = self._failed.get(host, (0, 0.0))[0]
        pause = PAUSES_SEC[count] if count < len(PAUSES_SEC) else float("inf")
        self._failed[host] = count + 1, now + pause
        return "no other attempt is made" if pause == float("inf") else f"the next attempt follows in {pause:g} s"

    def lacks(self, host: str) -> bool:
        """Return whether the latest attempt on a host has failed."""
        return host in self._failed

    def succeeded(self, host: str) -> None:
        """Note that a host has a relay: if it loses it, another one is started at once."""
        self._failed.pop(host, None)

    def keep(self, hosts: Iterable[str]) -> None:
        """Forget all other hosts. One that comes back is tried at once."""
        self._failed = {host: self._failed[host] for host in hosts if host in self._failed}
