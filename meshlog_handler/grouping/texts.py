"""Merges the texts of one group: a few shapes separately, further shapes word by word. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Final

from .merge import Choice, Shaped, fold, rows_of
from .similarity import Token, TokenizedLine

_MAX_SHAPES: Final = 8
_RUN_BYTES: Final = 4096
_RUN_TEXTS: Final = 64
_WORD_SIZE: Final = 500


class Texts:
    """Merges similar texts: up to 8 shapes separately, any number of further shapes word by word."""

    __slots__ = ("_rest", "_runs", "_shapes")

    def __init__(self) -> None:
        self._shapes: dict[str, Shaped] = {}
        self._runs: list[TextRun] = []
        self._rest: list[Choice] | None = None

    def add(self, tokens: TokenizedLine) -> Shaped | None:
        """Merge a text; return the `Shaped` of its shape, or None if no more shapes are kept separately."""
        shaped = self._shapes.get(tokens.shape)
        if shaped is not None:
            shaped.add(tokens.tokens)
            return shaped
        shaped = Shaped.of(tokens)
        if len(self._shapes) < _MAX_SHAPES:
            self._shapes[tokens.shape] = shaped
            return shaped
        words = shaped.words()
        self._rest = words if self._rest is None else fold(self._rest, words)
        return None

    def run(self, shaped: Shaped, tokens: TokenizedLine, text: str) -> TextRun:
        """Return a run, which merges further texts with the digit mask of `text` faster."""
        run = TextRun(shaped, tokens.tokens, len(text))
        self._runs.append(run)
        return run

    def settle(self) -> None:
        """Merge and discard the runs. The caller must discard its references to them, too."""
        for run in self._runs:
            run.reduce()
        self._runs.clear()

    def samples(self) -> Iterator[str]:
        """Yield texts that make the same text when merged. Call it before `render`, which consumes the parts."""
        self.settle()
        for shaped in self._shapes.values():
            yield from shaped.samples()
        if self._rest is not None:
            yield from map(" ".join, rows_of([list(word.samples()) for word in self._rest]))

    @property
    def size(self) -> int:
        """The approximate size in bytes, without the runs."""
        rest = sum(word.size + _WORD_SIZE for word in self._rest) if self._rest is not None else 0
        return sum(shaped.size for shaped in self._shapes.values()) + rest

    def render(self) -> str:
        """Return the merged text. Call it once, at the end."""
        self.settle()
        if len(self._shapes) == 1 and self._rest is None:
            (only,) = self._shapes.values()
            return only.render()
        line: list[Choice] | None = None
        for shaped in self._shapes.values():
            words = shaped.words()
            line = words if line is None else fold(line, words)
        if self._rest is not None:
            line = self._rest if line is None else fold(line, self._rest)
        return " ".join(word.render() for word in line or ())


class TextRun:
    """Texts with one digit mask, collected to be merged together."""

    # The digits are at the same places, so the least and greatest spellings of a number without exponent are its extremes.

    __slots__ = ("_cuts", "_limit", "_shaped", "_texts")

    def __init__(self, shaped: Shaped, tokens: Sequence[Token], length: int) -> None:
        self._shaped = shaped
        self._cuts: list[tuple[Callable[[str], str], bool, bool]] = [
            (itemgetter(slice(token.start, token.end)), token.is_number, "e" in token.text.lower()) for token in tokens
        ]
        self._limit = max(1, min(_RUN_TEXTS, _RUN_BYTES // (length + 1)))
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        """Append a text; merge when there are enough."""
        self._texts.append(text)
        if len(self._texts) >= self._limit:
            self.reduce()

    def reduce(self) -> None:
        """Merge the collected texts."""
        texts = self._texts
        if texts and texts.count(texts[0]) == len(texts):
            del texts[1:]
        if texts:
            for slot, (cut, is_number, has_exponent) in zip(self._shaped.slots, self._cuts, strict=True):
                parts = list(map(cut, texts))
                if is_number and not has_exponent:
                    slot.add(min(parts), True)
                    slot.add(max(parts), True)
                else:
                    for part in dict.fromkeys(parts):
                        slot.add(part, is_number)
        texts.clear()
