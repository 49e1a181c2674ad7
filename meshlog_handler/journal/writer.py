"""The journal: a ring of segments in a mapped file, written by one process, read by others after its death.

An append is one C call, ``segment.write(data)``: neither a signal handler, nor the garbage collector, nor another
thread can come in between, so the hot path needs no lock, and logging may re-enter it anywhere. The end of a segment
is an error of that call, not a check.

A change of segments takes many steps. A signal handler that logs in the middle of them changes segments itself, and one
that raises leaves them half done: each step can be done twice, and what counts is one C call, which one of them wins:
that which gives a segment its successor. What is free is what is not in the chain of successors, and nothing else.

This file is bytes and bookkeeping: no thread, no clock. Who may call what is said at each method. See `journal_layout`.
"""

from __future__ import annotations

import itertools
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Final

from ..protocol.encode import SchemaTable
from ..protocol.entries import MARK, MAX_ENTRY, extent
from ..system.locks import hold
from .layout import COUNTER, COUNTERS_AT, DROP_REASONS, GENERATION, HEADER, MAGIC, MAX_COUNTERS, SEGMENTS, START, Range

Appender = tuple[SchemaTable, Callable[[bytes], int], Callable[[int], None]]
"""``(shapes, write, mark)`` of the current segment, swapped whole: a call never mixes two segments."""

_ONLY: Final = 0

# Until Python 3.13 a map has a descriptor of its own, which it closes when it goes. Where the program has closed ours, that
# number may be a file of the program's: these stay.
_kept: Final[list[mmap.mmap]] = []


class _Segment:
    """One generation of one stretch of the file. Never used again: a writer which holds an old one meets its end.

    `closed` and `successor` are dictionaries of one item, for what happens to them first, by `setdefault`, holds.
    """

    __slots__ = ("appender", "closed", "end", "generation", "index", "map", "sent", "successor")

    def __init__(self, index: int, generation: int, fresh: mmap.mmap) -> None:
        self.index = index
        self.generation = generation
        self.map = fresh
        self.appender: Appender = (SchemaTable(), fresh.write, fresh.write_byte)
        self.sent = START
        self.closed: dict[int, int] = {}
        self.end: int | None = None
        self.successor: dict[int, _Segment] = {}

    def close(self, size: int) -> None:
        """Let nobody write here any more. What is written until then is found by walking on from where the end was."""
        closed = self.closed.setdefault(_ONLY, self.map.tell())
        self.map.seek(size)
        end = closed + extent(self.map[closed:], 0, newest=False)
        if end < size:
            self.map[end] = MARK  # what the writer of the last entry was about to put there finds no place now
        self.end = end


class _Drops:
    """How many records were dropped for one reason at one level. `counter` is as exact when a signal handler counts, too."""

    __slots__ = ("counter", "place")

    def __init__(self, place: int) -> None:
        self.place = place
        self.counter = itertools.count()

    @property
    def count(self) -> int:
        return int(repr(self.counter)[6:-1])  # "count(7)": all that a counter tells of itself without counting on


class _Claim:
    """Held by a call that prepares a segment, and by nothing else: however the call ends, the claim ends with it."""

    __slots__ = ("__weakref__",)


