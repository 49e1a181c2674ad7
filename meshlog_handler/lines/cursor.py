"""Turns captured bytes into lines if the program moves the cursor, such as to redraw several progress bars. Pure.

A program with bars at several positions (tqdm's ``position=``, rich, multi-line spinners) moves down by line feeds and up by
``ESC [ n A``. Plain framing would return empty lines that were never printed, and every state of every bar. This module returns
what a terminal would show: a few *rows* that are redrawn, each a progress state, and the lines that the cursor leaves behind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .framer import LIVE, MAX_LINE, Block, Line, LineFramer, whole_characters

HOLD: Final = 0.05
"""Seconds for which the end of a bar is held back, because the cursor may move up to it."""

HOLD_AGAIN: Final = 0.2
"""The same, if the cursor has moved up before."""

_MAX_ROWS: Final = 100
_MAX_HELD: Final = 4096
_MOVE_UP: Final = re.compile(rb"\x1b\[[0-9]*[AF]")
_BEGINNINGS: Final = (b"\x1bM", b"\x1b[?25l")
_CLIMB: Final = re.compile(rb"(?:\x1b\[[0-9]*[AFK]|\x1bM|\r)+")
_UP: Final = re.compile(rb"\x1b\[([0-9]{0,3})[AF]|\x1bM")
_CUT: Final = re.compile(rb"\x1b(?:\[[0-9;?]*)?\Z")
_MAX_CUT: Final = 32
_TOKEN: Final = re.compile(rb"\n|\r|\x1b\[([0-9;?]*)([@-~])|\x1b[M78]|(?:[^\n\r\x1b]|\x1b(?!\[|[M78]))+|\x1b")
_COLOUR: Final = re.compile(rb"\x1b\[[0-9;]*m")
_LABEL: Final = re.compile(rb"[^|%]*?(?=:\s)|[^0-9|%]*")


class _Row:
    """A line to which the cursor can return."""

    __slots__ = ("arrived", "bar", "number", "returned", "shown", "state", "states")

    def __init__(self, number: int) -> None:
        self.number = number  # stays the same when rows above are left behind
        self.state = bytearray()  # the current text
        self.shown = b""  # the progress state that was shown last
        # `bar`: the row was redrawn and may be redrawn again; otherwise it is an ordinary line. `returned` and `arrived`: the
        # next text replaces the state, after a carriage return or because a line feed moved the cursor here.
        self.bar = self.returned = self.arrived = False
        self.states = 0  # how often the row was redrawn since the cursor arrived

    @property
    def blank(self) -> bool:
        return not _COLOUR.sub(b"", self.state).strip()

    @property
    def label(self) -> bytes:
        """The text before the colon, as tqdm writes it, or before the numbers."""
        found = _LABEL.match(_COLOUR.sub(b"", self.state))
        return found[0].strip() if found else b""

    def write(self, text: bytes) -> None:
        if self.returned or self.arrived:
            self.bar = self.returned
            self.states += self.returned
            self.returned = self.arrived = False
            self.state.clear()
        self.state += text


class CursorFramer:
    """A `LineFramer` that also handles a cursor that moves up.

    A plain `LineFramer` does the work until the cursor moves up, or may do so soon. Lines that are, or were, progress states
    have a `bar`: a number that stays the same as long as the bar exists. An empty state erases a bar. A line longer than
    `max_line` bytes is cut into several.

    Final lines do not depend on how the bytes were cut into chunks, unless a pause longer than `HOLD` comes between a bar and
    the cursor movement back to it.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._new()

    def _new(self) -> None:
        self._framer = LineFramer(self._max_line)
        self._drawn = False  # the framer's unfinished line is shown as a progress state
        self._held = b""
        self._rows: list[_Row] = []  # empty: the cursor does not move up
        self._at = 0
        self._went_up = False
        self._hidden = False  # whether the cursor is hidden, as by programs that draw: any line may be redrawn
        self._settles: float | None = None
        self._live: float | None = None
        self._next_live = float("-inf")

    @property
    def deadline(self) -> float | None:
        """The time at which `expire` has something to show (same clock as `now`), or None."""
        return min((each for each in (self._settles, self._live, self._framer.deadline) if each is not None), default=None)

    def feed(self, data: bytes, now: float) -> list[Line | Block]:
        """Take bytes read at `now` (seconds); return the lines that they complete and the states to show now."""
        if not self._rows and not self._held and self._is_plain(data):
            return self._framer.feed(data, now)
        out: list[Line | Block] = []
        undecided = bool(self._held)
        data, self._held = self._held + data, b""
        if (cut := _CUT.search(data, max(0, len(data) - _MAX_CUT))) is not None:
            data, self._held = data[: cut.start()], data[cut.start() :]
        while data:
            if self._rows:
                data, undecided = self._draw(data, out), False
            elif (begins := _beginning(data)) >= 0:
                start = 0 if undecided else _start_of_rows(data, begins)
                out += self._marked(self._framer.feed(data[:start], now)) if start else ()
                self._take_over()
                data = data[start:]
            else:
                certain = self._certain(data)
                out += self._marked(self._framer.feed(data[:certain], now)) if certain else ()
                self._held = data[certain:] + self._held
                break
        self._show_rows(now, out)
        self._settles = now + (HOLD_AGAIN if self._rows else HOLD) if self._unsettled else None
        return out

    def expire(self, now: float) -> list[Line]:
        """Return the lines and states due at `now`, including the end of a bar to which the cursor has not returned."""
        out: list[Line | Block] = []
        if self._settles is not None and now >= self._settles:
            self._settle(now, out)
        if self._live is not None and now >= self._live:
            self._show_rows(now, out)
        return _singly([*out, *self._marked(self._framer.expire(now))])

    def flush(self, now: float) -> list[Line]:
        """Return the unshown parts of unfinished lines now, before they are due: the barrier of a flush."""
        out: list[Line | Block] = []
        self._settle(now, out)
        self._next_live = float("-inf")
        self._show_rows(now, out)
        return _singly([*out, *self._marked(self._framer.flush(now))])

    def close(self) -> list[Line | Block]:
        """Return the rest as final lines, because the stream has ended, and reset the framer."""
        out: list[Line | Block] = []
        if self._rows:
            self._forget_older_states()
            below = [row for row in self._rows[self._at :] if row.blank]
            self._erase(below, out)
            self._rows = [row for row in self._rows if row not in below]
            self._leave(len(self._rows), out)
        elif self._held:
            out += self._marked(self._framer.feed(self._held, 0.0))
        out += self._marked(self._framer.close())
        self._new()
        return out

    # -- Before the cursor moves up ------------------------------------------------------------------------------------

    def _is_plain(self, data: bytes) -> bool:
        """Return whether these are ordinary lines: no part is, or may become, a bar or a cursor movement."""
        if b"\x1b" in data or b"\r" in data or self._drawn or self._framer.redrawn or self._framer.returned:
            return False
        return data[-1:] != b"\n" or data[-2:-1] not in (b"\n", b"")

    def _marked(self, lines: Sequence[Line | Block]) -> list[Line | Block]:
        """Set the `bar` of progress states and of the lines that end them."""
        out: list[Line | Block] = []
        for line in lines:
            if isinstance(line, Line) and line.progress:
                self._drawn = True
                out.append(line._replace(bar=0))
            elif self._drawn and (isinstance(line, Block) or line.final):
                self._drawn = False
                first, *others = _singly([line])
                out += [first._replace(bar=0), *others]
            else:
                out.append(line)
        return out

    def _certain(self, data: bytes) -> int:
        """Return the size of the part of `data` to which the cursor cannot return."""
        # It may return to a bar or an empty line that has ended, as long as at most one state of a bar follows.
        size = len(data)
        returned = data.rfind(b"\r", max(0, size - _MAX_HELD))
        end = returned if returned > data.rfind(b"\n") else size
        start = end
        while start and data[start - 1] == 10:  # a line feed
            start -= 1
        before = data[:start].rpartition(b"\n")[2] if b"\n" in data[:start] else None
        line = data[:start] if before is None else before
        redrawn = b"\r" in line.rstrip(b"\r") or (before is None and (self._framer.redrawn or self._framer.returned))
        if not redrawn and (line or (before is None and not self._framer.at_start)):
            start += 1  # an ordinary line has ended
        return start if start < end and size - start <= _MAX_HELD else size

    # -- While the cursor moves up -------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        row = _Row(0)
        row.bar, row.returned = self._framer.redrawn, self._framer.returned
        row.state = self._framer.take()
        row.shown = bytes(row.state) if self._drawn else b""
        self._rows, self._at, self._went_up, self._drawn = [row], 0, False, False

    def _draw(self, data: bytes, out: list[Line | Block]) -> bytes:
        """Draw on the rows; return the rest of `data` after the last row is left behind."""
        for token in _TOKEN.finditer(data):
            piece, numbers, final = token[0], token[1], token[2]
            if piece == b"\n":
                self._land(out)
                self._line_feed(out)
                if not self._rows:
                    return data[token.end() :]
            elif piece == b"\r":
                self._rows[self._at].returned = True
            elif piece == b"\x1bM":
                self._go_up(1)
            elif final is None or final == b"m":
                if piece not in (b"\x1b[0m", b"\x1b[m") or not self._went_up:
                    self._land(out)
                    self._write(piece, out)
            else:
                self._move(numbers, final)
        return b""

    def _write(self, text: bytes, out: list[Line | Block]) -> None:
        row = self._rows[self._at]
        row.write(text)
        if row.states > 1 and self._at and not self._hidden:
            self._leave(self._at, out)  # redrawn in place: the rows above have been left behind
        while len(row.state) > self._max_line:
            end = whole_characters(row.state, self._max_line) or self._max_line
            out.append(Line(bytes(row.state[:end]), True, False, 0))
            del row.state[:end]

    def _line_feed(self, out: list[Line | Block]) -> None:
        row = self._rows[self._at]
        if not row.bar and not row.blank and not self._hidden:  # an ordinary line
            self._leave(self._at + 1, out)
            self._at = 0
        else:
            certain = row.bar and not self._at and self._forget_older_states(row.label)
            self._at += 1
            if certain:
                self._leave(1, out)
        self._rows_to(self._at, out)
        row = self._rows[self._at]
        row.arrived, row.returned, row.states = True, False, 0
        self._drop_blank(out)

    def _rows_to(self, at: int, out: list[Line | Block]) -> None:
        while len(self._rows) <= at:
            taken = {row.number for row in self._rows}
            self._rows.append(_Row(next(number for number in range(len(taken) + 1) if number not in taken)))
        if len(self._rows) > _MAX_ROWS:
            self._leave(len(self._rows) - _MAX_ROWS, out)

    def _move(self, numbers: bytes, final: bytes) -> None:
        row = self._rows[self._at]
        number = int(numbers[:3]) if numbers.isdigit() else 0
        if final in b"AF":
            self._go_up(max(1, number))
            self._rows[self._at].returned |= final == b"F"
        elif final in b"BE":
            self._at = min(self._at + max(1, number), len(self._rows) - 1)
        elif final == b"G" and number <= 1:
            row.returned = True
        elif final == b"K" and (number == 2 or (number == 0 and row.returned)):
            row.state.clear()
        elif final == b"J" and number == 0:
            for below in self._rows[self._at + (0 if row.returned else 1) :]:
                below.state.clear()
        elif numbers == b"?25" and final in b"hl":
            self._hidden = final == b"l"

    def _go_up(self, number: int) -> None:
        self._at = max(0, self._at - number)
        self._went_up = True
        for row in self._rows:
            row.bar = row.bar or not row.blank
            row.states = 0

    def _land(self, out: list[Line | Block]) -> None:
        """Leave behind the rows above the place to which the cursor moved up."""
        if self._went_up:
            self._went_up = False
            self._leave(self._at, out)

    def _leave(self, count: int, out: list[Line | Block]) -> None:
        """Turn the first `count` rows into lines."""
        rows = self._rows[:count]
        del self._rows[:count]
        self._at = max(0, self._at - count)
        for row in rows:
            state = bytes(row.state)
            if row.blank and (row.bar or row.shown):
                self._erase([row], out)
            else:
                out.append(Line(state, True, False, len(state) if state == row.shown else 0, row.number if row.shown else None))

    def _erase(self, rows: Sequence[_Row], out: list[Line | Block]) -> None:
        out += [Line(b"", False, True, 0, row.number) for row in rows if row.shown]

    def _drop_blank(self, out: list[Line | Block]) -> None:
        """Return to plain framing if all rows are blank and the cursor is in the first one."""
        if not self._hidden and not self._at and all(row.blank for row in self._rows):
            self._erase(self._rows, out)
            self._rows = []

    def _forget_older_states(self, label: bytes | None = None) -> bool:
        """Clear the rows below that hold older states of a bar, found by its label; return whether there were any."""
        # tqdm draws the end of a bar in the first row, and leaves the state before where it was.
        found = False
        labels = {label} if label is not None else {row.label for row in self._rows[: self._at + 1]}
        for row in self._rows[self._at + 1 :]:
            if row.bar and row.label and row.label in labels:
                row.state.clear()
                found = True
        return found

    @property
    def _unsettled(self) -> bool:
        if self._rows:
            return self._at > 0 and not self._hidden and not all(row.blank for row in self._rows[: self._at])
        return bool(self._held) and (self._framer.redrawn or bool(self._held.strip(b"\n")))

    def _settle(self, now: float, out: list[Line | Block]) -> None:
        """Assume that the cursor does not return."""
        self._settles = None
        if not self._unsettled:
            return
        if self._rows:
            count = self._at
            while count and self._rows[count - 1].blank:
                count -= 1
            self._leave(count, out)
            self._drop_blank(out)
        else:
            held, self._held = self._held, b""
            out += self._marked(self._framer.feed(held, now))

    def _show_rows(self, now: float, out: list[Line | Block]) -> None:
        """Show all changed rows together, at most once in `LIVE` seconds."""
        self._live = None
        changed = []
        for row in self._rows:
            state = b"" if row.blank else bytes(row.state[: whole_characters(row.state, len(row.state))])
            if state != row.shown and (row.bar or row.shown or self._hidden):
                changed.append((row, state))
        if changed and now < self._next_live:
            self._live = self._next_live
        elif changed:
            self._next_live = now + LIVE
            for row, state in changed:
                row.shown = state
                out.append(Line(state, False, True, 0, row.number))


def _beginning(data: bytes) -> int:
    """Return where the cursor first moves up, or is hidden by a program that will move it; otherwise -1."""
    if b"\x1b" not in data:
        return -1
    up = _MOVE_UP.search(data)
    found = [at for each in _BEGINNINGS if (at := data.find(each)) >= 0]
    return min(found + ([up.start()] if up is not None else []), default=-1)


def _start_of_rows(data: bytes, begins: int) -> int:
    """Return where the lines begin to which a cursor that moves up at `begins` may return, with the bars before them."""
    climb = _CLIMB.match(data, begins)
    count = sum(int(up[1] or 1) if up[1] is not None else 1 for up in _UP.finditer(climb[0])) if climb else 0
    start = data.rfind(b"\n", 0, begins) + 1
    while start:
        before = data.rfind(b"\n", 0, start - 1) + 1
        line = data[before : start - 1].rstrip(b"\r")
        if count <= 0 and line and b"\r" not in line:
            break
        start = before
        count -= 1
    return start


def _singly(lines: Sequence[Line | Block]) -> list[Line]:
    return [line for each in lines for line in ([each] if isinstance(each, Line) else each.lines())]
