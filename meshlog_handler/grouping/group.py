"""One group of similar lines, and the scope within which texts may be similar. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import islice
from logging import LogRecord
from typing import Any, Final

from ..protocol.ranks import format_ranks
from ..protocol.record import MeshRecord, info_of
from .arguments import MAX_SAMPLES, Arguments
from .similarity import TokenizedLine, distance, distance_limit, mask_digits, tokenize_line, tokenize_outer
from .sizes import size_of, within
from .texts import TextRun, Texts

_RUN_COST: Final = 4096
# Longer texts are similar only when their shapes are equal: their distance would cost tens of milliseconds.
MAX_COMPARED: Final = 4096
_MAX_PROFILES: Final = 256
_MAX_DISTANCES: Final = 16


class Scope:
    """The texts that may be similar to each other: groups by shape, and what was learned to find them faster.

    Attributes
    ----------
    runs : dict
        By skeleton: what takes in a text of that skeleton, and its group.
    shapes : dict
        The group of each known shape.
    """

    __slots__ = ("_profiles", "key", "runs", "shapes")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.runs: dict[bytes, tuple[TextRun, Group]] = {}
        self.shapes: dict[str, Group] = {}
        self._profiles: dict[int, dict[str, int]] = {}  # of the shapes that began a group, by their length

    def open(self, group: Group, shape: str, bits: int | None) -> None:
        """Note a group that begins with a text of this shape and profile; without a profile, no other shape is similar."""
        group.shapes.append(shape)
        self.shapes[shape] = group
        if bits is None:
            return
        self._profiles.setdefault(len(shape), {})[shape] = bits

    def close(self, shape: str) -> None:
        """Forget the group that began with this shape."""
        del self.shapes[shape]
        profiles = self._profiles.get(len(shape), {})
        if profiles.pop(shape, None) is not None and not profiles:
            del self._profiles[len(shape)]

    def nearest(self, shape: str, bits: int) -> Group | None:
        """Return a group whose first shape is similar; of many, one with most characters in common.

        `shape` is not longer than `MAX_COMPARED`.

        The work is bounded: of many shapes only the some 300 nearest in length are looked at, and of these the
        distance is computed for 16 at most.
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
    """Similar lines of one window: how many, whose, and what they will say.

    Attributes
    ----------
    opened : float
        When its window began (seconds).
    count : int
        Lines that are counted here and have not been shown.
    ranks : set
        Where they came from.
    record : LogRecord or None
        That of the first of them.
    arguments : Arguments or None
        What merges their message arguments; None where their texts are merged, and while nothing is counted.
    shapes, skeletons : list
        What the scope knows of the group.
    size : int
        About how many bytes it takes; see `weigh`.
    """

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
    )

    def __init__(self, key: Hashable, opened: float, scope: Scope | None) -> None:
        self.key = key
        self.opened = opened
        self.scope = scope or Scope(None)
        self.count = 0
        self.ranks: set[int | None] = set()
        self.record: LogRecord | None = None
        self.arguments: Arguments | None = None
        self.shapes: list[str] = []
        self.masks: list[bytes] = []
        self.learned = 0
        self.size = 0
        self._first = size_of(key)
        self._texts = Texts()

    def weigh(self) -> int:
        """Set `size` to about how many bytes the group takes, without what was learned; return what it grew by."""
        before = self.size
        self.size = self._first + self._texts.size + (self.arguments.size if self.arguments is not None else 0)
        return self.size - before

    def begin(self, record: LogRecord, args: tuple[object, ...] | None, text: str) -> bool:
        """Take the first line that is counted; False if its text is still to be given to `add_text`."""
        self.record = record
        self._first += size_of(record.__dict__) + size_of(info_of(record).raw)
        if args is not None:
            self.arguments = Arguments.of(record.msg, args, text)
        return self.arguments is not None

    def add_text(self, text: str, tokens_of_text: TokenizedLine | None) -> int:
        """Merge the text of a line; return what was learned by it, roughly in bytes."""
        key = mask_digits(text)
        known = self.scope.runs.get(key)
        if known is not None:
            known[0].add(text)
            return 0
        if tokens_of_text is None:
            by_template = self.scope.key is None  # whatever the texts are, they belong together
            tokens_of_text = tokenize_line(text) if by_template else tokenize_outer(text)
        shaped = self._texts.add(tokens_of_text)
        # A text with an id in it has a skeleton that hardly comes again; one without a word is not like others of its skeleton.
        if shaped is None or tokens_of_text.has_names or tokens_of_text.wordless:
            return 0
        self.scope.runs[key] = self._texts.run(shaped, tokens_of_text, text), self
        self.masks.append(key)
        self.learned += len(key) + _RUN_COST
        return len(key) + _RUN_COST

    def alias(self, shape: str) -> int:
        """Know a further shape as similar; return what was learned by it, roughly in bytes."""
        self.scope.shapes[shape] = self
        self.shapes.append(shape)
        self.learned += len(shape)
        return len(shape)

    def forget(self) -> int:
        """Give up all that was learned only to be faster; return how much that was."""
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
        """Return the record that shows the group, or None if nothing is counted. Call it once, at the end.

        With `digest` it carries, in its `MeshInfo`, what lets others merge it on: the message template, or None, and
        samples of its arguments, or of the text.
        """
        record = self.record
        if record is None or self.count == 1:
            return record
        told: tuple[str | None, list[Any]] | None = None
        if digest and self.arguments is None:
            told = (None, within(islice(self._texts.samples(), self.count), MAX_SAMPLES))
        elif digest and self.arguments is not None:
            told = (record.msg, within(islice(self.arguments.samples(), self.count), MAX_SAMPLES))
        text = self._texts.render() if self.arguments is None else self.arguments.render()
        ranks = tuple(sorted(rank for rank in self.ranks if rank is not None))
        where = f"[{format_ranks(ranks)}] " if ranks else ""
        msg = f"[{self.count} similar log lines] {where}{text}"
        info = info_of(record).but(count=self.count, ranks=ranks, digest=told, texts=None)
        return MeshRecord.of({"count": self.count, "ranks": ranks, **record.__dict__, "msg": msg, "args": ()}, info)
