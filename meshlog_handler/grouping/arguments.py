"""Merges the message arguments of many calls, column by column, into one text that shows the differences. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from .merge import Choice, braces, join, rows_of
from .sizes import within

NUMBERS: Final = frozenset((int, float))
_MAX_PENDING: Final = 64
_PENDING_BYTES: Final = 8192
_MAX_SEEN: Final = 64
MAX_SAMPLES: Final = 1 << 20
"""Maximum bytes of samples that a group passes on; of long texts, only the first ones are passed on."""

_CONVERSION = re.compile(r"%(?:%|([-#0 +]*)(\d*)(\.\d+)?[hlL]?([diouxXeEfFgGcrsa]))")


def _format(spec: str, value: object) -> str:
    try:
        text: str = spec % (value,)
    except (TypeError, ValueError, OverflowError):
        return _plain(value)  # the conversion does not fit the value: show the plain value
    return text


def _plain(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # an integer with more digits than Python converts
        return hex(value) if isinstance(value, int) else object.__repr__(value)


class Column:
    """The values of one argument: the least and greatest number, and up to 3 other texts."""

    # The parts of the conversion are, for example, ``-``, ``8``, ``.3`` and ``f``. Padding is added after merging.

    __slots__ = ("_high", "_left", "_low", "_others", "_seen", "_spec", "_width")

    def __init__(self, flags: str, width: str, precision: str, kind: str) -> None:
        self._left = "-" in flags
        zeros = "0" in flags and not self._left
        self._width = int(width or 0)
        self._spec = f"%{flags.replace('-', '')}{width if zeros else ''}{precision}{kind}"
        self._low: float | None = None
        self._high: float | None = None
        self._others: Choice | None = None
        self._seen: set[str] = set()

    def reduce(self, values: Sequence[object]) -> None:
        """Merge values."""
        kinds = set(map(type, values))
        if kinds <= NUMBERS:
            self._reduce_numbers(values, float in kinds)  # type: ignore[arg-type]  # every one is an int or a float
            return
        for value in dict.fromkeys(values) if kinds == {str} else values:
            if type(value) in NUMBERS and value == value:
                self._range(value, value)  # type: ignore[arg-type]  # an int or a float
            elif type(value) is not str or value not in self._seen:
                self._other(value)

    def _reduce_numbers(self, values: Sequence[float], any_floats: bool) -> None:
        try:
            has_nan = any_floats and sum(values) != sum(values)
        except OverflowError:  # an int too large to add to a float
            has_nan = True
        if has_nan:
            real = [value for value in values if value == value]
            if len(real) < len(values):
                self._other(float("nan"))  # one stands for all
            values = real
        if values:
            self._range(min(values), max(values))

    def _range(self, low: float, high: float) -> None:
        if self._low is None or low < self._low:
            self._low = low
        if self._high is None or high > self._high:
            self._high = high

    def _other(self, value: object) -> None:
        if self._others is None:
            self._others = Choice()
        self._others.add(_format(self._spec, value))
        if type(value) is str and len(value) <= 256 and len(self._seen) < _MAX_SEEN:
            self._seen.add(value)

    def samples(self) -> list[object]:
        """Return values that make an equal column when they are merged; of long texts, only the first ones."""
        extremes = [value for value in (self._low, self._high) if value is not None]
        others = within(self._others.samples(), MAX_SAMPLES) if self._others is not None else ()
        return [*dict.fromkeys(extremes), *others]

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        return sum(map(len, self._seen)) + (self._others.size if self._others is not None else 0)

    def render(self) -> str:
        texts: list[str] = []
        if self._low is not None:
            low, high = _format(self._spec, self._low), _format(self._spec, self._high)
            texts.append(low if low == high else f"{low}..{high}")
        more = False
        if self._others is not None:
            texts += self._others.texts()
            more = self._others.more
        text = braces(texts, more)
        return text.ljust(self._width) if self._left else text.rjust(self._width)


class Arguments:
    """The arguments of calls with one message template. Append them to `pending`; call `reduce` when it has `limit` items."""

    __slots__ = ("_columns", "_pieces", "limit", "pending")

    def __init__(self, pieces: list[str], columns: list[Column], args: tuple[object, ...]) -> None:
        self._pieces = pieces
        self._columns = columns
        self.pending: list[tuple[object, ...]] = [args]
        self.limit = 1
        self.reduce()

    @classmethod
    def of(cls, msg: object, args: tuple[object, ...], text: str) -> Arguments | None:
        """Start with the arguments of a first call, or return None if `msg` and `args` do not make its `text`.

        The result is None for arguments in a dictionary, a width given as an argument, a style other than ``%``, and a call
        with too many arguments. The caller then merges texts.
        """
        if not isinstance(msg, str):
            return None
        pieces = [""]
        columns: list[Column] = []
        copied = 0
        for match in _CONVERSION.finditer(msg):
            pieces[-1] += msg[copied : match.start()]
            copied = match.end()
            if match[0] == "%%":
                pieces[-1] += "%"
            else:
                columns.append(Column(match[1], match[2], match[3] or "", match[4]))
                pieces.append("")
        pieces[-1] += msg[copied:]
        if len(columns) != len(args):
            return None
        arguments = cls(pieces, columns, args)
        return arguments if arguments.render() == text else None

    def reduce(self) -> None:
        """Merge the pending arguments."""
        pending, columns = self.pending, self._columns
        if not pending:
            return
        last = pending[-1]
        # A call with too few or too many arguments for the template has no valid text: it is only counted.
        if set(map(len, pending)) != {len(columns)}:
            pending = [args for args in pending if len(args) == len(columns)]
        for column, values in zip(columns, zip(*pending, strict=True), strict=False):
            column.reduce(values)
        size = sum(8 if type(value) in NUMBERS else _size(value) for value in last)
        self.limit = max(1, min(_MAX_PENDING, _PENDING_BYTES // (size + 64)))
        self.pending.clear()

    def take(self, columns: Sequence[Sequence[object]]) -> None:
        """Merge the arguments of many calls, given column by column."""
        self.reduce()  # earlier calls come first
        if len(columns) == len(self._columns):  # otherwise, as above, the calls are only counted
            for column, values in zip(self._columns, columns, strict=True):
                column.reduce(values)

    def samples(self) -> Iterator[tuple[object, ...]]:
        """Yield arguments that make the same text when merged."""
        self.reduce()
        return rows_of([column.samples() for column in self._columns])

    @property
    def size(self) -> int:
        """The approximate size in bytes, without the pending arguments."""
        return sum(column.size for column in self._columns)

    def render(self) -> str:
        """Return the merged text."""
        self.reduce()
        return join(self._pieces, [column.render() for column in self._columns])


def _size(value: object) -> int:
    return len(value) if isinstance(value, (str, bytes)) else _PENDING_BYTES // 8
