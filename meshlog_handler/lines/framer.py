"""Turns captured bytes into lines: framing, progress states, partial lines, and the text of a line on a console.

Pure: the caller passes the bytes of a pipe and the time; no threads, no clocks, no descriptors.
"""

from __future__ import annotations

import logging
import re
from typing import Final, NamedTuple

from ..grouping.tracebacks import DUMP_HEAD, HEAD, HEADS

IDLE: Final = 0.5
LIVE: Final = 1.0
MAX_LINE: Final = 8 << 20
_FEW: Final = 4


class Line(NamedTuple):
    """A captured line, or the part of it that has arrived.

    Attributes
    ----------
    raw : bytes
        The line without its end. Of a line rewritten with ``\\r``, only the newest state.
    final : bool
        The line is complete and is not returned again. False for a progress state and for an idle partial line, which files,
        counts and groups ignore.
    progress : bool
        A ``\\r`` will replace this state. A console shows the whole `raw`, in place of the state before.
    shown : int
        Leading bytes of `raw` that were shown, as a partial line or a progress state. A console shows only the rest. If `shown`
        is ``len(raw)``, only the end of the line is left to show.
    bar : int or None
        The bar of the stream that a progress state, or the line that ends it, belongs to. See `CursorFramer`.
    """

    raw: bytes
    final: bool
    progress: bool
    shown: int
    bar: int | None = None


class Block(NamedTuple):
    """Many captured lines as they were written, complete and not shown before. Cheaper than a list of `Line`."""

    raw: bytes  # the lines, with newlines between them

    @property
    def size(self) -> int:
        """The number of lines."""
        return self.raw.count(b"\n") + 1

    def lines(self) -> list[Line]:
        """Return the lines one by one."""
        return [Line(raw, True, False, 0) for raw in self.raw.split(b"\n")]


