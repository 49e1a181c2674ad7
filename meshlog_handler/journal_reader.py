"""JournalReader: what a dead process's journal holds. Bytes only; no thread, no clock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from .entries import extent
from .errors import ProtocolError
from .journal_layout import (
    COUNTER,
    COUNTERS_AT,
    DROP_REASONS,
    GENERATION,
    HEADER,
    MAGIC,
    MAX_COUNTERS,
    SEGMENTS,
    START,
    Range,
)

_PAGE: Final = 4096  # every system's pages are a multiple of it


class JournalReader:
    """A copy of a journal whose writer is dead. Trusts nothing it finds.

    Reads the file instead of mapping it: a file cut short under a mapping is a SIGBUS, under a read an error.
    """

    def __init__(self, path: str, max_size: int = (1 << 30) + (1 << 20)) -> None:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > max_size:
                raise ProtocolError(f"journal {path} is larger than {max_size} bytes")
            data = file.read(max_size)
        if not any(data[: HEADER.size]):  # its writer died while it made it
            self.pid, self._drops = 0, b""
            self._segments: list[tuple[int, bytes]] = []
            return
        if len(data) < HEADER.size or data[: len(MAGIC)] != MAGIC:
            raise ProtocolError(f"{path} is no journal")
        _, segments, segment_size, self.pid = HEADER.unpack_from(data)
        header_size = len(data) - segments * segment_size
        whole = header_size >= COUNTERS_AT + MAX_COUNTERS * COUNTER.size and header_size % _PAGE == 0
        if segments != SEGMENTS or segment_size <= START or not whole:
            raise ProtocolError(f"journal {path} has a header that does not fit its size")
        self._drops = data[COUNTERS_AT : COUNTERS_AT + MAX_COUNTERS * COUNTER.size]
        self._segments = []
        for index in range(SEGMENTS):
            begin = header_size + index * segment_size
            segment = data[begin : begin + segment_size]
            generation = GENERATION.unpack_from(segment)[0]
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
            for reason, level, used, count in COUNTER.iter_unpack(self._drops)
            if used and reason < len(DROP_REASONS)
        ]
