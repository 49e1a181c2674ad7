"""Approximate sizes of plain data, by which groups limit their memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from sys import getsizeof
from typing import Final, TypeVar

T = TypeVar("T")

_OTHER: Final = 32


def size_of(value: object) -> int:
    """Return the approximate size of a value in bytes: its texts and bytes, and a constant for each other object."""
    kind = type(value)
    if kind is str or kind is bytes:
        return getsizeof(value)
    if isinstance(value, (tuple, list)):
        return sum(map(size_of, value), 64)
    if isinstance(value, dict):
        return sum(map(size_of, value.values()), sum(map(size_of, value), 64))
    return _OTHER


def within(values: Iterable[T], limit: int) -> list[T]:
    """Return the first values that together take at most `limit` bytes, but at least one value."""
    found: list[T] = []
    for value in values:
        limit -= size_of(value)
        if limit < 0 and found:
            break
        found.append(value)
    return found
