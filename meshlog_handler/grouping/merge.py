"""Merges similar texts into one that shows the differences: numbers as ``0.25..0.31``, words as ``{a, b, ...}``. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import Final, TypeVar

from .similarity import Token, TokenizedLine, number_value, tokenize_line

T = TypeVar("T")

MAX_WORDS: Final = 3
_SLOT_SIZE: Final = 500
_MAX_WORD_LENGTH: Final = 80
_COLOUR = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_OPENING = re.compile(r".*[=:(\[]", re.DOTALL)
_CLOSING = re.compile(r"[,.;:!?)\]]+")
_WORD_BREAK = re.compile(r"(?<! ) ")


def braces(texts: Sequence[str], more: bool) -> str:
    """Return alternatives as ``{a, b}``, with ``...`` if there were more. A single text is returned unchanged."""
    if len(texts) == 1 and not more:
        return texts[0]
    most = _MAX_WORD_LENGTH
    parts = [text if len(text) <= most else text[: most - 3] + "..." for text in texts]
    if more:
        parts.append("...")
    return "{" + ", ".join(parts) + "}"


def join(pieces: Iterable[str], values: Iterable[str]) -> str:
    """Return the text with a value between each two pieces."""
    return "".join(chain.from_iterable(zip_longest(pieces, values, fillvalue="")))


def rows_of(columns: Sequence[Sequence[T]]) -> Iterator[tuple[T, ...]]:
    """Yield rows that contain every item of every column; a shorter column repeats its last item."""
    count = max(map(len, columns), default=1)
    return (tuple(column[min(at, len(column) - 1)] for column in columns) for at in range(count))


class Slot:
    """The values at one place of texts of one shape: the least and greatest number, as written, and up to 3 names."""

    # A fourth name is kept, too. It stands for all further names, here and where the samples are merged.

    __slots__ = ("_high", "_low", "_names", "high_text", "low_text")

    def __init__(self) -> None:
        self._low = self._high = 0.0
        self.low_text: str | None = None
        self.high_text: str | None = None
        self._names: dict[str, None] = {}

    def add(self, text: str, is_number: bool) -> None:
        if not is_number:
            if len(self._names) <= MAX_WORDS:
                self._names[text] = None
        elif text != self.low_text and text != self.high_text:
            value = number_value(text)
            if self.low_text is None or value < self._low:
                self._low, self.low_text = value, text
            if self.high_text is None or value > self._high:
                self._high, self.high_text = value, text

    def merge(self, other: Slot) -> None:
        for text in (other.low_text, other.high_text):
            if text is not None:
                self.add(text, True)
        for text in other._names:
            self.add(text, False)

    def render(self) -> str:
        texts = list(self._names)[:MAX_WORDS]
        if self.low_text is not None:
            same = self.low_text == self.high_text
            texts.insert(0, self.low_text if same else f"{self.low_text}..{self.high_text}")
        return braces(texts, len(self._names) > MAX_WORDS)

    def samples(self) -> list[str]:
        """Return texts that make an equal slot when they are added to an empty slot."""
        extremes = [text for text in (self.low_text, self.high_text) if text is not None]
        return [*dict.fromkeys(extremes), *self._names]


class Shaped:
    """Texts of one shape: the fixed pieces of the first text, and the slots between them."""

    __slots__ = ("pieces", "shape", "size", "slots", "widths")

    def __init__(self, shape: str, pieces: list[str], slots: list[Slot], widths: list[int]) -> None:
        self.shape = shape
        self.pieces = pieces
        self.slots = slots
        self.widths = widths  # of the values in the first text
        self.size = 2 * len(shape) + _SLOT_SIZE * len(slots) + MAX_WORDS * sum(widths)  # bytes, approximately

    @classmethod
    def of(cls, tokens: TokenizedLine) -> Shaped:
        slots = [Slot() for _ in tokens.tokens]
        shaped = cls(tokens.shape, tokens.pieces, slots, [len(token.text) for token in tokens.tokens])
        shaped.add(tokens.tokens)
        return shaped

    def add(self, tokens: Sequence[Token]) -> None:
        for slot, token in zip(self.slots, tokens, strict=True):
            slot.add(token.text, token.is_number)

    def merge(self, other: Shaped) -> None:
        for slot, theirs in zip(self.slots, other.slots, strict=True):
            slot.merge(theirs)

    def render(self) -> str:
        parts: list[str] = []
        for piece, slot, width in zip(self.pieces, self.slots, self.widths, strict=False):
            text = slot.render()
            if piece.endswith("  "):  # a padded column: the range takes space from the padding
                bare = piece.rstrip(" ")
                piece = bare + " " * max(1, len(piece) - len(bare) - (len(text) - width))
            parts.append(piece)
            parts.append(text)
        parts.append(self.pieces[-1])
        return "".join(parts)

    def samples(self) -> Iterator[str]:
        """Yield texts that make an equal `Shaped` when they are merged."""
        return (join(self.pieces, row) for row in rows_of([slot.samples() for slot in self.slots]))

    def words(self) -> list[Choice]:
        """Split at spaces, and at the first of several spaces. The words share their slots with this text."""
        words: list[Choice] = []
        pieces: list[str] = []
        slots: list[Slot] = []
        widths: list[int] = []
        for at, piece in enumerate(self.pieces):
            first, *rest = _WORD_BREAK.split(piece)
            pieces.append(first)
            for part in rest:
                words.append(Choice(Shaped(_shape_of(pieces), pieces, slots, widths)))
                pieces, slots, widths = [part], [], []
            if at < len(self.slots):
                slots.append(self.slots[at])
                widths.append(self.widths[at])
        words.append(Choice(Shaped(_shape_of(pieces), pieces, slots, widths)))
        return words


def _shape_of(pieces: list[str]) -> str:
    return _COLOUR.sub("", "#".join(pieces)).strip(" ")


class Choice:
    """Alternatives at one place of a line: up to 3 shapes of text. A fourth is kept, too, and stands for all further shapes."""

    __slots__ = ("shapes",)

    def __init__(self, first: Shaped | None = None) -> None:
        self.shapes: dict[str, Shaped] = {} if first is None else {first.shape: first}

    @property
    def more(self) -> bool:
        """Whether there are more alternatives than are shown."""
        return len(self.shapes) > MAX_WORDS

    def add(self, text: str) -> None:
        tokens = tokenize_line(text)
        known = self.shapes.get(tokens.shape)
        if known is not None:
            known.add(tokens.tokens)
        elif len(self.shapes) <= MAX_WORDS:
            self.shapes[tokens.shape] = Shaped.of(tokens)

    def merge(self, other: Choice) -> None:
        for shape, shaped in other.shapes.items():
            known = self.shapes.get(shape)
            if known is not None:
                known.merge(shaped)
            elif len(self.shapes) <= MAX_WORDS:
                self.shapes[shape] = shaped

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        return sum(shaped.size for shaped in self.shapes.values())

    def meets(self, other: Choice) -> bool:
        return not self.shapes.keys().isdisjoint(other.shapes)

    def texts(self) -> list[str]:
        return [shaped.render() for shaped in list(self.shapes.values())[:MAX_WORDS]]

    def samples(self) -> Iterator[str]:
        """Yield texts that make an equal choice when they are added to an empty choice."""
        for shaped in self.shapes.values():
            yield from shaped.samples()

    def render(self) -> str:
        """Return the alternatives as one word. A common beginning or end is written outside of the braces: ``x={a, b},``."""
        texts = self.texts()
        if len(texts) == 1:
            return braces(texts, self.more)
        padding = len(texts[0]) - len(texts[0].lstrip(" "))
        head = padding + _common(_OPENING, [text.lstrip(" ") for text in texts])
        rests = [texts[0][head:], *(text.lstrip(" ")[head - padding :] for text in texts[1:])]
        tail = _common(_CLOSING, [rest[::-1] for rest in rests])
        rests = [rest[: len(rest) - tail] for rest in rests]
        return texts[0][:head] + braces(rests, self.more) + texts[0][len(texts[0]) - tail :]


def _common(pattern: re.Pattern[str], texts: list[str]) -> int:
    first, last = min(texts), max(texts)  # what these two begin with, all texts begin with
    size = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    match = pattern.match(first, 0, size)
    return 0 if match is None else match.end()


def fold(line: list[Choice], other: list[Choice]) -> list[Choice]:
    """Merge the words of two lines. Both arguments are consumed.

    If the numbers of words differ, the words between the matching ones at the beginning and at the end become one alternative.
    """
    if len(line) == len(other):
        for mine, theirs in zip(line, other, strict=True):
            mine.merge(theirs)
        return line
    most = min(len(line), len(other))
    head = tail = 0
    while head < most and line[head].meets(other[head]):
        head += 1
    while tail < most - head and line[-1 - tail].meets(other[-1 - tail]):
        tail += 1
    if head + tail == most:  # one alternative would be empty: include a matching word
        if head:
            head -= 1
        else:
            tail -= 1
    middle = _phrase(line[head : len(line) - tail])
    middle.merge(_phrase(other[head : len(other) - tail]))
    ends = len(line) - tail, len(other) - tail
    return [
        *fold(line[:head], other[:head]),
        middle,
        *fold(line[ends[0] :], other[ends[1] :]),
    ]


def _phrase(words: list[Choice]) -> Choice:
    if len(words) == 1:
        return words[0]
    pieces = [""]
    slots: list[Slot] = []
    widths: list[int] = []
    for at, word in enumerate(words):
        if at:
            pieces[-1] += " "
        if len(word.shapes) == 1 and not word.more:
            (shaped,) = word.shapes.values()
            pieces[-1] += shaped.pieces[0]
            pieces += shaped.pieces[1:]
            slots += shaped.slots
            widths += shaped.widths
        else:
            pieces[-1] += word.render()
    return Choice(Shaped(_shape_of(pieces), pieces, slots, widths))
