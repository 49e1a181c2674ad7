"""Adjusts how many records the client collects and shows at a time to the speed of the handlers. Client thread only.

Collected records are shown for one tick at a time. Requests and new connections therefore do not wait for slow handlers, and a
logging call waits for room no longer than necessary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint
from typing import Final

from ..protocol.decode import Item
from ..system.waits import monotonic
from .dispatcher import Dispatcher, Sentinel
from .era import Era

INBOX_SIZE: Final = 1 << 20
"""Maximum bytes of a peer's stream that wait to be read. Beyond this, the client throttles the peer."""

_TICK_SEC: Final = 0.05
_AT_ONCE: Final = 16
_MAX_QUOTA: Final = 20_000


class Pacer:
    """Holds collected items until they are shown.

    `interrupted` returns whether to stop before the tick is over. `failed` gets each item that could not be shown, and its
    exception; such an item is not tried again.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        interrupted: Callable[[], bool],
        failed: Callable[[Item, BaseException], object] = lambda item, failure: None,
    ) -> None:
        self._dispatcher = dispatcher
        self._interrupted = interrupted
        self._failed = failed
        self._items: list[Item] = []
        self._ahead = 0  # an index of `_items`; earlier items were shown or are being shown
        self._giving: tuple[Sequence[Item], Iterator[Item]] = (), iter(())
        self._era: Era | None = None
        self._next: deque[tuple[list[Item], Era | None]] = deque()
        self._counted, self._spent = 0, 0.0
        self.quota = 16  # entries to collect from each worker
        self._step = 1  # items between two readings of the clock; 1 for slow handlers

    def __len__(self) -> int:
        return len(self._items) + sum(len(items) for items, _ in self._next)

    def put(self, items: list[Item], now: float, era: Era | None = None) -> None:
        """Add items, except those that are only counted. If items are left, the new ones, of another era, wait behind them."""
        if self._items:
            if items:
                self._next.append((items, era))
            return
        began = monotonic()
        self._items, self._era = items, era
        with self._dispatcher.within(era):
            self._items = self._dispatcher.count(items, now)
        self._counted += len(items) - len(self._items)
        self._spent += monotonic() - began

    def end(self, era: Era) -> None:
        """Show the items held now by the settings of `era`, which ends."""
        if self._era is None:
            self._era = era
        self._next = deque((items, era if earlier is None else earlier) for items, earlier in self._next)

    @property
    def read_size(self) -> int:
        """How many bytes of a pipe to read at once. Slow handlers limit it, so that few items wait here."""
        return min(max(4096, self.quota * 128), 256 * 1024)

    @property
    def inbox_size(self) -> int:
        """How many bytes of a worker's stream may wait to be collected: as many as are shown in two or three ticks."""
        return min(max(16 * 1024, self.quota * 128), INBOX_SIZE)

    def show_some(self, now: float, workers: int) -> list[Sentinel]:
        """Show items for one tick and adjust `quota`; return the sentinels among the items."""
        sentinels: list[Sentinel] = []
        if not self._items and self._next:
            items, era = self._next.popleft()
            self.put(items, now, era)
        counted, spent, self._counted, self._spent = self._counted, self._spent, 0, 0.0
        shown, seconds = 0, 0.0
        began = monotonic()  # not `now`: with 1,000 workers, collecting took longer than showing, and more so each time
        # At least one step is shown however long counting took; otherwise no item might ever be shown.
        while shown < len(self._items) and (not shown or spent + seconds < _TICK_SEC) and not self._interrupted():
            some = self._items[shown : shown + self._step]
            self._ahead = shown = shown + len(some)
            sentinels += self.show_now(some, now, self._era)
            seconds = monotonic() - began
        self._ahead = 0
        del self._items[:shown]
        if counted + shown:
            in_a_tick = _TICK_SEC / max((spent + seconds) / (counted + shown), 1e-7)
            self.quota = int(min(max(1.0, (self.quota + in_a_tick / max(1, workers)) / 2), _MAX_QUOTA))
        if shown:  # counted items do not measure the handlers
            self._step = int(min(max(1.0, _TICK_SEC / max(seconds / shown, 1e-7) / 4), _AT_ONCE))
        return sentinels

    @property
    def waiting(self) -> int:
        """The number of records and lines not given to a handler. Any thread may read it while the client thread is in one."""
        items, left = self._giving
        behind = [item for more, _ in tuple(self._next) for item in more]
        return count_records([*items[len(items) - length_hint(left) :], *self._items[self._ahead :], *behind])

    def show_all(self, now: float) -> None:
        """Show the remaining items without a time limit: no caller waits any more."""
        self._next.appendleft((self._items, self._era))
        self._items = []
        while self._next:
            items, era = self._next.popleft()
            self.show_now(items, now, era)

    def show_now(self, items: Sequence[Item], now: float, era: Era | None = None) -> list[Sentinel]:
        """Show items that are not held here; return the sentinels among them. Failed items are left out; nothing is raised."""
        if era is None:
            return self._each(lambda left: self._dispatcher.dispatch(left, now), items)
        with self._dispatcher.within(era):
            return self._each(lambda left: self._dispatcher.dispatch(left, now), items)

    def write_only(self, items: Sequence[Item]) -> list[Sentinel]:
        """Write items to the files only; otherwise like `show_now`."""
        return self._each(self._dispatcher.write_only, items)

    def _each(self, take: Callable[[Iterable[Item]], list[Sentinel]], items: Sequence[Item]) -> list[Sentinel]:
        left = iter(items)  # an iterator keeps its place: after a failure, `take` continues behind the failed item
        self._giving = items, left
        at, complete = 0, True
        while True:
            try:
                sentinels = take(left)
                return sentinels if complete else _sentinels(items)
            except BaseException as failure:  # SystemExit, too: this thread serves all ranks
                before, at, complete = at, len(items) - length_hint(left), False
                if at == before:  # it failed before it took an item
                    if next(left, None) is None:
                        return _sentinels(items)
                    at += 1
                self._failed(items[at - 1], failure)


def count_records(items: Iterable[Item]) -> int:
    """Return the number of records and lines to show."""
    return sum(template is not None and not (template.captured and template.is_shown(values)) for _, template, values in items)


def _sentinels(items: Sequence[Item]) -> list[Sentinel]:
    return [values for _, template, values in items if template is None]
