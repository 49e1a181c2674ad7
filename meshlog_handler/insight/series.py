"""A series: similar records or lines of one rank, with the numbers in a few of them. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ..grouping.similarity import number_value, tokenize_line
from ..protocol.record import mask_conversions

Numbers = tuple["float | None", ...]

MAX_SAMPLES: Final = 4
_MAX_TEXT: Final = 512

# A progress bar of tqdm: "Epoch 3:  45%|####   | 45/100 [00:10<00:12,  4.5it/s]", with its count scaled or not.
_BAR: Final = re.compile(r"([^|]*?)\d+%\|[^|]*\|\s*([\d.]+)([kMGT]?)/([\d.]+)([kMGT]?)")
_SCALES: Final = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_DRAWN: Final = re.compile("[\u2500-\u259f]+")
_NAMED: Final = re.compile(r"[^\W\d]\w*")
_EPOCH_SEC: Final = 1e9
_CLOCK_SEC: Final = 1e6
_LAST_SEC: Final = 1e11


class Sample(NamedTuple):
    """One record or line: the time in its process, in seconds since the epoch, its numbers, and its text."""

    time: float
    numbers: Numbers
    text: str


class Series(NamedTuple):
    """How many there were, the first one, and the latest ones with some time between them. Sorted by time."""

    total: int
    samples: tuple[Sample, ...]

    @property
    def newest(self) -> Sample:
        """The latest one."""
        return self.samples[-1]

    def merged(self, other: Series) -> Series:
        """Return both together. Associative and commutative."""
        return Series(self.total + other.total, chosen((*self.samples, *other.samples)))


def chosen(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Return the first and the latest samples."""
    ordered = sorted(
        {(sample.time, sample.text): sample for sample in samples}.values(), key=lambda each: (each.time, each.text)
    )
    return tuple(ordered if len(ordered) <= MAX_SAMPLES else [ordered[0], *ordered[1 - MAX_SAMPLES :]])


def valid_time(when: float) -> float:
    """Return a time in seconds since the epoch, or 0 if no calendar has it: a peer may send any number."""
    return when if 0.0 <= when < _LAST_SEC else 0.0


def short(text: str) -> str:
    """Return the beginning of a text, as it is kept."""
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT]


def measure_call(msg: object, args: object, text: str, when: float) -> tuple[str, Sample]:
    """Return the shape and the sample of a record, by its message template and arguments where these say more than the text."""
    if type(msg) is str and isinstance(args, tuple) and args:
        shape = mask_conversions(msg)
        if shape.count("#") == len(args):
            return shape, Sample(when, tuple(map(_number, args)), short(text))
    return measure_text(text, when)


def measure_text(text: str, when: float) -> tuple[str, Sample]:
    """Return the shape and the sample of a text. Numbers that are a date or the time of day are None."""
    text = short(text)
    bar = _BAR.match(text)
    if bar is not None:
        label, done, scale, total, total_scale = bar.groups()
        numbers = (_scaled(done, scale), _scaled(total, total_scale))
        return f"{tokenize_line(label).shape.strip() or 'bar:'} #/#", Sample(when, numbers, text)
    line = tokenize_line(_DRAWN.sub("", text))
    values = tuple(_value(token.text, when) if token.is_number else None for token in line.tokens)
    return line.shape, Sample(when, values, text)


def _scaled(digits: str, scale: str) -> float | None:
    try:
        return float(digits) * _SCALES[scale]
    except ValueError:  # several points
        return None


def _number(value: Any) -> float | None:
    if type(value) not in (int, float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _value(text: str, when: float) -> float | None:
    if ":" in text or (len(text) == 10 and text[4] == text[7] == "-"):
        return None
    try:
        value = float(number_value(text))
    except (ValueError, OverflowError):
        return None
    is_clock = value > _EPOCH_SEC and abs(value - when) < _CLOCK_SEC
    return None if is_clock or not math.isfinite(value) else value


def label_of(shape: str, place: int) -> str:
    """Return the name of a number in a shape: the word before it, or after it, or the whole shape."""
    pieces = shape.split("#")
    if shape.endswith(" #/#"):
        return shape.removesuffix(" #/#").rstrip(": ") or shape
    for piece, at in (("".join(pieces[place : place + 1]), -1), ("".join(pieces[place + 1 : place + 2]), 0)):
        words = _NAMED.findall(piece)
        if words:
            return str(words[at])
    return shape


def finest(progress: Mapping[str, float]) -> dict[str, float]:
    """Return the latest numbers without those that the label of another one has: "epoch 2 step" 9 also says "epoch" 2."""
    return {
        label: value
        for label, value in progress.items()
        if not any(other.startswith(f"{label} {value:g} ") for other in progress)
    }
