"""Copies of values as plain data: what cannot cross between processes becomes text, and everything around it stays as it is.

Runs in the logging call, on values of the program's: nothing here raises an `Exception`. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

from .codec import MAX_DEPTH, MAX_INT, Text

SCALARS: Final = frozenset((str, int, float, bool, bytes, type(None), Text))

# Room for what a value stands in when it is written: the record, its arguments or attributes, or a digest of many.
_MAX_LEVELS: Final = MAX_DEPTH - 6
_MAX_CONTAINERS: Final = 1 << 20

# Each takes a value of a subclass, and returns it without what the subclass adds. No method of the subclass runs.
_BARE: Final[tuple[tuple[type, Callable[[Any], object]], ...]] = (
    (str, str.__str__),
    (int, int.__pos__),
    (float, float.__pos__),
    (bytes, lambda value: b"".join((value,))),
)


def _are_scalars(items: Any) -> bool:
    """Tell whether each is copied as it is."""
    if not SCALARS.issuperset([type(item) for item in items]):
        return False
    numbers: list[Any] = [item for item in items if type(item) is int]
    return not numbers or (min(numbers) >= -MAX_INT and max(numbers) < MAX_INT)


class Copier:
    """Copies values.

    Attributes
    ----------
    exact : bool
        Whether the copies so far equal their originals, types included.
    """

    __slots__ = ("_left", "exact")

    def __init__(self) -> None:
        self.exact = True
        self._left = _MAX_CONTAINERS

    def copy(self, value: object) -> object:
        """Return a copy of a value.

        Lists, tuples and dicts keep their shape. A value of a subclass of a plain type becomes that type's. All else
        becomes its text, in a container with its `repr`, and so does what nests too deep; a container inside itself becomes
        ``[...]`` or the like.
        """
        return self._copy(value, ())

    def _copy(self, value: Any, parents: tuple[int, ...]) -> object:
        kind = type(value)  # not __class__, which a proxy or a mock may make up
        if kind in SCALARS:
            if kind is not int or -MAX_INT <= value < MAX_INT:
                return value
            self.exact = False
            return text_of(value)
        if kind is dict or kind is list or kind is tuple:
            return self._container(value, kind, parents)
        self.exact = False
        for base in (dict, list, tuple):
            if issubclass(kind, base):
                return self._container(value, base, parents)
        return _leaf(value, within=bool(parents))

    def _container(self, value: Any, base: type, parents: tuple[int, ...]) -> object:
        if id(value) in parents:
            self.exact = False
            return "{...}" if base is dict else "[...]" if base is list else "(...)"
        self._left -= 1
        if self._left < 0:  # a few containers that hold each other many times over would never come to an end
            self.exact = False
            return "..."
        if len(parents) >= _MAX_LEVELS:
            self.exact = False
            return text_of(value)
        inner = (*parents, id(value))
        try:
            if base is not dict and type(value) is base and _are_scalars(value):
                return base(value)
            if base is dict:
                pairs = tuple(value.items())  # not dict's own: an OrderedDict has an order of its own
                return {self._key(key, inner): self._copy(item, inner) for key, item in pairs}
            items = map(self._copy, tuple(value), itertools.repeat(inner))
            return list(items) if base is list else tuple(items)
        except Exception:  # a subclass that cannot tell what it holds
            self.exact = False
            return text_of(value)

    def _key(self, key: object, parents: tuple[int, ...]) -> object:
        if type(key) in SCALARS and type(key) is not int:
            return key
        copied = self._copy(key, parents)
        try:
            hash(copied)
        except TypeError:  # a list that had a hash of its own
            return text_of(key)
        return copied


def _leaf(value: object, *, within: bool) -> object:
    for base, bare in _BARE:
        if issubclass(type(value), base):
            found = bare(value)
            return text_of(found) if type(found) is int and not -MAX_INT <= found < MAX_INT else found
    text = text_of(value)
    if not within:
        return text
    try:
        shown = str.__str__(repr(value))
    except Exception:  # its text says so
        return text
    return text if shown == repr(text) else Text(text, shown)


def plain(value: object) -> object:
    """Return a copy of a value as plain data."""
    return value if type(value) in SCALARS else Copier().copy(value)


def exact_text(value: object) -> str:
    """Return a text without what a subclass adds to it; of anything else, its text."""
    return str.__str__(value) if issubclass(type(value), str) else text_of(value)


def text_of(value: object) -> str:
    """Return ``str(value)``, or words that say why there is none."""
    try:
        return str.__str__(str(value))
    except Exception as failure:
        return f"<{type(value).__qualname__} object: its __str__ raised {type(failure).__name__}>"
