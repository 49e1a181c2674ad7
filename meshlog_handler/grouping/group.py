"""One group of similar lines, and the scope within which texts are compared. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import islice
from logging import LogRecord
from typing import Any, Final

from ..protocol.ranks import format_ranks
from ..protocol.record import MeshRecord, info_of
from .arguments import MAX_SAMPLES, Arguments
from .similarity import TokenizedLine, distance, distance_limit, mask_digits, tokenize_line, tokenize_unless_wordless
from .sizes import size_of, within
from .texts import TextRun, Texts

_RUN_COST: Final = 4096
# Longer texts are similar only if their shapes are equal: computing their distance would take tens of milliseconds.
MAX_COMPARED: Final = 4096
_MAX_PROFILES: Final = 256
_LONG_SPAN: Final = 30.0
_MAX_SPAN: Final = 1e9
_MAX_DISTANCES: Final = 16


class Scope:
    """The groups of texts that may be similar to each other, and indexes to find these groups faster."""

    __slots__ = ("_profiles", "key", "runs", "shapes")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.runs: dict[bytes, tuple[TextRun, Group]] = {}  # by digit mask: the run of further texts, and its group
        self.shapes: dict[str, Group] = {}  # all known shapes
        self._profiles: dict[int, dict[str, int]] = {}  # of the shapes that opened a group, by their length

    def open(self, group: Group, shape: str, bits: int | None) -> None:
        """Add a group that opens with this shape and profile. Without a profile, no other shape is similar to it."""
        group.shapes.append(shape)
        self.shapes[shape] = group
        if bits is None:
            return
        self._profiles.setdefault(len(shape), {})[shape] = bits

    def close(self, shape: str) -> None:
        """Remove the group that opened with this shape."""
        del self.shapes[shape]
        profiles = self._profiles.get(len(shape), {})
        if profiles.pop(shape, None) is not None and not profiles:
            del self._profiles[len(shape)]

    def nearest(self, shape: str, bits: int) -> Group | None:
        """Return a group whose first shape is similar; of several, one with most characters in common.

        `shape` is not longer than `MAX_COMPARED`. The work is bounded: only about 300 shapes, the nearest in length, are
        examined, and the distance is computed for at most 16 of them.
        """
        length = len(shape)
        rivals: list[tuple[int, int, str]] = []
        looked = 0
        sizes = range(length - distance_limit(length), length * 100 // 85 + 1)
        for size in sorted(sizes, key=lambda size: abs(size - length)):
            profiles = self._profiles.get(size)
            if profiles is None:
                continue
            limit = distance_limit(max(length, size))
            most = 2 * limit - abs(length - size)
            rivals += [
                (differ, limit, rival) for rival, theirs in profiles.items() if (differ := (bits ^ theirs).bit_count()) <= most
            ]
            looked += len(profiles)
            if looked > _MAX_PROFILES:
                break
        rivals.sort()
        affordable = max(1, min(_MAX_DISTANCES, 4 * MAX_COMPARED // (length + 1)))
        for _, limit, rival in rivals[:affordable]:
            if distance(shape, rival, limit) <= limit:
                return self.shapes[rival]
        return None


class Group:
    """Similar lines of one window: their number, their ranks and their merged text."""

    __slots__ = (
        "_first",
        "_texts",
        "arguments",
        "count",
        "key",
        "learned",
        "masks",
        "opened",
        "ranks",
        "record",
        "scope",
        "shapes",
        "size",
        "until",
    )

    def __init__(self, key: Hashable, opened: float, scope: Scope | None) -> None:
        self.key = key
        self.opened = opened  # seconds
        self.scope = scope or Scope(None)
        self.count = 0  # lines that are counted here and not yet shown
        self.until = 0.0  # when the last of these lines was logged, in seconds since the epoch
        self.ranks: set[int | None] = set()  # of these lines
        self.record: LogRecord | None = None  # of the first of these lines
        self.arguments: Arguments | None = None  # None while no line is counted, and if texts are merged
        self.shapes: list[str] = []  # keys of this group in the scope
        self.masks: list[bytes] = []  # keys of its runs in the scope
        self.learned = 0  # bytes, approximately, of shapes and runs that only save time
        self.size = 0  # bytes, approximately; see `weigh`
        self._first = size_of(key)
        self._texts = Texts()

    def weigh(self) -> int:
        """Set `size` to about the bytes that the group takes, without `learned`; return the increase."""
        before = self.size
        self.size = self._first + self._texts.size + (self.arguments.size if self.arguments is not None else 0)
        return self.size - before

    def begin(self, record: LogRecord, args: tuple[object, ...] | None, text: str) -> bool:
        """Take the first line that is counted; return False if the caller must pass its text to `add_text`."""
        self.record = record
        self._first += size_of(record.__dict__) + size_of(info_of(record).raw)
        if args is not None:
            self.arguments = Arguments.of(record.msg, args, text)
        return self.arguments is not None

    def add_text(self, text: str, tokens: TokenizedLine | None) -> int:
        """Merge the text of a line; return the increase of `learned`."""
        key = mask_digits(text)
        known = self.scope.runs.get(key)
        if known is not None:
            known[0].add(text)
            return 0
        if tokens is None:
            by_template = self.scope.key is None  # texts of one template belong together, even without words
            tokens = tokenize_line(text) if by_template else tokenize_unless_wordless(text)
        shaped = self._texts.add(tokens)
        # The digit mask of a text with an id seldom recurs. Wordless texts with equal masks are not similar.
        if shaped is None or tokens.has_names or tokens.wordless:
            return 0
        self.scope.runs[key] = self._texts.run(shaped, tokens, text), self
        self.masks.append(key)
        self.learned += len(key) + _RUN_COST
        return len(key) + _RUN_COST

    def alias(self, shape: str) -> int:
        """Add a further shape that is similar; return the increase of `learned`."""
        self.scope.shapes[shape] = self
        self.shapes.append(shape)
        self.learned += len(shape)
        return len(shape)

    def forget(self) -> int:
        """Discard everything that only saves time; return the value of `learned` before."""
        for key in self.masks:
            del self.scope.runs[key]
        for shape in self.shapes[1:]:
            del self.scope.shapes[shape]
        self.masks.clear()
        del self.shapes[1:]
        self._texts.settle()
        learned, self.learned = self.learned, 0
        return learned

    def result(self, *, digest: bool = False) -> LogRecord | None:
        """Return the record that shows the group, or None if it counts no line. Call it once, at the end.

        With `digest`, the `MeshInfo` of the record carries a message template and samples of the arguments, or None and
        samples of the text. Another aggregator merges them.
        """
        record = self.record
        if record is None or self.count == 1:
            return record
        content: tuple[str | None, list[Any]] | None = None
        if digest and self.arguments is None:
            content = (None, within(islice(self._texts.samples(), self.count), MAX_SAMPLES))
        elif digest and self.arguments is not None:
            content = (record.msg, within(islice(self.arguments.samples(), self.count), MAX_SAMPLES))
        text = self._texts.render() if self.arguments is None else self.arguments.render()
        ranks = tuple(sorted(rank for rank in self.ranks if rank is not None))
        where = f"[{format_ranks(ranks)}] " if ranks else ""
        span = self.until - record.created
        span = span if 0 < span < _MAX_SPAN else 0.0
        took = f" in {span:.0f} s" if span >= _LONG_SPAN else ""
        msg = f"[{self.count} similar log lines{took}] {where}{text}"
        grouped = {"count": self.count, "ranks": ranks, "span_sec": span}
        info = info_of(record).but(**grouped, digest=content, texts=None)
        return MeshRecord.of({**grouped, **record.__dict__, "msg": msg, "args": ()}, info)
