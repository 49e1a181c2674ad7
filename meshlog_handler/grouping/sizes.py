"""Roughly how much memory plain data takes: what is kept of records is bounded in bytes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from sys import getsizeof
from typing import Final, TypeVar

T = TypeVar("T")

_OTHER: Final = 32


def size_of(value: object) -> int:
    """Return about how many bytes a value takes: the texts and bytes in it, and something for all else."""
    kind = type(value)
    if kind is str or kind is bytes:
        return getsizeof(value)
    if isinstance(value, (tuple, list)):
        return sum(map(size_of, value), 64)
    if isinstance(value, dict):
        return sum(map(size_of, value.values()), sum(map(size_of, value), 64))
    return _OTHER


def within(values: Iterable[T], limit: int) -> list[T]:
    """Return the first values that together take no more than `limit` bytes, and at least one."""
    found: list[T] = []
    for value in values:
        limit -= size_of(value)
        if limit < 0 and found:
            break
        found.append(value)
    return found
