"""What the client knows about its ranks, for `insight()`: asks the watches of its peers, and its relays. Client thread only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple

from ...errors import ClosedError, ProtocolError
from ...insight.observation import Observation
from ...insight.watch import Seen
from ...protocol.codec import pack, unpack
from ...protocol.relay_messages import DownstreamInsight, InsightDownstream
from ...system.error_reports import Tell
from ...system.futures import Awaited, finished, give
from ...system.process_state import STOPPED, Work, is_crowded, thread_state, work_of
from ...system.waits import monotonic
from ..downstream.relayed_peers import RelayPeer
from ..flushes.acknowledgements import Acknowledgements
from ..peers.peer import Peer
from ..peers.reactor import Reactor
from ..peers.stats import RankStats
from ..peers.tail import last_text

INSIGHT_SEC: Final = 5.0
"""Seconds to wait for relays."""

MAX_ENCODED: Final = 32 << 20
"""Bytes that a relay sends of what it knows."""

UNREACHABLE: Final = "unreachable"
"""The state of the ranks of a relay that does not answer."""

MAX_PAST: Final = 256
"""Ranks that ended and are kept. Of earlier ones, only the counters are."""


class Known(NamedTuple):
    """What is known of a process. `observations` makes plain data of it, on any thread."""

    rank: int
    pid: int | None  # None: not a live process of this host
    state: str
    end: str
    last_line: str
    seen: Seen | None
    records: int
    lines: int
    dropped: int
    last_seen: float

    def brief(self, now: float) -> Observation:
        """Return it as plain data without series and failures. `now` is in seconds since the epoch."""
        reached = self.state != UNREACHABLE
        return Observation(
            self.rank,
            self.state,
            max(0.0, now - (self.seen.last if self.seen is not None and self.seen.last else self.last_seen)),
            last_line=self.last_line,
            records=self.records,
            lines=self.lines,
            dropped=self.dropped,
            sampled=not reached,  # nothing is missing, or only there, as far as is known
            end=self.end,
        )

    def observation(self, now: float) -> Observation:
        """Return it as plain data. `now` is in seconds since the epoch."""
        made = self.brief(now)
        if self.pid is not None and thread_state(self.pid, self.pid).state in STOPPED:
            made = replace(made, state="stopped")
        return made if self.seen is None else made.with_seen(self.seen, now)


class Knowledge(NamedTuple):
    """What the client and its relays know at one moment.

    `counted` has the counters of ranks behind relays. They are used for ranks about which no relay reports.
    `work` is whether the processor time of the ranks is to be measured. `tell` gets what relays cause.
    """

    when: float
    known: list[Known]
    counted: list[Known]
    downstream: list[bytes]
    work: bool = False
    tell: Tell = lambda kind, text: None

    def observations(self, *, brief: bool = False) -> list[Observation]:
        """Return it as plain data. Any thread: this takes time, unless `brief`, without series and failures of local ranks."""
        told = []
        for encoded in self.downstream:
            try:
                told.append(Observation.of(unpack(encoded)))
            except ProtocolError as failure:
                left_out = "what a relay reports about a rank is left out"
                self.tell(left_out, f"{left_out}: {failure}")
        ranks = {each.rank for each in told}
        known = [*self.known, *(each for each in self.counted if each.rank not in ranks)]
        made = [each.brief(self.when) if brief else each.observation(self.when) for each in known]
        if self.work:
            pids: dict[int, set[int]] = {}  # a process may have two connections, and a rank several processes
            for process in known:
                pids.setdefault(process.rank, set()).update(() if process.pid is None else (process.pid,))
            crowded = is_crowded()
            found = work_of(pids, crowded)
            work = [found.pop(each.rank, Work(0.0, False)) for each in known]  # each rank has it once
            made = [
                replace(each, worked=done.seconds, runnable=done.runnable, crowded=crowded)
                for each, done in zip(made, work, strict=True)
            ]
        return [*made, *told]

    def encode(self, limit: int = MAX_ENCODED) -> bytes:
        """Return it for an upstream client or an observer, as far as it fits into `limit` bytes.

        An upstream client has the counters of the other ranks.
        """
        pieces, size = [], 0
        for each in self.observations():
            piece = pack(each.plain())
            size += len(piece)
            if size > limit:
                break
            pieces.append(piece)
        return pack(tuple(pieces))


class Insights:
    """Keeps what is known of ranks that ended, and answers what is asked."""

    def __init__(self, reactor: Reactor, numbers: Iterator[int]) -> None:
        self._reactor = reactor
        self.last = Knowledge(0.0, [], [], [])  # what was known at the end
        self._past: dict[int, list[Known]] = {}
        self._asked: Acknowledgements[tuple[bytes, ...] | None] = Acknowledgements(self._complete, numbers)
        self._local: dict[int, Knowledge] = {}
        # By relay and `work`: the request that it has not answered in time, and until when it is still waited for.
        self._late: dict[tuple[Peer, bool], tuple[int, float]] = {}

    def ended(self, peer: Peer) -> None:
        """Keep what is known of a worker that ended."""
        self._asked.note_all(peer, ())
        for work in (False, True):
            self._late.pop((peer, work), None)
        if isinstance(peer, RelayPeer):
            for rank, each in peer.downstream.items():
                self._remember(_counted(rank, each.stats, "ended"))
        elif peer.rank is not None:
            self._remember(_known(peer)._replace(pid=None, state="ended"))

    def died(self, rank: int | None, text: str) -> None:
        """Note that a rank that ended has crashed."""
        past = self._past.get(-1 if rank is None else rank, [])
        how = text.partition("\n")[0].partition("; its last")[0]
        # A process whose starter has redirected its output has two connections.
        past[:] = [each._replace(state="dead", end=how) for each in past]

    def _remember(self, known: Known) -> None:
        past = self._past.pop(known.rank, [])
        self._past[known.rank] = [*past[-1:], known]
        if len(self._past) > MAX_PAST:
            del self._past[next(iter(self._past))]

    def ask(self, future: Future[Knowledge], work: bool = False) -> int:
        """Let `future` get the findings when all relays have answered; return the number for `give_up`.

        `work`: also the processor time of the ranks.
        """
        number = self._asked.number()
        relays = [peer for peer in self._reactor.peers if isinstance(peer, RelayPeer) and not peer.ended]
        self._local[number] = self.here()._replace(work=work)
        self._asked.start(number, future, relays)
        for relay in relays:
            late = self._late.get((relay, work))  # then it answers when it can, once
            if not (monotonic() < late[1] if late else self._reactor.send(relay, InsightDownstream(number, work))):
                self._asked.note(number, relay, None)
        return number

    def here(self) -> Knowledge:
        """Return what is known without asking relays."""
        known = [_known(peer) for peer in self._reactor.peers if peer.rank is not None]
        known += chain.from_iterable(self._past.values())
        return Knowledge(time.time(), known, [], [], tell=self._reactor.error_reports.tell)

    def answered(self, relay: Peer, message: DownstreamInsight) -> None:
        """Note the answer of a relay. Raises `ProtocolError` if it is malformed."""
        pieces: Any = unpack(message.observations)
        if not isinstance(pieces, tuple) or not all(isinstance(each, bytes) for each in pieces):
            raise ProtocolError("malformed observations: expected encoded ones")
        answer = pieces or None  # a relay whose own client is blocked sends none
        for (peer, work), (request, _) in tuple(self._late.items()):
            if peer is relay and request == message.request:
                del self._late[relay, work]
                for number in self._asked.waiting_for(relay):
                    if self._local[number].work is work:
                        self._asked.note(number, relay, answer)
        self._asked.note(message.request, relay, answer)

    def give_up(self, number: int, *, waited: bool = True) -> None:
        """Do not wait any longer for relays that have not answered. If nobody has `waited`, they may well be reachable."""
        for relay in self._asked.waiting(number) if waited else ():
            self._late.setdefault((relay, self._local[number].work), (number, monotonic() + INSIGHT_SEC))
        self._asked.give_up(number, None if waited else ())

    def close(self) -> None:
        """Answer without the relays, because the client ends, and keep what is known."""
        self._asked.close(())
        self.last = self.here()

    def _complete(self, asked: Any) -> None:
        here = self._local.pop(asked.number)
        relays = [peer for peer in self._reactor.peers if isinstance(peer, RelayPeer)]
        silent = {relay for relay, answer in asked.answers.items() if answer is None}
        counted = [
            _counted(rank, each.stats, UNREACHABLE if relay in silent else "running")
            for relay in relays
            for rank, each in relay.downstream.items()
        ]
        downstream = list(chain.from_iterable(answer or () for answer in asked.answers.values()))
        give(asked.future, here._replace(counted=counted, downstream=downstream))


def _known(peer: Peer) -> Known:
    stats = peer.stats
    assert peer.rank is not None  # see the callers
    pid = peer.pid if (peer.watched or peer.external) and not peer.ended else None
    state = "ended" if peer.ended else "running"
    line = last_text(peer.tail)
    seen = peer.watch.seen(peer.decoded)
    return Known(peer.rank, pid, state, "", line, seen, stats.received, stats.lines, stats.total_dropped, stats.last_seen)


def _counted(rank: int, stats: RankStats, state: str) -> Known:
    return Known(rank, None, state, "", "", None, stats.received, stats.lines, stats.total_dropped, stats.last_seen)


def find(insights: Insights, ask: Callable[[Callable[[], Any]], Any], timeout: float, work: bool = False) -> Knowledge:
    """Return what is known about the ranks, if possible within `timeout` seconds. Any thread.

    `ask` runs a function on the client's thread. `work`: also the processor time of the ranks.
    """
    future: Future[Knowledge] = Awaited()
    try:
        number, thread = ask(lambda: (insights.ask(future, work), threading.get_ident()))
        if thread == threading.get_ident():  # a handler calls: meanwhile, this thread cannot receive the answers of relays
            insights.give_up(number, waited=False)
        elif not finished(future, timeout):
            ask(partial(insights.give_up, number))
        return future.result()
    except ClosedError:
        return insights.last
