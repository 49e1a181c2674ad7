"""AttemptFiles: the files of ranks, and those where torchrun writes: a directory for each attempt, and filtered lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..output.rank_files import RankFiles


@dataclass(frozen=True)
class Filtered:
    """The file of the lines of one stream that contain one of `texts`. `heads` are by rank, of the ranks that it has."""

    path: str
    texts: Sequence[bytes]
    heads: Mapping[int, bytes]

    def line(self, rank: int | None, line: bytes) -> bytes | None:
        """Return the line as it is written, or None."""
        head = None if rank is None else self.heads.get(rank)
        return head + line if head is not None and any(text in line for text in self.texts) else None


@dataclass(frozen=True)
class Attempt:
    """Where the lines of one attempt are written, too: `copies` by rank and stream, `filtered` by stream."""

    copies: Mapping[tuple[int | None, str], str] = field(default_factory=dict)
    filtered: Mapping[str, Filtered] = field(default_factory=dict)


class AttemptFiles(RankFiles):
    """Files that continue through all attempts, and those of the current `attempt`, which any thread may replace."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.attempt = Attempt()

    def _add(self, rank: int | None, kind: str, line: bytes) -> None:
        super()._add(rank, kind, line)
        attempt = self.attempt
        path = attempt.copies.get((rank, kind))
        if path is not None:
            super()._add(None, path, line)
        filtered = attempt.filtered.get(kind)
        if filtered is not None and (found := filtered.line(rank, line)) is not None:
            super()._add(None, filtered.path, found)

    def _path(self, rank: int | None, kind: str) -> str:
        return kind if kind.startswith("/") else super()._path(rank, kind)
