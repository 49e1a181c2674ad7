"""LivePage: follows a running client and makes snapshots of the page, while a browser shows it."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Final

from ...errors import ClosedError, MeshlogError, printable
from ...insight.report import Insight
from ...protocol.decode import Item
from ...protocol.record import info_of
from ...system.waits import monotonic
from ...transport.runs import Run
from ..view.observer import Observer
from .events import CLIENT, Event, Joiner, ends_of
from .model import PageModel
from .render import embedded

_BACKLOG: Final = 200
_READ_SEC: Final = 0.25
_LAST_SEC: Final = 1.0
_FASTEST_SEC: Final = 1.0
_SHARE: Final = 8.0
_BEFORE_SEC: Final = 1e-3
_BYTES_A_SEC: Final = 1e6
_NOTHING: Final = Insight({}, (), (), (), (), ())


def pause_after(seconds: float, used: float, size: int) -> float:
    """Return how long to wait, in seconds, after a snapshot that took `seconds` and `used` processor seconds.

    `size` is its size in bytes. The wait limits the share of a processor that is taken from the ranks.
    """
    return max(_FASTEST_SEC, seconds, _SHARE * used, size / _BYTES_A_SEC)


class LivePage:
    """The newest snapshot of a run, for any number of readers. Any thread may call any method.

    One connection to the client follows, another asks. While no browser waits for a snapshot, none is made, and nothing is
    asked or read: the client leaves out what it has no room for.
    """

    def __init__(self, run: Run) -> None:
        self._follower = Observer.connect(run)
        self._asker = Observer.connect(run)
        self._title = printable(f"{run.command} ({run.pid})", 200)
        self._model = PageModel(max_lines=8_000, max_text=800_000)
        self._joiner = Joiner()
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._waiting = 0
        self._behind = False  # whether there may be more to read, from the time when no browser waited
        self._version = 0
        self._snapshot = ""
        self._over = self._complete = False
        self._closed = False
        self._insight = _NOTHING
        loops = (self._follow, self._publish)
        self._threads = [threading.Thread(target=each, daemon=True, name="meshlog-web") for each in loops]

    def start(self) -> None:
        """Start to follow."""
        self._follower.start_following(backlog=_BACKLOG)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Leave the client. Its threads end soon."""
        self._closed = True
        with self._changed:
            self._changed.notify_all()

    @property
    def over(self) -> bool:
        """Whether the run has ended, and there will be no other snapshot."""
        return self._complete

    def wait(self, version: int) -> tuple[int, str]:
        """Return a snapshot that is newer than `version`, and its version, or the same version and "" after a second."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.notify_all()  # it may have waited for somebody to look
                self._changed.wait_for(lambda: self._version > version, _FASTEST_SEC)
            finally:
                self._waiting -= 1
            return (self._version, self._snapshot) if self._version > version else (version, "")

    # -- the client ----------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        try:
            while not self._closed:
                if not self._waiting:
                    self._rest()
                items = self._follower.items(0 if self._behind else _READ_SEC)
                if items is None:
                    break
                with self._lock:
                    for item in items:
                        for event in self._events(item):
                            for whole in self._joiner.feed(event):
                                self._add(whole)
                    if not items:
                        self._settle()
                if not items and self._behind:
                    with self._changed:
                        self._behind = False
                        self._changed.notify_all()
        except MeshlogError as failure:  # shown as the last state of the page
            self._title = f"{self._title}: {printable(str(failure), 200)}"
        finally:
            self._over = True
            self._follower.close()

    def _rest(self) -> None:
        """Wait until a browser waits, or until the run ends: it closes this connection last, and does not wait for long."""
        self._behind = True
        while not (self._waiting or self._closed):
            if self._asker.await_end(_READ_SEC):
                while self._follower.hold(_LAST_SEC):
                    pass
                break

    def _settle(self) -> None:
        for whole in self._joiner.flush():
            self._add(whole)

    def _add(self, event: Event) -> None:
        """Take an event. A client with a window shows groups: their ranges become those of the page's own groups."""
        ends = ends_of(event.text)
        if ends is None:
            self._model.add(event)
        else:
            low, high = ends
            parts = (event._replace(text=low, time=event.time - _BEFORE_SEC, lines=0), event._replace(text=high))
            self._model.add(event, parts)

    def _events(self, item: Item) -> list[Event]:
        """Return an event for each rank of an item: a group has several."""
        _, template, values = item
        if template is None or template.is_shown(values):
            return []
        record = template.build(values)
        info = info_of(record)
        if info.progress or info.partial:
            return []
        text = record.getMessage()
        text = f"{text}\n{record.exc_text}" if record.exc_text else text
        rank = CLIENT if info.rank is None else info.rank
        ranks = info.ranks or (rank,)
        share = max(1, (info.count or 1) // len(ranks))
        source = info.stream or record.name
        return [Event(record.created, each, record.levelno, source, text, share) for each in ranks]

    def _publish(self) -> None:
        try:
            self._publish_until_over()
        finally:
            self._complete = True
            self._asker.close()

    def _publish_until_over(self) -> None:
        pause = 0.0
        while not self._closed:
            with self._changed:
                self._changed.wait(timeout=_FASTEST_SEC if pause < _FASTEST_SEC else _READ_SEC)
                wanted = self._waiting > 0
                if wanted:
                    self._changed.wait_for(lambda: not self._behind or self._over or self._closed, _FASTEST_SEC)
            if not wanted and not self._over:
                continue
            begun, used, over = monotonic(), time.thread_time(), self._over
            snapshot = self._make(over)
            with self._changed:
                self._version += 1
                self._snapshot = snapshot
                self._changed.notify_all()
            if over:
                break
            pause = pause_after(monotonic() - begun, time.thread_time() - used, len(snapshot))
            end = begun + pause
            while monotonic() < end and not self._over and not self._closed:
                time.sleep(_READ_SEC)

    def _make(self, over: bool) -> str:
        with contextlib.suppress(ClosedError):  # the run has just ended: its last state stays
            self._insight = self._asker.insight()
        about: dict[str, Any] = {"title": self._title, "now": time.time(), "live": not over, "over": over}
        about["missed"], about["missed_errors"] = self._follower.dropped, self._follower.dropped_errors
        with self._lock:
            if over:
                self._settle()
            told = self._model.to_dict(self._insight, about)
        return embedded(told)
