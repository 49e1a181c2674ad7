"""How much to take in and show at a time, by how long showing takes. Client's thread alone.

What was collected is shown for a tick at a time: who asks for anything meanwhile, or joins, does not wait for handlers that
became slow; and a call that waits for room waits no longer than it must.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .show import Show
from .source import INBOX_SIZE, Source
from .thaw import Item
from .waits import monotonic

_TICK_SEC: Final = 0.05
_AT_ONCE: Final = 16
_MAX_QUOTA: Final = 20_000


class Tray:
    """What was collected and is not shown yet. One owner.

    Parameters
    ----------
    show : Show
    interrupted : Callable[[], bool]
        Whether to stop before the tick is over.

    Attributes
    ----------
    quota : int
        How many entries to collect of each proc.
    """

    def __init__(self, show: Show, interrupted: Callable[[], bool]) -> None:
        self._show = show
        self._interrupted = interrupted
        self._items: list[Item] = []
        self._counted, self._spent = 0, 0.0
        self.quota = 16
        self._step = 1  # of slow handlers, the clock is looked at after each item

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, items: list[Item], now: float) -> None:
        """Fill it, when it is empty, with what is not merely counted."""
        began = monotonic()
        self._items = self._show.count(items, now)
        self._counted, self._spent = len(items) - len(self._items), monotonic() - began

    @property
    def read_size(self) -> int:
        """How many bytes of a pipe to read at once: slow handlers must not find too much of it here."""
        return min(max(4096, self.quota * 128), 256 * 1024)

    @property
    def inbox_size(self) -> int:
        """How many bytes of a proc's stream may wait to be collected: what is shown in two or three ticks."""
        return min(max(16 * 1024, self.quota * 128), INBOX_SIZE)

    def show_some(self, now: float, procs: int) -> list[tuple[Source, int]]:
        """Show items for a tick; return the sentinels. Then `quota` is what to collect of each proc."""
        sentinels: list[tuple[Source, int]] = []
        counted, spent, self._counted, self._spent = self._counted, self._spent, 0, 0.0
        shown, seconds = 0, 0.0
        began = monotonic()  # not `now`: of 1,000 procs collecting took longer than showing, and then ever longer
        # However long counting took, something is shown: else nothing would ever be.
        while shown < len(self._items) and (not shown or spent + seconds < _TICK_SEC) and not self._interrupted():
            some = self._items[shown : shown + self._step]
            shown += len(some)
            sentinels += self._show.dispatch(some, now)
            seconds = monotonic() - began
        del self._items[:shown]
        if counted + shown:
            in_a_tick = _TICK_SEC / max((spent + seconds) / (counted + shown), 1e-7)
            self.quota = int(min(max(1.0, (self.quota + in_a_tick / max(1, procs)) / 2), _MAX_QUOTA))
        if shown:  # what is only counted says nothing of the handlers
            self._step = int(min(max(1.0, _TICK_SEC / max(seconds / shown, 1e-7) / 4), _AT_ONCE))
        return sentinels

    def show_all(self, now: float) -> None:
        """Show what is left: nobody waits any more."""
        self._show.dispatch(self._items, now)
        self._items = []
