"""The captured output of all workers. Reads what is in their pipes and never waits for more. Client thread only."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Sequence
from typing import Final

from ...lines.captured import CapturedPipe
from ...lines.framer import Block, Line
from ...protocol.decode import Item
from ...system.descriptors import pending, read_pipe
from ...system.error_reports import Tell
from ...system.waits import monotonic
from .peer import Peer

READ_SIZE: Final = 256 * 1024
_MAX_REMAINING: Final = 8 << 20


class OutputPipes:
    """The pipes of all workers. `read` holds items that were read and not collected yet.

    `read_size` is in bytes for one read.
    """

    def __init__(self, selector: selectors.BaseSelector, tell: Tell) -> None:
        self._selector = selector
        self._tell = tell
        self.read: list[tuple[Peer, list[Item]]] = []
        self._peers: dict[CapturedPipe, Peer] = {}
        self._unfinished: set[CapturedPipe] = set()
        self.read_size = READ_SIZE
        self._holding = False
        self._held: set[CapturedPipe] = set()  # they were ready meanwhile, and are not waited for

    def add(self, peer: Peer) -> None:
        """Start to read the pipes of a peer."""
        for pipe in peer.pipes:
            self._peers[pipe] = peer
            self._wait_for(pipe)

    def _wait_for(self, pipe: CapturedPipe) -> None:
        self._selector.register(pipe.fd, selectors.EVENT_READ, lambda _: self._ready(pipe))

    def hold(self, holding: bool) -> None:
        """Read nothing while `holding`, because earlier items are not shown yet."""
        self._holding = holding
        while self._held and not holding:
            self._wait_for(self._held.pop())

    @property
    def deadline(self) -> float | None:
        """When an unfinished line is due to be shown, or None."""
        if self._holding:  # the rest of the line may be in the pipe
            return None
        return min((pipe.framer.deadline for pipe in self._unfinished if pipe.framer.deadline is not None), default=None)

    def expire(self, now: float) -> None:
        """Add the unfinished lines that are past their deadline."""
        for pipe in tuple(self._unfinished):
            if pipe.framer.deadline is None:
                self._unfinished.discard(pipe)
            elif now >= pipe.framer.deadline and not pending(pipe.fd):  # else the rest of the line may be in the pipe
                self._add(pipe, pipe.framer.expire(now), time.time())

    def drain(self, peer: Peer, now: float, limit: int | None = None) -> list[Item]:
        """Return what is in the pipes of `peer` now, including an unfinished line. This is the barrier of a flush.

        With a `limit`, at most that many bytes of each pipe are read, including bytes written during the call.
        """
        items: list[Item] = []
        for pipe in peer.pipes:
            if pipe not in self._peers:  # already read to its end
                continue
            left = pending(pipe.fd) if limit is None else limit
            while left > 0 and (data := read_pipe(pipe.fd, min(left, READ_SIZE))):
                left -= len(data)
                items += _items(peer, pipe, pipe.framer.feed(data, now), time.time())
            items += _items(peer, pipe, pipe.framer.flush(now), time.time())
        return items

    def read_remaining(self, peer: Peer) -> None:
        """Add what a worker that ended has left in its pipes."""
        items = self.drain(peer, monotonic(), _MAX_REMAINING)
        if items:
            self.read.append((peer, items))

    def drain_and_close(self, peer: Peer) -> None:
        """Add what is in the pipes of a peer now and close them. The worker redirects its later output itself."""
        items = self.drain(peer, monotonic())
        if items:
            self.read.append((peer, items))
        for pipe in peer.pipes:
            if pipe in self._peers:  # else already read to its end
                self._close(pipe)

    def end_lines(self) -> None:
        """Add the unfinished lines as they are: nothing is read after this, though a process may still hold the pipe."""
        for pipe in self._peers:
            self._add(pipe, pipe.framer.close(), time.time())

    def close(self) -> None:
        """Close all pipes."""
        for pipe in tuple(self._peers):
            self._close(pipe)

    def forget(self) -> None:
        """In a forked child: close its copies of the pipes."""
        for pipe in self._peers:
            os.close(pipe.fd)

    def _ready(self, pipe: CapturedPipe) -> None:
        if self._holding:
            self._held.add(pipe)
            self._selector.unregister(pipe.fd)
            return
        try:
            data = read_pipe(pipe.fd, self.read_size)
        except OSError as failure:  # it would be ready, and fail, again and again
            text = f"a captured stream of {self._peers[pipe].name} cannot be read: {failure}"
            self._tell("a captured stream of a process cannot be read", text)
            data = b""
        if data is None:
            return
        if data:
            self._add(pipe, pipe.framer.feed(data, monotonic()), time.time())
            if pipe.framer.deadline is not None:
                self._unfinished.add(pipe)
        else:
            self._add(pipe, pipe.framer.close(), time.time())
            self._close(pipe)

    def _add(self, pipe: CapturedPipe, lines: Sequence[Line | Block], when: float) -> None:
        if lines:
            peer = self._peers[pipe]
            self.read.append((peer, _items(peer, pipe, lines, when)))

    def _close(self, pipe: CapturedPipe) -> None:
        with contextlib.suppress(KeyError):  # already closed
            del self._peers[pipe]
            if pipe in self._held:
                self._held.discard(pipe)
            else:
                self._selector.unregister(pipe.fd)
            self._unfinished.discard(pipe)
            os.close(pipe.fd)
            pipe.fd = -1


def _items(peer: Peer, pipe: CapturedPipe, lines: Sequence[Line | Block], when: float) -> list[Item]:
    """Return lines as items. Count them, and add the last ones to the tail of the peer."""
    items = pipe.items(lines, when)
    peer.stats.lines += sum(line.final if isinstance(line, Line) else line.size for line in lines)
    peer.stats.last_seen = when
    peer.tail.add(items)
    if items:
        notable, pipe.notable = pipe.notable, []
        peer.watch.add_lines(items, notable, when, peer.stats.received + peer.stats.lines)
    return items
