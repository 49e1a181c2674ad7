"""HangWatch: a thread that looks, from time to time, whether the ranks of a client still do something."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ...errors import BusyError, ClosedError
from ...insight.hang import Hang, HangDetector, describe_hang
from ...insight.observation import Observation, by_rank
from ...insight.report import LIVE
from ...system.diagnostics import diagnose
from ...system.error_reports import describe
from ...system.waits import capped, monotonic
from ...worker.record_stream import internal_threads
from .insights import INSIGHT_SEC, UNREACHABLE

if TYPE_CHECKING:
    from ..requests import Requests

OnHang = Callable[[Hang], object]

_LOOKS: Final = 4  # in the time after which a job counts as hung
_LONGEST_SEC: Final = 5.0
_STACKS_SEC: Final = 5.0
_BUSY: Final = 0.05  # of a core: less is what a process that waits needs for its timers


class HangWatch:
    """Reports each hang once, and passes it to `on_hang`, on a separate thread.

    `after` is in seconds, see `HangDetector`. `show` shows the report. `progress_from`: "output", or "cpu" to count processor
    time, too.
    """

    def __init__(
        self, client: Requests, after: float, *, show: Callable[[str], object], on_hang: OnHang | None, progress_from: str
    ) -> None:
        self._client = client
        self._after = after
        self._pause = min(after / _LOOKS, _LONGEST_SEC)
        self._show = show
        self._on_hang = on_hang
        self._cpu = progress_from == "cpu"
        self._detector = HangDetector(after)
        self._looked = monotonic()
        self._clock = 0.0
        self._said: dict[int, tuple[object, ...]] = {}  # by rank: what it had logged and printed at the last look
        # By rank: its processor time, when it was measured, and whether it waited for a core then.
        self._spent: dict[int, tuple[float, float, bool]] = {}
        self._active: dict[int, float] = {}  # by rank: when it last did something, on the clock of this watch
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meshlog-hang", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; do not wait for it."""
        self._over.set()

    def _run(self) -> None:
        internal_threads.add(threading.get_ident())
        try:
            while not self._over.wait(capped(self._pause)):
                with contextlib.suppress(BusyError):  # a handler blocks the client: it does not know what the ranks do
                    self._look()
        except ClosedError:
            return  # the client was stopped
        except BaseException as failure:  # `on_hang` may call sys.exit()
            diagnose(f"the watch for hangs ends after a failure: {describe(failure)}")
        finally:
            internal_threads.discard(threading.get_ident())

    def _look(self) -> None:
        known = by_rank(self._client.find(INSIGHT_SEC, self._cpu).observations(brief=True))
        now = monotonic()
        passed, self._looked = now - self._looked, now
        # Time in which nobody looked does not count: the ranks may have been suspended together with this process.
        self._clock += min(passed, 2 * self._pause)
        active = self._note_work(known, passed, now)
        unreachable = tuple(rank for rank, each in known.items() if each.state == UNREACHABLE)
        ranks = self._detector.look(self._clock, active, certain=not unreachable)
        if not ranks:
            return
        lines = {rank: known[rank].last_line for rank in ranks}
        stacks, failure = None, ""
        try:
            stacks = self._client.stacks(None, _STACKS_SEC)
        except BusyError as busy:
            failure = f"no stacks: {busy}"
        silent = {rank: self._clock - when for rank, when in active.items()}
        text = f"{describe_hang(ranks, silent, lines, self._after, stacks, unreachable)}\n{failure or stacks}"
        hang = Hang(ranks, self._after, text, unreachable)
        self._show(text)
        if self._on_hang is not None:
            self._on_hang(hang)

    def _note_work(self, known: Mapping[int, Observation], passed: float, now: float) -> dict[int, float]:
        """Return when each live rank was last seen to do something, by a clock that cannot be set.

        A rank that is not reachable is left out until it is reachable again.
        """
        active = {}
        for rank, each in known.items():
            if each.state not in LIVE:
                continue
            said = each.records, each.lines, each.last_line
            before = self._said.get(rank)
            when = self._active.get(rank, self._clock)
            # Without its last line, the counters may be older ones: its relay has not answered.
            if before is None or (said != before and (each.last_line or not before[-1])):
                when = self._clock - min(each.silence, passed)
                self._said[rank] = said
            if self._cpu and self._works(each, now):
                when = self._clock
            active[rank] = when
        kept = {rank: when for rank, when in self._active.items() if rank in known and known[rank].state == UNREACHABLE}
        self._active = {**kept, **active}
        return active

    def _works(self, each: Observation, now: float) -> bool:
        """Return whether a rank has used the processor since it was last measured, or waits for it now."""
        spent, when, waited = self._spent.get(each.rank, (each.worked, now, False))
        self._spent[each.rank] = each.worked, now, each.runnable
        # On a busy machine, a process may wait long for a core, and then get little of it. On any other, one that only wakes up
        # to look is sometimes met when it runs, but hardly at two looks in a row.
        if each.runnable and (each.crowded or waited):
            return True
        return each.worked - spent > (0.0 if each.crowded else _BUSY * (now - when))
