"""The captured output of all procs: reads what lies in their pipes, never waits for more. Client's thread alone."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Sequence
from typing import Final

from ..lines.captured import CapturedPipe
from ..lines.framer import Block, Line
from ..protocol.decode import Item
from ..system.descriptors import pending, read_pipe
from ..system.fd_capture import diagnose
from ..system.waits import monotonic
from .peer import Peer

READ_SIZE: Final = 256 * 1024
_MAX_LAST_WORDS: Final = 8 << 20


class OutputPipes:
    """Knows the pipes of every proc. `read` is what was read of them and not collected yet.

    Attributes
    ----------
    holding : bool
        Read nothing for now: what was read before is still to be shown.
    read_size : int
        Bytes to read at once.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self.read: list[tuple[Peer, list[Item]]] = []
        self._peers: dict[CapturedPipe, Peer] = {}
        self._unfinished: set[CapturedPipe] = set()
        self.read_size = READ_SIZE
        self.holding = False

    def add(self, peer: Peer) -> None:
        """Begin with the pipes of a proc."""
        for pipe in peer.pipes:
            self._peers[pipe] = peer
            self._selector.register(pipe.fd, selectors.EVENT_READ, lambda _, pipe=pipe: self._ready(pipe))

    @property
    def deadline(self) -> float | None:
        """When a line without an end is to be shown, or None."""
        return min((pipe.framer.deadline for pipe in self._unfinished if pipe.framer.deadline is not None), default=None)

    def expire(self, now: float) -> None:
        """Bring lines without an end that have been waiting."""
        for pipe in tuple(self._unfinished):
            if pipe.framer.deadline is None:
                self._unfinished.discard(pipe)
            elif now >= pipe.framer.deadline and not pending(pipe.fd):  # else the rest of the line may be there, unread
                self._bring(pipe, pipe.framer.expire(now), time.time())

    def drain(self, peer: Peer, now: float, limit: int | None = None) -> list[Item]:
        """Return what lies in the pipes of `peer` at this moment, also a line without an end: a barrier.

        With a `limit`, so many bytes of each at most, but also what is written meanwhile.
        """
        items: list[Item] = []
        for pipe in peer.pipes:
            if pipe not in self._peers:  # it was read to its end
                continue
            left = pending(pipe.fd) if limit is None else limit
            while left > 0 and (data := read_pipe(pipe.fd, min(left, READ_SIZE))):
                left -= len(data)
                items += _items(peer, pipe, pipe.framer.feed(data, now), time.time())
            items += _items(peer, pipe, pipe.framer.flush(now), time.time())
        return items

    def read_last_words(self, peer: Peer) -> None:
        """Bring what a proc that ended has left in its pipes."""
        items = self.drain(peer, monotonic(), _MAX_LAST_WORDS)
        if items:
            self.read.append((peer, items))

    def let_go(self, peer: Peer) -> None:
        """Bring what lies in the pipes of a proc at this moment; what follows goes where the proc leads it."""
        items = self.drain(peer, monotonic())
        if items:
            self.read.append((peer, items))
        for pipe in peer.pipes:
            if pipe in self._peers:  # else it was read to its end
                self._close(pipe)

    def end_lines(self) -> None:
        """Bring the lines without an end as they are: nobody will read on, though somebody may still hold the pipe."""
        for pipe in self._peers:
            self._bring(pipe, pipe.framer.close(), time.time())

    def close(self) -> None:
        """Close all."""
        for pipe in tuple(self._peers):
            self._close(pipe)

    def forget(self) -> None:
        """In a forked child: close this process's copies."""
        for pipe in self._peers:
            os.close(pipe.fd)

    def _ready(self, pipe: CapturedPipe) -> None:
        try:
            data = None if self.holding else read_pipe(pipe.fd, self.read_size)
        except OSError as failure:  # not a pipe that can be read; it would be ready, and fail, for ever
            diagnose(f"a captured stream of {self._peers[pipe].name} cannot be read: {failure}")
            data = b""
        if data is None:
            return
        if data:
            self._bring(pipe, pipe.framer.feed(data, monotonic()), time.time())
            if pipe.framer.deadline is not None:
                self._unfinished.add(pipe)
        else:
            self._bring(pipe, pipe.framer.close(), time.time())
            self._close(pipe)

    def _bring(self, pipe: CapturedPipe, lines: Sequence[Line | Block], when: float) -> None:
        if lines:
            peer = self._peers[pipe]
            self.read.append((peer, _items(peer, pipe, lines, when)))

    def _close(self, pipe: CapturedPipe) -> None:
        with contextlib.suppress(KeyError):  # closed twice
            self._selector.unregister(pipe.fd)
            del self._peers[pipe]
            self._unfinished.discard(pipe)
            os.close(pipe.fd)
            pipe.fd = -1


def _items(peer: Peer, pipe: CapturedPipe, lines: Sequence[Line | Block], when: float) -> list[Item]:
    """Return lines as items; they are counted, and the last ones remembered."""
    items = pipe.items(lines, when)
    peer.stats.lines += sum(line.final if isinstance(line, Line) else line.size for line in lines)
    peer.stats.last_seen = when
    peer.remember(items)
    return items
