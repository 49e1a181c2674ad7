"""Copy values as plain data: a value that cannot be sent becomes text, and the containers around it stay as they are.

The logging call runs this code on the program's values, so nothing here raises an `Exception`. Pure.
"""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

from .codec import MAX_DEPTH, MAX_INT, Text

SCALARS: Final = frozenset((str, int, float, bool, bytes, type(None), Text))

# Leaves room for the containers around a value: the record, its arguments or attributes, or a digest.
_MAX_LEVELS: Final = MAX_DEPTH - 6
_MAX_CONTAINERS: Final = 1 << 20
_MAX_ONCE: Final = 4
_NOT_ONCE: Final = (str, int, float, bytes, dict, list, tuple)

# Each function returns a value of a subclass as the plain type, and calls no method of the subclass.
_BARE: Final[tuple[tuple[type, Callable[[Any], object]], ...]] = (
    (str, str.__str__),
    (int, int.__pos__),
    (float, float.__pos__),
    (bytes, lambda value: b"".join((value,))),
)


def _are_scalars(items: Any) -> bool:
    """Return whether a copy has the same items."""
    if not SCALARS.issuperset([type(item) for item in items]):
        return False
    numbers: list[Any] = [item for item in items if type(item) is int]
    return not numbers or (min(numbers) >= -MAX_INT and max(numbers) < MAX_INT)


class Copier:
    """Copies values. `exact`: the copies so far equal their originals, types included."""

    __slots__ = ("_left", "exact")

    def __init__(self) -> None:
        self.exact = True
        self._left = _MAX_CONTAINERS

    def copy(self, value: object) -> object:
        """Return a copy of a value as plain data.

        Lists, tuples and dicts keep their structure. A value of a subclass of a plain type becomes one of that type. Any other
        value becomes its text; in a container, that text keeps the `repr` of the value. A value that nests too deep becomes its
        text too. A container inside itself becomes ``[...]`` or similar.
        """
        return self._copy(value, ())

    def _copy(self, value: Any, parents: tuple[int, ...]) -> object:
        kind = type(value)  # not __class__, which a proxy or a mock may fake
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
        if self._left < 0:  # copying a few containers that contain each other many times would never end
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
                pairs = tuple(value.items())  # not dict.items: an OrderedDict keeps a separate order
                return {self._key(key, inner): self._copy(item, inner) for key, item in pairs}
            items = map(self._copy, tuple(value), itertools.repeat(inner))
            return list(items) if base is list else tuple(items)
        except Exception:  # a subclass that fails to return its items
            self.exact = False
            return text_of(value)

    def _key(self, key: object, parents: tuple[int, ...]) -> object:
        if type(key) in SCALARS and type(key) is not int:
            return key
        copied = self._copy(key, parents)
        try:
            hash(copied)
        except TypeError:  # a subclass of list with its own hash
            return text_of(key)
        return copied


def _leaf(value: object, *, within: bool) -> object:
    for base, bare in _BARE:
        if issubclass(type(value), base):
            found = bare(value)
            return text_of(found) if type(found) is int and not -MAX_INT <= found < MAX_INT else found
    if type(value) is Once:
        return value.text if not within or value.text == value.shown else Text(value.text, value.shown)
    text = text_of(value)
    if not within:
        return text
    try:
        shown = str.__str__(repr(value))
    except Exception:  # the text describes the failure
        return text
    return text if shown == repr(text) else Text(text, shown)


def plain(value: object) -> object:
    """Return a copy of a value as plain data."""
    kind = type(value)
    if kind in SCALARS and (kind is not int or -MAX_INT <= value < MAX_INT):  # type: ignore[operator]  # kind is int
        return value
    return Copier().copy(value)


def exact_text(value: object) -> str:
    """Return a text of a subclass as `str`, and the text of any other value."""
    return str.__str__(value) if issubclass(type(value), str) else text_of(value)


def text_of(value: object) -> str:
    """Return ``str(value)``, or a text that describes why it failed."""
    try:
        return str.__str__(str(value))
    except Exception as failure:
        return failed_text(value, failure)


def failed_text(value: object, failure: Exception) -> str:
    """Return a text in place of that of a value whose ``__str__`` failed."""
    return f"<{type(value).__qualname__} object: its __str__ raised {type(failure).__name__}>"


class Once:
    """A value whose texts are made once, however often they are used."""

    __slots__ = ("_repr", "_str", "_value")

    def __init__(self, value: object) -> None:
        self._value = value
        self._str: str | None = None
        self._repr: str | None = None

    def __str__(self) -> str:
        if self._str is None:
            of_repr = type(self._value).__str__ is object.__str__
            self._str = repr(self) if of_repr else str.__str__(str(self._value))
        return self._str

    def __repr__(self) -> str:
        if self._repr is None:
            self._repr = str.__str__(repr(self._value))
        return self._repr

    @property
    def text(self) -> str:
        """The ``str``, or the ``repr`` if only that was made, and the ``str`` would be made by code of the program."""
        kind = type(self._value)
        own = isinstance(kind.__str__, FunctionType) and kind.__module__.partition(".")[0] not in sys.stdlib_module_names
        return self._repr if own and self._str is None and self._repr is not None else text_of(self)

    @property
    def shown(self) -> str:
        """The ``repr`` if it was made, or else the text."""
        return self.text if self._repr is None else self._repr


def once(value: Any, depth: int = _MAX_ONCE) -> Any:
    """Return the value with each object in it, or in its plain containers, as a `Once`; the same value if it has none.

    A container that contains itself stays as it is: the `repr` of a copy would differ.
    """
    try:
        return _once(value, depth, ())
    except RecursionError:
        return value


def _once(value: Any, depth: int, within: tuple[int, ...]) -> Any:
    kind = type(value)
    if kind in SCALARS:
        return value
    if id(value) in within:
        raise RecursionError("a container that contains itself")
    inner = (*within, id(value))
    if kind is tuple or kind is list:
        items = [_once(item, depth - 1, inner) for item in value] if depth else value
        return value if all(map(operator.is_, items, value)) else kind(items)
    if kind is dict:
        pairs = [(key, _once(item, depth - 1, inner)) for key, item in tuple(value.items())] if depth else ()
        return value if all(item is value.get(key) for key, item in pairs) else dict(pairs)
    return value if issubclass(kind, _NOT_ONCE) else Once(value)
