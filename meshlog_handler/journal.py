"""The journal: a ring of segments in a mapped file, written by one process, read by others after its death.

::

    header   magic, sizes, pid; counters of what was dropped, by reason and level
    segment  generation:u64 0:u64, entries (see `entries`), zeros       x 8

An append is one C call, ``segment.write(data)``: neither a signal handler, nor the garbage collector, nor another
thread can come in between, so the hot path needs no lock, and logging may re-enter it anywhere. The end of a segment
is an error of that call, not a check. The generation rises from segment to segment; every segment can be read alone.

This file is bytes and bookkeeping: no thread, no clock. Who may call what is said at each method.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from .entries import MARK, extent
from .errors import ProtocolError
from .freeze import ShapeTable

SEGMENTS: Final = 8
_MAGIC: Final = b"MESHLOG1"
_HEADER: Final = Struct("<8sIIQ")
_COUNTERS_AT: Final = 1024
_COUNTER: Final = Struct("<HHIQ")
_MAX_COUNTERS: Final = 128
_PAGE: Final = 4096  # every system's pages are a multiple of it
_GENERATION: Final = Struct("<QQ")
START: Final = _GENERATION.size
"""Where the entries of a segment begin."""

DROP_REASONS: Final = ("full", "policy", "gone", "lost")
"""The journal was full although the call waited; was full, and the policy is to drop; had no client; was overwritten."""

Appender = tuple[ShapeTable, Callable[[bytes], int], Callable[[int], None]]
"""``(shapes, write, mark)`` of the current segment, swapped whole: a call never mixes two segments."""


class Range(NamedTuple):
    """Bytes of the stream: where they stand, and what they are."""

    generation: int
    start: int
    data: bytes


class _Segment:
    """One stretch of the file. `map` is made anew for each generation: a writer which holds the old one meets its end."""

    __slots__ = ("end", "generation", "index", "map", "sealing", "sent")

    def __init__(self, index: int) -> None:
        self.index = index
        self.generation = 0
        self.sent = START
        self.sealing = False
        self.end: int | None = None
        self.map: mmap.mmap | None = None


class Journal:
    """The writer's side. One process; a forked child must forget it.

    Parameters
    ----------
    path : str or None
        The file to make; None keeps the ring in anonymous memory, which dies with the process.
    size : int
        Bytes for all segments together, all allocated here: a full disk is an `OSError` now, not a SIGBUS later.
    """

    def __init__(self, path: str | None, size: int) -> None:
        grain = mmap.ALLOCATIONGRANULARITY
        self.segment_size = max(grain, size // SEGMENTS // grain * grain)
        self.path = path
        self._header_size = grain
        self._fd = -1
        if path is not None:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                self._allocate(grain + SEGMENTS * self.segment_size)
            except OSError:
                os.close(self._fd)
                os.unlink(path)
                raise
        self._header = self._map(0, grain)
        self._header[: _HEADER.size] = _HEADER.pack(_MAGIC, SEGMENTS, self.segment_size, os.getpid())
        self._free = deque(_Segment(index) for index in range(SEGMENTS))
        self._order: deque[_Segment] = deque()
        self._counters: dict[tuple[int, int], list[int]] = {}
        self._generation = 0
        self.appender: Appender
        self._open_next()

    @property
    def capacity(self) -> int:
        """The size of the largest entry a segment takes."""
        return self.segment_size - START

    def _allocate(self, size: int) -> None:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, 0, size)
        else:  # macOS: writing is what allocates
            os.pwrite(self._fd, bytes(size), 0)

    def _map(self, offset: int, size: int) -> mmap.mmap:
        if self._fd < 0:
            return mmap.mmap(-1, size)
        return mmap.mmap(self._fd, size, offset=offset)

    # -- the writer's, one call at a time (the handler's lock) --------------------------------------------------

    def rotate(self, appender: Appender, *, overwrite: bool) -> bool:
        """Go on in the next segment if `appender` is still the current one; False if all are full of unshipped entries.

        With `overwrite` the oldest segment is given up instead: the ring is then a flight recorder.
        """
        if self.appender is not appender:
            return True
        if not self._free:
            if not overwrite:
                return False
            self._free.append(self._order.popleft())
        self._seal(self._order[-1])
        self._open_next()
        return True

    def _seal(self, segment: _Segment) -> None:
        """Close a segment to writers. A write between the two calls is found by walking on from where the first saw the end."""
        assert segment.map is not None
        segment.sealing = True
        end = segment.map.tell()
        segment.map.seek(self.segment_size)
        segment.end = end + extent(segment.map[end:], 0, newest=False)
        if segment.end < self.segment_size:
            segment.map[segment.end] = MARK  # what the writer of the last entry was about to put there finds no place now

    def _open_next(self) -> None:
        segment = self._free.popleft()
        self._generation += 1
        segment.generation, segment.sent = self._generation, START
        segment.sealing, segment.end = False, None
        fresh = self._map(self._header_size + segment.index * self.segment_size, self.segment_size)
        # Old entries go before the generation that would vouch for them comes.
        fresh.write(bytes(self.segment_size))
        fresh[:START] = _GENERATION.pack(self._generation, 0)
        fresh.seek(START)
        segment.map = fresh
        self._order.append(segment)
        self.appender = (ShapeTable(), fresh.write, fresh.write_byte)

    def count_drop(self, reason: str, level: int) -> int:
        """Count a dropped record in the file, where it outlives the process; return the count so far."""
        key = (DROP_REASONS.index(reason), min(max(int(level), 0), 0xFFFF))
        if key not in self._counters and len(self._counters) >= _MAX_COUNTERS - len(DROP_REASONS):
            key = (key[0], 0)  # so many levels that their counts share what is left of the page
        slot = self._counters.setdefault(key, [len(self._counters), 0])
        slot[1] += 1
        at = _COUNTERS_AT + slot[0] * _COUNTER.size
        self._header[at : at + _COUNTER.size] = _COUNTER.pack(*key, 1, slot[1])
        return slot[1]

    # -- the forwarder's, one thread -----------------------------------------------------------------------------

    def unshipped(self, limit: int) -> Range | None:
        """Return the oldest bytes that were not shipped, at most about `limit`, whole entries; None if there are none."""
        while True:
            try:
                segment = self._order[0]
            except IndexError:
                return None
            assert segment.map is not None
            end = segment.end
            if end is None:
                end = segment.map.tell()
                if segment.sealing:
                    if segment.end is None:
                        return None  # its writer is just closing it, and wakes the forwarder after that
                    continue
            if segment.sent < end:
                if end - segment.sent > limit:
                    end = self._whole(segment, end, limit)
                return Range(segment.generation, segment.sent, segment.map[segment.sent : end])
            if segment.end is None or len(self._order) == 1:
                return None
            self._retire(segment)

    def _whole(self, segment: _Segment, end: int, limit: int) -> int:
        assert segment.map is not None
        data = segment.map[segment.sent : min(end, segment.sent + limit)]
        cut = extent(data, 0, newest=False)
        return segment.sent + cut if cut else end

    def shipped(self, piece: Range) -> bool:
        """Note that `piece` was shipped; tell whether a segment became free by it."""
        try:
            segment = self._order[0]
        except IndexError:
            return False
        if segment.generation != piece.generation:
            return False
        segment.sent = piece.start + len(piece.data)
        if segment.end is not None and segment.sent >= segment.end and len(self._order) > 1:
            self._retire(segment)
            return True
        return False

    def _retire(self, segment: _Segment) -> None:
        # Its entries stay readable until the ring comes round.
        if self._order and self._order[0] is segment:
            self._order.popleft()
            self._free.append(segment)

    # -- anyone's ----------------------------------------------------------------------------------------------

    def drops(self) -> list[tuple[str, int, int]]:
        """Return ``(reason, level, count)`` of all that was dropped so far."""
        return [(DROP_REASONS[reason], level, slot[1]) for (reason, level), slot in tuple(self._counters.items())]

    def close(self) -> None:
        """Close the file; what was written stays. Mapped segments go when no writer holds them; new ones are mere memory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class JournalReader:
    """The reader's side: a copy of a journal whose writer is dead. Trusts nothing it finds.

    Reads the file instead of mapping it: a file cut short under a mapping is a SIGBUS, under a read an error.
    """

    def __init__(self, path: str, max_size: int = (1 << 30) + (1 << 20)) -> None:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > max_size:
                raise ProtocolError(f"journal {path} is larger than {max_size} bytes")
            data = file.read(max_size)
        if len(data) < _HEADER.size or data[: len(_MAGIC)] != _MAGIC:
            raise ProtocolError(f"{path} is no journal")
        _, segments, segment_size, self.pid = _HEADER.unpack_from(data)
        header_size = len(data) - segments * segment_size
        whole = header_size >= _COUNTERS_AT + _MAX_COUNTERS * _COUNTER.size and header_size % _PAGE == 0
        if segments != SEGMENTS or segment_size <= START or not whole:
            raise ProtocolError(f"journal {path} has a header that does not fit its size")
        self._drops = data[_COUNTERS_AT : _COUNTERS_AT + _MAX_COUNTERS * _COUNTER.size]
        self._segments: list[tuple[int, bytes]] = []
        for index in range(SEGMENTS):
            begin = header_size + index * segment_size
            segment = data[begin : begin + segment_size]
            generation = _GENERATION.unpack_from(segment)[0]
            if generation:
                self._segments.append((generation, segment))
        self._segments.sort(key=lambda pair: pair[0])

    def ranges(self, generation: int = 0, offset: int = START) -> Iterator[Range]:
        """Yield, in order, what follows ``(generation, offset)``, the position up to which a reader has the stream.

        A first range of a later generation than asked for, or of one beyond the next, means that entries were overwritten.
        """
        newest = self._segments[-1][0] if self._segments else 0
        for number, segment in self._segments:
            if number < generation:
                continue
            start = offset if number == generation else START
            if not START <= start <= len(segment):
                raise ProtocolError(f"no position {start} in a segment")
            end = extent(segment, start, newest=number == newest)
            if end > start:
                yield Range(number, start, segment[start:end])

    def drops(self) -> list[tuple[str, int, int]]:
        """Return ``(reason, level, count)`` of all that the writer dropped."""
        return [
            (DROP_REASONS[reason], level, count)
            for reason, level, used, count in _COUNTER.iter_unpack(self._drops)
            if used and reason < len(DROP_REASONS)
        ]