class LineFramer:
    """Turns the bytes captured from one pipe into lines. Not thread-safe.

    Final lines do not depend on how the bytes were cut into chunks. Each byte is examined a bounded number of times, even if a
    long line arrives in small pieces. To bound the memory, a line longer than `max_line` bytes is cut into several final lines,
    at a character boundary.

    Of a line rewritten with ``\\r``, the newest state is shown at most once in `LIVE` seconds, and the first at once. An
    unfinished line is shown after `IDLE` seconds without new bytes, or after growing for `LIVE` seconds; later only its new
    part. Neither ends inside a UTF-8 character.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._state = bytearray()  # the newest state of the unfinished line
        self._returned = False  # a \r follows the state: the next byte replaces it, a newline ends it
        self._rewritten = False  # a \r has replaced a state of this line
        self._shown = 0  # leading bytes of the state that were shown
        self._live: bytes | None = None  # the progress state of this line that was shown last
        self._next_live = float("-inf")  # no progress state is shown before this time
        self._grows_since: float | None = None  # when the oldest unshown byte arrived
        self.deadline: float | None = None  # when `expire` has something to show (same clock as `now`)

    @property
    def at_start(self) -> bool:
        """Whether the unfinished line is empty."""
        return not self._state

    @property
    def redrawn(self) -> bool:
        """Whether the unfinished line is a progress state."""
        return self._rewritten or (self._returned and bool(self._state))

    @property
    def returned(self) -> bool:
        """Whether the next text replaces the unfinished line."""
        return self._returned

    def take(self) -> bytearray:
        """Remove and return the unfinished line."""
        state, self._state = self._state, bytearray()
        self.close()
        self._rewritten, self._shown, self._live = False, 0, None
        return state

    def feed(self, data: bytes, now: float) -> list[Line | Block]:
        """Take bytes read at `now` (seconds); return the lines that they complete and the state or part to show now."""
        out: list[Line | Block] = []
        last = data.rfind(b"\n")
        if last >= 0:
            start = 0
            if self._state or self._returned:
                start = data.index(b"\n")
                self._extend(data[:start], out)
                self._end(out)
                start += 1
            if start <= last:
                body = data[start:last]
                if len(body) <= self._max_line and b"\r" not in body and body.count(b"\n") >= _FEW:
                    out.append(Block(body))
                else:
                    for line in body.split(b"\n"):
                        self._extend(line, out)
                        self._end(out)
            self._grows_since = None
        if last + 1 < len(data):
            self._extend(data[last + 1 :] if last >= 0 else data, out)
        self._schedule(now, out)
        return out

    def expire(self, now: float) -> list[Line]:
        """Return what is due at `now`: a progress state that was held back, or an idle partial line."""
        if self.deadline is None or now < self.deadline:
            return []
        return self._show(now)

    def flush(self, now: float) -> list[Line]:
        """Return the unshown part of the unfinished line now, before it is due: the barrier of a flush."""
        return self._show(now)

    def close(self) -> list[Line | Block]:
        """Return the rest as a final line, because the stream has ended, and reset the framer."""
        out: list[Line | Block] = []
        if self._state:
            self._end(out)
        self._returned = False
        self.deadline = self._grows_since = None
        self._next_live = float("-inf")
        return out

    def _extend(self, piece: bytes, out: list[Line | Block]) -> None:
        if b"\r" in piece:
            first, *states = piece.split(b"\r")
            self._append(first, out)
            for state in states:
                self._returned = True
                self._append(state, out)
        else:
            self._append(piece, out)

    def _append(self, piece: bytes, out: list[Line | Block]) -> None:
        if not piece:
            return
        if self._returned:
            self._returned = False
            # A \r at the start of a line replaces nothing, but the text after it is a progress state, too.
            self._rewritten = True
            self._state.clear()
            self._shown = 0
        self._state += piece
        while len(self._state) > self._max_line:
            cut = whole_characters(self._state, self._max_line) or self._max_line
            out.append(Line(bytes(self._state[:cut]), True, False, self._already(cut)))
            del self._state[:cut]
            self._shown = max(0, self._shown - cut)

    def _end(self, out: list[Line | Block]) -> None:
        out.append(Line(bytes(self._state), True, False, self._already(len(self._state))))
        self._state.clear()
        self._returned = self._rewritten = False
        self._shown = 0
        self._live = None

    def _already(self, size: int) -> int:
        # A progress state that grew after it was shown is shown whole again: the console no longer displays it.
        if self._rewritten and self._shown < size:
            return 0
        return min(self._shown, size)

    def _schedule(self, now: float, out: list[Line | Block]) -> None:
        if not self._state or whole_characters(self._state, len(self._state)) == self._shown:
            self.deadline = self._grows_since = None
            return
        if self._grows_since is None:
            self._grows_since = now
        if not (self._rewritten or self._returned):
            self.deadline = min(now + IDLE, self._grows_since + LIVE)
        elif now < self._next_live:
            self.deadline = self._next_live
        else:
            out.extend(self._show(now))

    def _show(self, now: float) -> list[Line]:
        self.deadline = self._grows_since = None
        end = whole_characters(self._state, len(self._state))
        shown, self._shown = self._shown, end
        if end == shown:
            return []
        raw = bytes(self._state[:end])
        if not (self._rewritten or self._returned):
            return [Line(raw, False, False, shown)]
        if raw == self._live:
            return []
        self._live = raw
        self._next_live = now + LIVE
        return [Line(raw, False, True, 0)]


def whole_characters(data: bytes | bytearray, end: int) -> int:
    """Return the largest size up to `end` at which `data` does not end inside a UTF-8 character."""
    for back in range(1, min(4, end + 1)):
        byte = data[end - back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return end - back if back < size else end
    return end


def display(raw: bytes, max_line: int) -> str:
    """Return the text of a line for a console: invalid bytes as ``\\xff``, cut at `max_line` bytes with a note."""
    if len(raw) <= max_line:
        return text_of(raw)
    end = whole_characters(raw, max_line)
    return f"{text_of(raw[:end])} ... [{len(raw) - end:,} more bytes; the file has the whole line]"


def text_of(raw: bytes) -> str:
    """Return the text of a line: invalid bytes as ``\\xff``."""
    return raw.decode("utf-8", "backslashreplace")


def raw_text(raw: bytes) -> str:
    """Return a line as text; ``encode("utf-8", "surrogateescape")`` restores its bytes."""
    return raw.decode("utf-8", "surrogateescape")


_ANSI = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # colours, cursor movements
    rb"|\][^\x07\x1b]*(?:\x07|\x1b\\)"  # window titles, links
    rb"|[PX^_][^\x1b]*\x1b\\"  # device strings
    rb"|[ -/]+[0-~]|[0-~])"  # character sets and the short ones
)


def strip_ansi_text(text: str) -> str:
    """Return a text without escape sequences."""
    return strip_ansi(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


def strip_ansi(raw: bytes) -> bytes:
    """Return a line without terminal escape sequences."""
    return _ANSI.sub(b"", raw) if b"\x1b" in raw else raw


def keep_colours(raw: bytes) -> bytes:
    """Return a line with only the escape sequences of colours and links: cursor movements would overwrite other lines."""
    return _ANSI.sub(_kept, raw) if b"\x1b" in raw else raw


def _kept(match: re.Match[bytes]) -> bytes:
    sequence = match[0]
    is_colour = sequence.startswith(b"\x1b[") and sequence.endswith(b"m")
    return sequence if is_colour or sequence.startswith(b"\x1b]8;") else b""


_HEAD = 80
_LEVEL_WORD = re.compile(r"(?:\x1b\[[0-9;]*m|(?<!\w))(WARN(?:ING)?|ERROR|CRITICAL|FATAL)(?!\w)")
_LEVELS: Final = {
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
    "FATAL": logging.CRITICAL,
}
_DUMPS: Final = (DUMP_HEAD, *HEADS)
# The words in lines of other levels, by a letter to search for first: this is much faster, and most lines lack the letter.
_WORDS: Final = {
    b"R": (b"WARN", b"ERROR", b"CRITICAL"),
    b"F": (b"FATAL", DUMP_HEAD.encode()),
    b"T": (HEAD.encode(),),
}


def may_have_levels(raw: bytes) -> bool:
    """Return whether a line may have another level than INFO. False is certain."""
    return any(letter in raw and any(word in raw for word in words) for letter, words in _WORDS.items())


def level_of(text: str) -> int:
    """Return the level of a captured line.

    The level is INFO, unless the first 80 characters contain WARN, WARNING, ERROR, CRITICAL or FATAL in capitals (the first of
    these words decides), or the line begins a traceback (ERROR) or a dump of `faulthandler` (CRITICAL).
    """
    # Few lines contain a capital R, so most lines skip the other checks.
    if ("R" in text and ("WARN" in text or "ERROR" in text or "CRITICAL" in text)) or "FATAL" in text:
        match = _LEVEL_WORD.search(text, 0, _HEAD)
        if match is not None:
            return _LEVELS[match[1]]
    if not text.startswith(_DUMPS):
        return logging.INFO
    return logging.CRITICAL if text[0] == "F" else logging.ERROR
