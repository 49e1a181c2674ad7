"""How far the client has come with the stream of each worker downstream, and what to do when a relay is killed. Pure.

The relay's replacement asks for it, so that no record is shown twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from ...journal.layout import DROP_REASONS
from ...protocol.relay_messages import DownstreamJoined, Passed, RankGranted
from ..peers.stats import RankStats

MAX_STREAMS: Final = 131_072
"""Workers of which it is known how far their streams were shown; beyond this, the oldest are forgotten."""


@dataclass
class _PassedStream:
    joined: DownstreamJoined
    passed: Passed | None = None
    drops_before: int = 0  # of those in `passed`, that the present counters of the worker leave out
    ended: bool = False


class PassedStreams:
    """The streams of the workers downstream, by the path of their journals."""

    def __init__(self) -> None:
        self._streams: dict[str, _PassedStream] = {}

    def joined(self, message: DownstreamJoined) -> bool:
        """Note a worker; return whether it has resumed its stream."""
        if not message.journal:
            return False
        known = self._streams.get(message.journal)
        if known is not None:
            known.joined, known.ended = message, False
            return True
        self._streams[message.journal] = _PassedStream(message)
        while len(self._streams) > MAX_STREAMS:
            del self._streams[next(iter(self._streams))]
        return False

    def passed(self, fields: Iterable[tuple[Any, ...]], removed: Iterable[str]) -> None:
        """Note what has arrived, and journals that do not exist any more."""
        for each in map(Passed.of, fields):
            if each.journal in self._streams:
                self._streams[each.journal].passed = each
        for journal in removed:
            self._streams.pop(journal, None)

    def ended(self, journal: str, stats: RankStats) -> None:
        """Note the end of a worker that its relay has reported. It may join again, if it waited for too long before."""
        known = self._streams.get(journal)
        if known is not None:
            known.ended = True
            known.drops_before += sum(count for reason, count in stats.dropped.items() if reason in DROP_REASONS)
            known.passed = None if known.passed is None else known.passed._replace(received=0)

    def granted(self, request: int, journal: str, rank: int) -> RankGranted:
        """Return what is known of a journal; if nothing is, the worker starts from the beginning as `rank`."""
        known = self._streams.get(journal)
        if known is None:
            return RankGranted(request, rank)
        passed, joined = known.passed, known.joined
        if passed is not None:
            known.drops_before = _dropped(passed)
            known.passed = passed._replace(received=0)  # the next relay counts from 0
        return RankGranted(
            request,
            joined.rank,
            None if passed is None else tuple(passed),
            joined.mesh,
            joined.pid,
            joined.hostname,
            joined.coords,
            known.ended,
        )

    def counted(self, journal: str, stats: RankStats) -> RankStats:
        """Return the counters of a worker whose relay was killed: without what the next relay counts again."""
        known = self._streams.get(journal)
        if known is None or known.passed is None:
            return replace(stats, received=0, last_seq=0, dropped={}) if known is not None else stats
        received, dropped = known.passed.received, _dropped(known.passed) - known.drops_before
        return replace(stats, received=received, last_seq=received, dropped={"full": dropped} if dropped > 0 else {})


def _dropped(passed: Passed) -> int:
    return sum(count for _, _, count in passed.drops)
