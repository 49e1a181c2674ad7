"""The journal: a ring of segments in a mapped file, written by one process, and read by others after it has exited.

An append is one C call, ``segment.write(data)``. No signal handler, garbage collection or other thread can interrupt it, so the
hot path needs no lock, and logging may re-enter it anywhere. The end of a segment is an error of that call, not a check.

A change of segments takes many steps. A signal handler that logs between them changes segments itself, and one that raises
leaves the change incomplete. So each step may run twice, and one C call decides: the one that sets the successor of a segment
succeeds only once. A segment is free if it is not in the chain of successors, and no call prepares it.

No thread and no clock here. The sections of `Journal` say which threads may call its methods. See `layout`.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Final

from ..protocol.encode import SchemaTable
from ..protocol.entries import MARK, MAX_ENTRY, extent
from ..system.lock_files import hold
from .layout import COUNTER, COUNTERS_AT, DROP_REASONS, GENERATION, HEADER, MAGIC, MAX_COUNTERS, SEGMENTS, START, Range
from .shown import ShownReader

Appender = tuple[SchemaTable, Callable[[bytes], int], Callable[[int], None]]
"""``(schemas, write, mark)`` of the current segment, replaced as a whole, so that a call never mixes two segments."""

_ONLY: Final = 0
_ZEROS: Final = 1 << 20
_NO_CALL: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM)

_OWN_DESCRIPTORS: Final = sys.version_info < (3, 13)
"""Whether each map of a file owns a descriptor, and closes it when it is freed."""

# After the program has closed descriptors, such a number may belong to one of its files, so these maps are never freed.
_kept: Final[list[mmap.mmap]] = []


class _Segment:
    """One generation of one part of the file. It is never reused: a writer that still has an old one finds it full.

    `closed` and `successor` are dictionaries of one item, since `setdefault` is atomic and keeps the first value.
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
        """Close the segment for writers. Entries written meanwhile are found by walking on from the recorded end."""
        closed = self.closed.setdefault(_ONLY, self.map.tell())
        self.map.seek(size)
        end = closed + extent(self.map[closed:], 0, newest=False)
        if end < size:
            self.map[end] = MARK  # the writer of the last entry can no longer write its mark
        self.end = end


class _Drops:
    """The number of records dropped for one reason at one level. It is exact even if a signal handler counts, too."""

    __slots__ = ("counter", "place")

    def __init__(self, place: int) -> None:
        self.place = place
        self.counter = itertools.count()

    @property
    def count(self) -> int:
        return int(repr(self.counter)[6:-1])  # "count(7)": the only way to read a counter without advancing it


class _Claim:
    """Referenced only by a call that prepares a segment, so that the claim ends however the call ends."""

    __slots__ = ("__weakref__",)


