"""HangWatch: a thread that looks, from time to time, whether the ranks of a client still do something."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ...errors import BusyError, ClosedError
from ...insight.hang import Hang, HangDetector, describe_hang
from ...insight.report import LIVE
from ...system.diagnostics import diagnose
from ...system.error_reports import describe
from ...system.waits import capped, monotonic
from ...worker.record_stream import internal_threads

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
    time of ranks on this host, too.
    """

    def __init__(
        self, client: Requests, after: float, *, show: Callable[[str], object], on_hang: OnHang | None, progress_from: str
    ) -> None:
        self._client = client
        self._after = after
        self._show = show
        self._on_hang = on_hang
        self._cpu = progress_from == "cpu"
        self._detector = HangDetector(after)
        self._busy: dict[int, tuple[int, float, float]] = {}  # by rank: pid, processor time, when it last worked
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
        pause = min(self._after / _LOOKS, _LONGEST_SEC)
        while not self._over.wait(capped(pause)):
            try:
                self._look(pause)
            except ClosedError:  # the client was stopped
                break
            except BusyError:
                continue  # a handler blocks the client: it does not know what the ranks do
            except Exception as failure:
                diagnose(f"the watch for hangs ends after a failure: {describe(failure)}")
                break
        internal_threads.discard(threading.get_ident())

    def _look(self, pause: float) -> None:
        insight = self._client.insight(timeout=pause)
        now = monotonic()
        active = {rank: now - each.last_seen for rank, each in insight.ranks.items() if each.state in LIVE}
        if self._cpu:
            self._count_work(active, now)
        ranks = self._detector.look(now, active)
        if not ranks:
            return
        silent = {rank: now - when for rank, when in active.items()}
        lines = {rank: insight.ranks[rank].last_line for rank in ranks}
        text = describe_hang(ranks, silent, lines, self._after)
        try:
            text += f"\n{self._client.stacks(None, _STACKS_SEC)}"
        except BusyError as failure:
            text += f"\nno stacks: {failure}"
        hang = Hang(ranks, self._after, text)
        self._show(text)
        if self._on_hang is not None:
            self._on_hang(hang)

    def _count_work(self, active: dict[int, float], now: float) -> None:
        """Count the processor time of each rank on this host as activity."""
        for rank, stats in self._client.stats().items():
            if rank is None or rank not in active:
                continue
            spent = _processor_seconds(stats.pid)
            pid, before, when = self._busy.get(rank, (stats.pid, spent, now))
            if pid != stats.pid or spent - before > _BUSY * self._after / _LOOKS:
                when = now
            self._busy[rank] = (stats.pid, spent, when)
            active[rank] = max(active[rank], when)


def _processor_seconds(pid: int) -> float:
    """Return the processor time of a process; 0 if the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:  # it has ended, or is on another host
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
