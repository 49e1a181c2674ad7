"""HangWatch: a thread that looks, from time to time, whether the ranks of a client still do something."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Set
from typing import TYPE_CHECKING, Final

from ...errors import BusyError, ClosedError
from ...insight.hang import Hang, HangDetector, describe_hang
from ...insight.observation import Observation, by_rank
from ...insight.report import LIVE
from ...system.diagnostics import diagnose
from ...system.error_reports import describe
from ...system.process_state import process_times
from ...system.waits import capped, monotonic
from ...worker.record_stream import internal_threads
from ..peers.peer import Peer
from .insights import INSIGHT_SEC

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
        self._pause = min(after / _LOOKS, _LONGEST_SEC)
        self._show = show
        self._on_hang = on_hang
        self._cpu = progress_from == "cpu"
        self._detector = HangDetector(after)
        self._looked = monotonic()
        self._clock = 0.0
        self._said: dict[int, tuple[object, ...]] = {}  # by rank: what it had logged and printed at the last look
        self._spent: dict[int, float] = {}  # by rank: its processor time then
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
        known = by_rank(self._client.find(INSIGHT_SEC).observations(brief=True))
        now = monotonic()
        passed, self._looked = now - self._looked, now
        # Time in which nobody looked does not count: the ranks may have been suspended together with this process.
        self._clock += min(passed, 2 * self._pause)
        active = self._note_work(known, passed)
        ranks = self._detector.look(self._clock, active)
        if not ranks:
            return
        lines = {rank: known[rank].last_line for rank in ranks}
        stacks, failure = None, ""
        try:
            stacks = self._client.stacks(None, _STACKS_SEC)
        except BusyError as busy:
            failure = f"no stacks: {busy}"
        silent = {rank: self._clock - when for rank, when in active.items()}
        text = f"{describe_hang(ranks, silent, lines, self._after, stacks)}\n{failure or stacks}"
        hang = Hang(ranks, self._after, text)
        self._show(text)
        if self._on_hang is not None:
            self._on_hang(hang)

    def _note_work(self, known: Mapping[int, Observation], passed: float) -> dict[int, float]:
        """Return when each live rank last did something, as far as the looks can tell: no clock that may be set is used."""
        working = self._working(passed) if self._cpu else frozenset[int]()
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
            if rank in working:
                when = self._clock
            active[rank] = when
        self._active = active
        return active

    def _working(self, passed: float) -> Set[int]:
        """Return the ranks on this host that have used the processor since the last look, or wait for it now.

        The child processes of a rank count, too.
        """
        pids = self._client.ask(lambda: _local_pids(self._client.stack_collector.peers))
        table = process_times()
        children: dict[int, list[int]] = {}
        for pid, each in table.items():
            children.setdefault(each.parent, []).append(pid)
        before, self._spent = self._spent, {}
        found = set()
        for rank, own in pids.items():
            family = list(own)
            for pid in family:
                family += [child for child in children.get(pid, ()) if child not in family]
            known = [table[pid] for pid in family if pid in table]
            spent = self._spent[rank] = sum(each.seconds for each in known)
            # On a busy machine, a process may wait long for a core.
            if spent - before.get(rank, spent) > _BUSY * passed or any(each.runnable for each in known):
                found.add(rank)
        return found


def _local_pids(peers: Iterable[Peer]) -> dict[int, set[int]]:
    """Return the processes of each rank on this host. Client thread only."""
    found: dict[int, set[int]] = {}
    for peer in peers:
        if peer.rank is not None and (peer.watched or peer.external) and not peer.ended:
            found.setdefault(peer.rank, set()).add(peer.pid)
    return found
