"""One proc's stream, and what stands for its forwarder and its client."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from meshlog_handler.journal.side_files import ReadSideFiles
from meshlog_handler.journal.writer import Journal
from meshlog_handler.protocol.decode import Item, RecordDecoder
from meshlog_handler.worker.record_stream import OnFull, RecordStream

from .crossing import IDENTITY, make

PADDING = "x" * 200


class Proc:
    """A stream, and what stands for forwarder and client."""

    def __init__(self, path: str | None, on_full: OnFull) -> None:
        self.woken = 0
        self.stream = RecordStream(Journal(path, 1), on_full, self._wake)
        self.items: list[Item] = []
        self.large: list[int] = []
        self._generation = 0
        self.sides = ReadSideFiles(str(path))
        self._thawer = RecordDecoder(IDENTITY, self._read_large)

    def _wake(self) -> None:
        self.woken += 1
        self.stream.idle = False

    def _read_large(self, number: int) -> bytes:
        self.large.append(number)
        return self.sides.read(number)

    def log(self, msg: object, *args: object, **attributes: Any) -> None:
        self.stream.append(make(msg, *args, **attributes))

    def fill(self) -> int:
        """Log until no room is left, without a drop; return how many there were."""
        for count in itertools.count():
            self.log("%d %s", count, PADDING)
            journal = self.stream.journal
            if journal._choose(overwrite=False) is None and journal._latest().map.tell() > 3700:
                return count + 1
        raise AssertionError

    def ship(self, limit: int = 1 << 20) -> None:
        """Do what a forwarder does in one round."""
        self._ship_pieces(limit)
        while self.stream.append_sentinels():
            self._ship_pieces(limit)

    def _ship_pieces(self, limit: int) -> None:
        with self.stream.shipping():
            while (piece := self.stream.journal.unshipped(limit)) is not None:
                if piece.generation != self._generation:
                    self._generation = piece.generation
                    self._thawer.new_segment()
                self._thawer.decode(piece.data, 0, 1 << 30, self.items)
                if self.stream.journal.shipped(piece):
                    self.stream.made_room()

    @property
    def texts(self) -> list[str]:
        """What the client shows, without the padding."""
        found = [template.text(values) for _, template, values in self.items if template is not None]
        return [text.replace(PADDING, "").strip() for text in found]

    @property
    def drops(self) -> list[tuple[str, int, int]]:
        return self.stream.journal.drops()

    def close(self) -> None:
        self.stream.lose_client()
        self.stream.journal.close()
        # Pytest keeps the object for a while, and maps keep descriptors.
        vars(self.stream.journal).clear()
        vars(self.stream).clear()


class Waits:
    """Lets happen, in place of a wait for room, one thing after the other; only the last one may make room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, proc: Proc, *happenings: Callable[[], object]) -> None:
        self.left = list(happenings)
        monkeypatch.setattr(proc.stream, "_begin_to_wait", lambda: self)

    def acquire(self, blocking: bool, timeout: float) -> bool:
        self.left.pop(0)()
        return not self.left


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def joined(thread: threading.Thread) -> bool:
    thread.join(10)
    return not thread.is_alive()
