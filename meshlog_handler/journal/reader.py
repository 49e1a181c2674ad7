"""Reads the journal of a worker that has exited. Pure data: no thread, no clock."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import BinaryIO, Final

from ..errors import ProtocolError
from ..protocol.entries import MAX_ENTRY, extent
from .layout import COUNTER, COUNTERS_AT, DROP_REASONS, GENERATION, HEADER, MAGIC, MAX_COUNTERS, SEGMENTS, START, Range

_PAGE: Final = 4096  # a divisor of the page size of every system
_STEP: Final = 1 << 20
_LARGEST: Final = 2 * MAX_ENTRY


class JournalReader:
    """Reads a journal whose writer has exited, and validates everything it reads.

    The file is read, not mapped: a truncated file is an error when read, but a SIGBUS when mapped.
    """

    def __init__(self, path: str, max_size: int = (1 << 30) + (1 << 20)) -> None:
        self._path = path
        self._segments: list[tuple[int, int]] = []  # generation, offset in the file
        self._segment_size = 0
        self.pid, self._drops = 0, b""
        with self._open() as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_size:
                raise ProtocolError(f"journal {path} is larger than {max_size} bytes")
            head = file.read(COUNTERS_AT + MAX_COUNTERS * COUNTER.size)
            if not any(head[: HEADER.size]):  # the writer exited before it had written the header
                return
            if len(head) < HEADER.size or head[: len(MAGIC)] != MAGIC:
                raise ProtocolError(f"{path} is not a journal")
            _, segments, self._segment_size, self.pid = HEADER.unpack_from(head)
            header_size = size - segments * self._segment_size
            whole = header_size >= COUNTERS_AT + MAX_COUNTERS * COUNTER.size and header_size % _PAGE == 0
            if segments != SEGMENTS or self._segment_size <= START or not whole:
                raise ProtocolError(f"journal {path} has a header that does not fit its size")
            self._drops = head[COUNTERS_AT:]
            for begin in range(header_size, size, self._segment_size):
                file.seek(begin)
                numbers = file.read(GENERATION.size)
                if len(numbers) < GENERATION.size:
                    raise ProtocolError(f"journal {path} is truncated")
                generation = GENERATION.unpack(numbers)[0]
                if generation:
                    self._segments.append((generation, begin))
        self._segments.sort()

    def _open(self) -> BinaryIO:
        """Open the journal, which must be a regular file and not a link. Never blocks on another kind of file."""
        fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ProtocolError(f"{self._path} is not a regular file")
        return open(fd, "rb")

    def _read(self, begin: int, start: int, *, newest: bool) -> bytes:
        """Return the complete entries of a segment from `start`. Reading stops soon after the last entry."""
        data = b""
        with self._open() as file:
            file.seek(begin + start)
            left = self._segment_size - start
            while left > 0:
                more = file.read(min(left, _STEP))
                if not more:
                    raise ProtocolError(f"journal {self._path} is truncated")
                left -= len(more)
                data += more
                end = extent(data, 0, newest=newest and not left)
                if end + _LARGEST < len(data):  # the rest is larger than any entry: these were the last ones
                    break
        return data[: extent(data, 0, newest=newest)]

    def ranges(self, generation: int = 0, offset: int = START) -> Iterator[Range]:
        """Yield, in order, the ranges after ``(generation, offset)``, the position up to which the caller has the stream.

        Entries were overwritten if the first range is not the rest of `generation` or, without a rest, the next generation.
        """
        if generation and not self._segments:
            raise ProtocolError(f"journal {self._path} is truncated: it has nothing of what its writer has sent")
        newest = self._segments[-1][0] if self._segments else 0
        for number, begin in self._segments:
            if number < generation:
                continue
            start = offset if number == generation else START
            if not START <= start <= self._segment_size:
                raise ProtocolError(f"position {start} is outside the segment. Expected {START} to {self._segment_size}")
            data = self._read(begin, start, newest=number == newest)
            if data:
                yield Range(number, start, data)

    def drops(self) -> list[tuple[str, int, int]]:
        """Return ``(reason, level, count)`` of the records that the writer dropped."""
        return [
            (DROP_REASONS[reason], level, count)
            for reason, level, used, count in COUNTER.iter_unpack(self._drops)
            if used and reason < len(DROP_REASONS)
        ]