class Journal:
    """The journal of one process, which writes it. A forked child must not use it.

    A new file is made at `path`; with None, the ring is in anonymous memory and is lost when the process exits. `size` is in
    bytes, for all segments together. All of it is allocated here, so that a full disk is an `OSError` now, and not a SIGBUS
    later. The file is locked until `close` or the end of the process, which shows others whether its writer runs.
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
            if path is not None:
                self._allocate(grain + SEGMENTS * self.segment_size)
                # The lock is on a separate open file: maps kept by a forked child share the one of the journal.
                self._lock = hold(path, wait=True)  # another process may just look whether it is locked
            self._header = self._map(0, grain)
            self._header[: HEADER.size] = HEADER.pack(MAGIC, SEGMENTS, self.segment_size, os.getpid())
            # All are made here if each needs a descriptor, which may not be left later. Otherwise each is made when it is used.
            reserved = range(SEGMENTS) if self._fd >= 0 and _OWN_DESCRIPTORS else ()
            self._maps = {index: self._map(self._offset(index), self.segment_size) for index in reserved}
        except OSError:  # no room, or no descriptor is left
            if path is not None:
                for descriptor in (self._fd, self._lock):
                    if descriptor >= 0:
                        os.close(descriptor)
                os.unlink(path)
            raise
        self._last_used = [0] * SEGMENTS
        self._claims: dict[int, weakref.ref[_Claim]] = {}
        self._drops: dict[tuple[int, int], _Drops] = {}
        self._places = itertools.count()
        self._oldest = self._newest = self._shipping = self._open(0, 1)
        self.retains = False  # whether shipped entries stay until `acknowledge`, for a client that is a relay
        self._shown: ShownReader | None = None
        self.appender: Appender = self._newest.appender

    @property
    def capacity(self) -> int:
        """Size of the largest entry that fits into a segment."""
        return self.segment_size - START

    @property
    def largest(self) -> int:
        """Size from which on an entry is written to a side file."""
        return min(self.capacity, MAX_ENTRY)

    @property
    def size(self) -> int:
        """Size of all segments together, in bytes."""
        return SEGMENTS * self.segment_size

    def _allocate(self, size: int) -> None:
        if hasattr(os, "posix_fallocate"):
            try:
                return os.posix_fallocate(self._fd, 0, size)
            except OSError as failure:
                if failure.errno not in _NO_CALL:
                    raise
        # Systems, file systems and filters of system calls that have no such call allocate when the file is written.
        written = 0
        while written < size:
            written += os.pwrite(self._fd, bytes(min(size - written, _ZEROS)), written)

    def _offset(self, index: int) -> int:
        return self._header_size + index * self.segment_size

    def _map(self, offset: int, size: int) -> mmap.mmap:
        """Return a new map of a part of the file; raise `OSError` if no descriptor is left for it."""
        if self._fd >= 0 and not self._is_ours():
            _kept.extend((self._header, *self._maps.values()))
            self._fd = -1
            self._fd = self._open_again()
        if self._fd < 0:
            return mmap.mmap(-1, size)
        if sys.version_info >= (3, 13):
            return mmap.mmap(self._fd, size, offset=offset, trackfd=False)
        return mmap.mmap(self._fd, size, offset=offset)

    def _is_ours(self) -> bool:
        """Return whether the descriptor still is the file: the program may have closed it and reused its number."""
        return self._is_file(self._fd)

    @property
    def outlives(self) -> bool:
        """Whether others can read the records after this process has exited: there is a file, and it was not removed."""
        return self._fd >= 0 and self._is_ours() and os.fstat(self._fd).st_nlink > 0

    def _is_file(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._file)
        except OSError:
            return False

    def _open_again(self) -> int:
        """Return a new descriptor of the file, which the client reads at the end; -1 if the file was removed."""
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

        Before Python 3.13 a map owns a descriptor. If none is left, the one of the segment's previous map is freed first. If
        another thread takes it, this generation is in memory, and is lost when the process exits.
        """
        try:
            return self._map(self._offset(index), self.segment_size)
        except OSError:
            self._maps[index] = memory = mmap.mmap(-1, self.segment_size)
        try:
            return self._map(self._offset(index), self.segment_size)
        except OSError:
            return memory

    # -- for the writer: one thread at a time, and the signal handlers that interrupt it -----------------------------

    def rotate(self, appender: Appender, *, overwrite: bool) -> bool:
        """Change to the next segment if `appender` is still current; return False if all are full of unshipped entries.

        With `overwrite` the oldest segment is overwritten instead, and the ring is a flight recorder.
        """
        newest = self._latest()
        if newest.appender is appender:
            index = self._choose(overwrite)
            if index is None:
                return False
            claim = _Claim()
            self._claims[index] = weakref.ref(claim)
            if not newest.successor:  # otherwise a call in between may have chosen the same segment
                fresh = self._open(index, newest.generation + 1)
                newest.close(self.segment_size)
                newest.successor.setdefault(_ONLY, fresh)
        self.appender = self._latest().appender
        return True

    def close_segment(self) -> None:
        """Close the current segment for writers. Until the next `rotate` there is no open segment."""
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
        """Return the least recently used free segment, so that the others stay readable; None if all are used."""
        self.free_shown()
        while True:
            used = {segment.index for segment in self._chain()}
            used.update(index for index, claim in tuple(self._claims.items()) if claim() is not None)
            free = [index for index in range(SEGMENTS) if index not in used]
            if free:
                return min(free, key=self._last_used.__getitem__)
            following = self._oldest.successor.get(_ONLY)
            if not overwrite or following is None:
                return None
            if self._shipping is self._oldest:
                self._shipping = following
            self._oldest = following

    def _open(self, index: int, generation: int) -> _Segment:
        fresh = self._map_anew(index)
        # Old entries are erased first, so that the new generation never covers them.
        fresh.write(bytes(self.segment_size))
        fresh[:START] = GENERATION.pack(generation, 0)
        fresh.seek(START)
        self._maps[index] = fresh
        self._last_used[index] = generation
        return _Segment(index, generation, fresh)

    def count_drop(self, reason: str, level: int) -> int:
        """Count a dropped record in the file, where the count outlives the process; return the count so far."""
        key = (DROP_REASONS.index(reason), min(max(int(level), 0), 0xFFFF))
        if key not in self._drops and len(self._drops) >= MAX_COUNTERS - len(DROP_REASONS):
            key = (key[0], 0)  # too many levels: the others share one counter per reason
        drops = self._drops.get(key) or self._drops.setdefault(key, _Drops(next(self._places)))
        next(drops.counter)
        at = COUNTERS_AT + drops.place * COUNTER.size
        while True:
            count = drops.count
            self._header[at : at + COUNTER.size] = COUNTER.pack(*key, 1, count)
            if drops.count == count:  # otherwise a signal handler has counted, and its count was overwritten
                return count

    # -- for the forwarder: one thread ---------------------------------------------------------------------------

    def unshipped(self, limit: int) -> Range | None:
        """Return the oldest unshipped entries, complete, of about `limit` bytes at most; None if there are none."""
        while True:
            segment = self._shipping
            end = segment.map.tell()
            if segment.end is not None:
                end = segment.end
            elif end == self.segment_size:  # it is full; or it is being closed, and `closed` has its end
                end = segment.closed.get(_ONLY, end)
            if segment.sent < end:
                if end - segment.sent > limit:
                    end = self._whole(segment, end, limit)
                return Range(segment.generation, segment.sent, segment.map[segment.sent : end])
            if not self._pass(segment):
                return None

    def _whole(self, segment: _Segment, end: int, limit: int) -> int:
        for size in (limit, limit + 2 * MAX_ENTRY):  # the first entry may be longer than the limit
            data = segment.map[segment.sent : min(end, segment.sent + size)]
            cut = extent(data, 0, newest=False)
            if cut:
                return segment.sent + cut
        return end

    def shipped(self, piece: Range) -> bool:
        """Record that `piece` was shipped; return whether a segment became free."""
        segment = self._shipping
        if segment.generation != piece.generation:
            return False
        segment.sent = piece.start + len(piece.data)
        return self._pass(segment) and not self.retains

    def _pass(self, segment: _Segment) -> bool:
        """Continue with the next segment if all of this one was shipped; return whether it was.

        Unless shipped entries are retained, the segment is free then. Its entries stay readable until it is used again.
        """
        following = segment.successor.get(_ONLY)
        if following is None or segment.end is None or segment.sent < segment.end or self._shipping is not segment:
            return False
        self._shipping = following
        if not self.retains:
            self._oldest = following
        return True

    def acknowledge(self, generation: int) -> bool:
        """Free the shipped segments before `generation`; return whether there were any. Any thread may call it."""
        before = segment = self._oldest
        while segment is not self._shipping and segment.generation < generation:
            segment = segment.successor[_ONLY]
        self._oldest = segment
        return segment is not before

    def keep_until_shown(self, shown: ShownReader) -> None:
        """Keep the entries until they were shown. Closing the journal closes `shown`."""
        self._shown, self.retains = shown, True

    @property
    def keeps_until_shown(self) -> bool:
        """Whether `keep_until_shown` was called."""
        return self._shown is not None

    def free_shown(self) -> bool:
        """Free the segments that were shown; return whether there were any. Any thread may call it."""
        shown = self._shown
        return shown is not None and self.acknowledge(shown())

    def rewind(self, generation: int) -> None:
        """Ship everything from `generation` on again."""
        again = [segment for segment in self._chain() if segment.generation >= generation]
        for segment in again:
            segment.sent = START
        self._shipping = again[0] if again else self._latest()

    @property
    def place(self) -> tuple[int, int]:
        """The end of what was appended. Only for the thread that appends."""
        newest = self._latest()
        end = newest.map.tell()
        return (newest.generation, end) if end > START else (newest.generation - 1, 0)

    # -- for any thread ------------------------------------------------------------------------------------------

    def drops(self) -> list[tuple[str, int, int]]:
        """Return ``(reason, level, count)`` of the records dropped so far."""
        return [(DROP_REASONS[reason], level, drops.count) for (reason, level), drops in tuple(self._drops.items())]

    def close(self) -> None:
        """Close the file, and keep its contents. Maps are freed when no writer uses them; new segments are in memory only."""
        if self._fd >= 0 and not self._is_ours():
            _kept.extend((self._header, *self._maps.values()))
        for fd in (self._fd, self._lock):
            if fd >= 0 and self._is_file(fd):
                os.close(fd)
        self._fd = self._lock = -1
        shown, self._shown = self._shown, None
        if shown is not None:
            shown.close()
