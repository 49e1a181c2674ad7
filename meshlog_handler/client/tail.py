"""Tail: the last lines and records of a worker, packed. Ten thousand workers have one each, and few are ever read."""

from __future__ import annotations

import io
import marshal
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ..grouping.sizes import size_of
from ..protocol.decode import Item
from .exit_reports import MAX_ITEM, abridged

TAIL: Final = 20
_VERSION: Final = 2
"""Of the format of `marshal`: later versions look for objects that occur twice, which takes longer than to write them."""

_Part = tuple[list[Any], bytes]
"""Entries, and the times and values of those that are templates, packed. The other entries are items as they are."""


class Tail:
    """The latest items, for exit reports. Client thread only."""

    __slots__ = ("_newer", "_older")

    def __init__(self) -> None:
        self._older: _Part | None = None  # None: `_newer` has enough
        self._newer: _Part = [], b""

    def add(self, items: Sequence[Item]) -> None:
        """Keep the latest items."""
        kept = items[-TAIL:]
        entries, data = self._newer
        if len(entries) >= TAIL and kept:
            self._older = self._newer
            entries, data = [], b""
        packed = _packed(kept)
        if packed is None:
            entries += map(abridged, kept)
        else:
            entries += [template for _, template, _ in kept]
            data += packed
        self._newer = entries, data
        if len(entries) >= TAIL:
            self._older = None

    def __iter__(self) -> Iterator[Item]:
        items = [item for part in (self._older, self._newer) if part is not None for item in _unpacked(part)]
        return iter(items[-TAIL:])


def _packed(items: Sequence[Item]) -> bytes | None:
    """Return the times and values of items; None if one is large, or has other values than plain data."""
    for template in {template for _, template, _ in items}:
        if template is None or size_of(template.base.get("msg")) > MAX_ITEM:
            return None
    packed = b""
    try:
        for when, _, values in items:
            packed += marshal.dumps((when, values), _VERSION)
            if len(packed) > MAX_ITEM:
                return None
    except ValueError:  # the state of a progress bar, for example
        return None
    return packed


def _unpacked(part: _Part) -> Iterator[Item]:
    entries, data = part
    file = io.BytesIO(data)
    for entry in entries:
        if isinstance(entry, tuple):
            yield entry
        else:
            when, values = marshal.load(file)
            yield when, entry, values
