"""How much to take in and show at a time, by how long showing takes. Client's thread alone.

What was collected is shown for a tick at a time: who asks for anything meanwhile, or joins, does not wait for handlers that
became slow; and a call that waits for room waits no longer than it must.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint
from typing import TYPE_CHECKING, Final

from ..protocol.decode import Item
from ..system.waits import monotonic
from .dispatcher import Dispatcher
from .era import Era

if TYPE_CHECKING:
    from ..client.peer import Peer

INBOX_SIZE: Final = 1 << 20
"""Bytes of a peer's stream that wait to be read, at most; beyond it, the client lets the peer wait."""

_TICK_SEC: Final = 0.05
_AT_ONCE: Final = 16
_MAX_QUOTA: Final = 20_000

Sentinels = list[tuple["Peer", int]]


class Pacer:
    """What was collected and is not shown yet. One owner.

    Parameters
    ----------
    show : Show
    interrupted : Callable[[], bool]
        Whether to stop before the tick is over.
    failed : Callable[[Item, BaseException], object]
        Told of an item that cannot be shown, and why. It is not tried again.

    Attributes
    ----------
    quota : int
        How many entries to collect of each proc.
    """

    def __init__(
        self,
        show: Dispatcher,
        interrupted: Callable[[], bool],
        failed: Callable[[Item, BaseException], object] = lambda item, failure: None,
    ) -> None:
        self._show = show
        self._interrupted = interrupted
        self._failed = failed
        self._items: list[Item] = []
        self._ahead = 0  # of `_items`: those before it have been shown, or are being shown
        self._giving: tuple[Sequence[Item], Iterator[Item]] = (), iter(())
        self._era: Era | None = None
        self._next: deque[tuple[list[Item], Era | None]] = deque()
        self._counted, self._spent = 0, 0.0
        self.quota = 16
        self._step = 1  # of slow handlers, the clock is looked at after each item

    def __len__(self) -> int:
        return len(self._items) + sum(len(items) for items, _ in self._next)

    def put(self, items: list[Item], now: float, era: Era | None = None) -> None:
        """Fill it with what is not merely counted; behind what is in it, items of another era."""
        if self._items:
            if items:
                self._next.append((items, era))
            return
        began = monotonic()
        self._items, self._era = items, era
        with self._show.within(era):
            self._items = self._show.count(items, now)
        self._counted += len(items) - len(self._items)
        self._spent += monotonic() - began

    def end(self, era: Era) -> None:
        """Show what is in it by the settings that end now."""
        if self._era is None:
            self._era = era
        self._next = deque((items, era if earlier is None else earlier) for items, earlier in self._next)

    @property
    def read_size(self) -> int:
        """How many bytes of a pipe to read at once: slow handlers must not find too much of it here."""
        return min(max(4096, self.quota * 128), 256 * 1024)

    @property
    def inbox_size(self) -> int:
        """How many bytes of a proc's stream may wait to be collected: what is shown in two or three ticks."""
        return min(max(16 * 1024, self.quota * 128), INBOX_SIZE)

    def show_some(self, now: float, procs: int) -> Sentinels:
        """Show items for a tick; return the sentinels. Then `quota` is what to collect of each proc."""
        sentinels: Sentinels = []
        if not self._items and self._next:
            items, era = self._next.popleft()
            self.put(items, now, era)
        counted, spent, self._counted, self._spent = self._counted, self._spent, 0, 0.0
        shown, seconds = 0, 0.0
        began = monotonic()  # not `now`: of 1,000 procs collecting took longer than showing, and then ever longer
        # However long counting took, something is shown: else nothing would ever be.
        while shown < len(self._items) and (not shown or spent + seconds < _TICK_SEC) and not self._interrupted():
            some = self._items[shown : shown + self._step]
            self._ahead = shown = shown + len(some)
            sentinels += self.show_now(some, now, self._era)
            seconds = monotonic() - began
        self._ahead = 0
        del self._items[:shown]
        if counted + shown:
            in_a_tick = _TICK_SEC / max((spent + seconds) / (counted + shown), 1e-7)
            self.quota = int(min(max(1.0, (self.quota + in_a_tick / max(1, procs)) / 2), _MAX_QUOTA))
        if shown:  # what is only counted says nothing of the handlers
            self._step = int(min(max(1.0, _TICK_SEC / max(seconds / shown, 1e-7) / 4), _AT_ONCE))
        return sentinels

    @property
    def waiting(self) -> int:
        """How many records, and lines, have not been given to a handler. Any thread, while the client's is in a handler."""
        items, left = self._giving
        behind = [item for more, _ in tuple(self._next) for item in more]
        return count_records([*items[len(items) - length_hint(left) :], *self._items[self._ahead :], *behind])

    def show_all(self, now: float) -> None:
        """Show what is left: nobody waits any more."""
        self._next.appendleft((self._items, self._era))
        self._items = []
        while self._next:
            items, era = self._next.popleft()
            self.show_now(items, now, era)

    def show_now(self, items: Sequence[Item], now: float, era: Era | None = None) -> Sentinels:
        """Show items that are not in the tray; return the sentinels among them. What fails is left out; nothing is raised."""
        if era is None:
            return self._each(lambda left: self._show.dispatch(left, now), items)
        with self._show.within(era):
            return self._each(lambda left: self._show.dispatch(left, now), items)

    def write_only(self, items: Sequence[Item]) -> Sentinels:
        """Write items to the files alone, and otherwise do as `show_now` does."""
        return self._each(self._show.write_only, items)

    def _each(self, take: Callable[[Iterable[Item]], Sentinels], items: Sequence[Item]) -> Sentinels:
        left = iter(items)  # it knows what it has given away: after a failure `take` goes on behind the item that failed
        self._giving = items, left
        at, complete = 0, True
        while True:
            try:
                sentinels = take(left)
                return sentinels if complete else _sentinels(items)
            except BaseException as failure:  # SystemExit, too: this thread serves all ranks
                before, at, complete = at, len(items) - length_hint(left), False
                if at == before:  # it failed before it took one
                    if next(left, None) is None:
                        return _sentinels(items)
                    at += 1
                self._failed(items[at - 1], failure)


def count_records(items: Iterable[Item]) -> int:
    """Return how many records, and lines, there are to show."""
    return sum(template is not None and not (template.captured and template.is_shown(values)) for _, template, values in items)


def _sentinels(items: Sequence[Item]) -> Sentinels:
    return [values for _, template, values in items if template is None]