class Journal:
    """The writer's side. One process; a forked child must forget it.

    Parameters
    ----------
    path : str or None
        The file to make; None keeps the ring in anonymous memory, which dies with the process.
    size : int
        Bytes for all segments together, all allocated here: a full disk is an `OSError` now, not a SIGBUS later.

    Notes
    -----
    The file is locked until `close`, or until the process dies: who finds it can tell whether its writer lives.
    """

    def __init__(self, path: str | None, size: int) -> None:
        grain = mmap.ALLOCATIONGRANULARITY
        self.segment_size = max(grain, size // SEGMENTS // grain * grain)
        self.path = path
        self._header_size = grain
        self._fd = self._lock = -1
        if path is not None:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._file = os.fstat(self._fd)
            try:
                self._allocate(grain + SEGMENTS * self.segment_size)
            except OSError:
                os.close(self._fd)
                os.unlink(path)
                raise
            # Of an open file of its own: a map that a forked child keeps has that of the journal.
            self._lock = hold(path)
        self._header = self._map(0, grain)
        self._header[: HEADER.size] = HEADER.pack(MAGIC, SEGMENTS, self.segment_size, os.getpid())
        self._maps = [self._map(self._offset(index), self.segment_size) for index in range(SEGMENTS)]
        self._last_used = [0] * SEGMENTS
        self._claims: dict[int, weakref.ref[_Claim]] = {}
        self._drops: dict[tuple[int, int], _Drops] = {}
        self._places = itertools.count()
        self._oldest = self._newest = self._open(0, 1)
        self.appender: Appender = self._newest.appender

    @property
    def capacity(self) -> int:
        """The size of the largest entry a segment takes."""
        return self.segment_size - START

    @property
    def largest(self) -> int:
        """The size from which on an entry stands in a side file."""
        return min(self.capacity, MAX_ENTRY)

    @property
    def size(self) -> int:
        """Bytes of all segments together."""
        return SEGMENTS * self.segment_size

    def _allocate(self, size: int) -> None:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, 0, size)
        else:  # macOS: writing is what allocates
            os.pwrite(self._fd, bytes(size), 0)

    def _offset(self, index: int) -> int:
        return self._header_size + index * self.segment_size

    def _map(self, offset: int, size: int) -> mmap.mmap:
        """Return a new map of a part of the file; `OSError` if there is no descriptor left for it."""
        if self._fd >= 0 and not self._is_ours():
            _kept.extend((self._header, *self._maps))
            self._fd = -1
            self._fd = self._open_again()
        if self._fd < 0:
            return mmap.mmap(-1, size)
        if sys.version_info >= (3, 13):
            return mmap.mmap(self._fd, size, offset=offset, trackfd=False)
        return mmap.mmap(self._fd, size, offset=offset)

    def _is_ours(self) -> bool:
        """Tell whether the descriptor is still that of the file: the program may have closed it, and opened its own."""
        return self._is_file(self._fd)

    def _is_file(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._file)
        except OSError:
            return False

    def _open_again(self) -> int:
        """Return a new descriptor of the file, which the client reads in the end; -1 if the file is there no more."""
        assert self.path is not None
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1
        if self._is_file(fd):
            return fd
        os.close(fd)
        return -1

    def _map_anew(self, index: int) -> mmap.mmap:
        """Return a new map of a segment.

        Until Python 3.13 a map has a descriptor of its own. Where there is none left, that of the segment's last map is
        given back first; should another thread be faster, this generation is memory that dies with the process.
        """
        try:
            return self._map(self._offset(index), self.segment_size)
        except OSError:
            self._maps[index] = memory = mmap.mmap(-1, self.segment_size)
        try:
            return self._map(self._offset(index), self.segment_size)
        except OSError:
            return memory

    # -- the writer's, one thread at a time, and what interrupts it there -----------------------------------------

    def rotate(self, appender: Appender, *, overwrite: bool) -> bool:
        """Go on in the next segment if `appender` is still the current one; False if all are full of unshipped entries.

        With `overwrite` the oldest segment is given up instead: the ring is then a flight recorder.
        """
        newest = self._latest()
        if newest.appender is appender:
            index = self._choose(overwrite)
            if index is None:
                return False
            claim = _Claim()
            self._claims[index] = weakref.ref(claim)
            if not newest.successor:  # else who came in between has found the same one free
                fresh = self._open(index, newest.generation + 1)
                newest.close(self.segment_size)
                newest.successor.setdefault(_ONLY, fresh)
        self.appender = self._latest().appender
        return True

    def close_segment(self) -> None:
        """Let nobody write to the current segment any more. Until the next `rotate` there is none."""
        self._latest().close(self.segment_size)

    def _latest(self) -> _Segment:
        segment = self._newest
        while segment.successor:
            segment = segment.successor[_ONLY]
        self._newest = segment
        return segment

    def _chain(self) -> Iterator[_Segment]:
        segment: _Segment | None = self._oldest
        while segment is not None:
            yield segment
            segment = segment.successor.get(_ONLY)

    def _choose(self, overwrite: bool) -> int | None:
        """Return the free segment that was used longest ago, so that the others can still be read; None if there is none."""
        while True:
            used = {segment.index for segment in self._chain()}
            used.update(index for index, claim in tuple(self._claims.items()) if claim() is not None)
            free = [index for index in range(SEGMENTS) if index not in used]
            if free:
                return min(free, key=self._last_used.__getitem__)
            following = self._oldest.successor.get(_ONLY)
            if not overwrite or following is None:
                return None
            self._oldest = following

    def _open(self, index: int, generation: int) -> _Segment:
        fresh = self._map_anew(index)
        # Old entries go before the generation that would vouch for them comes.
        fresh.write(bytes(self.segment_size))
        fresh[:START] = GENERATION.pack(generation, 0)
        fresh.seek(START)
        self._maps[index] = fresh
        self._last_used[index] = generation
        return _Segment(index, generation, fresh)

    def count_drop(self, reason: str, level: int) -> int:
        """Count a dropped record in the file, where it outlives the process; return the count so far."""
        key = (DROP_REASONS.index(reason), min(max(int(level), 0), 0xFFFF))
        if key not in self._drops and len(self._drops) >= MAX_COUNTERS - len(DROP_REASONS):
            key = (key[0], 0)  # so many levels that their counts share what is left of the page
        drops = self._drops.get(key) or self._drops.setdefault(key, _Drops(next(self._places)))
        next(drops.counter)
        at = COUNTERS_AT + drops.place * COUNTER.size
        while True:
            count = drops.count
            self._header[at : at + COUNTER.size] = COUNTER.pack(*key, 1, count)
            if drops.count == count:  # else a signal handler has counted on, and its count was written over
                return count

    # -- the forwarder's, one thread -----------------------------------------------------------------------------

    def unshipped(self, limit: int) -> Range | None:
        """Return the oldest bytes that were not shipped, at most about `limit`, whole entries; None if there are none."""
        while True:
            segment = self._oldest
            end = segment.map.tell()
            if segment.end is not None:
                end = segment.end
            elif end == self.segment_size:  # it is full; or it is being closed, and then it says where it ended before
                end = segment.closed.get(_ONLY, end)
            if segment.sent < end:
                if end - segment.sent > limit:
                    end = self._whole(segment, end, limit)
                return Range(segment.generation, segment.sent, segment.map[segment.sent : end])
            if not self._retire(segment):
                return None

    def _whole(self, segment: _Segment, end: int, limit: int) -> int:
        for size in (limit, limit + 2 * MAX_ENTRY):  # the first entry may be longer than the limit
            data = segment.map[segment.sent : min(end, segment.sent + size)]
            cut = extent(data, 0, newest=False)
            if cut:
                return segment.sent + cut
        return end

    def shipped(self, piece: Range) -> bool:
        """Note that `piece` was shipped; tell whether a segment became free by it."""
        segment = self._oldest
        if segment.generation != piece.generation:
            return False
        segment.sent = piece.start + len(piece.data)
        return self._retire(segment)

    def _retire(self, segment: _Segment) -> bool:
        """Take a segment out of the chain, if all of it was shipped. Its entries stay readable until the ring comes round."""
        following = segment.successor.get(_ONLY)
        if following is None or segment.end is None or segment.sent < segment.end or self._oldest is not segment:
            return False
        self._oldest = following
        return True

    # -- anyone's ----------------------------------------------------------------------------------------------

    def drops(self) -> list[tuple[str, int, int]]:
        """Return ``(reason, level, count)`` of all that was dropped so far."""
        return [(DROP_REASONS[reason], level, drops.count) for (reason, level), drops in tuple(self._drops.items())]

    def close(self) -> None:
        """Close the file; what was written stays. Mapped segments go when no writer holds them; new ones are mere memory."""
        for fd in (self._fd, self._lock):
            if fd >= 0 and self._is_file(fd):
                os.close(fd)
        self._fd = self._lock = -1
