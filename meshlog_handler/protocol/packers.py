"""Packers: each packs the values of the records of one schema by one call of `struct`.

The logging call runs this code. A value that a schema cannot hold raises an `Exception`: the caller then encodes the record in
another way.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from struct import Struct
from types import MethodDescriptorType, WrapperDescriptorType
from typing import Any, Final

from .codec import NotPlain, pack
from .entries import HEADER, MAX_ENTRY, RECORD
from .plain import SCALARS, failed_text

Packer = Callable[..., bytes]

Texts = Mapping[int, str]
"""The texts of the program's objects, by the index of the value. The code of an object makes its text only once."""


class NotPacked(Exception):
    """A schema cannot hold a record. `texts` are those that the objects have already made."""

    def __init__(self, texts: Texts) -> None:
        super().__init__()
        self.texts = texts


PLAIN_CODES: Final[Mapping[type, str]] = {int: "q", float: "d", bool: "?", str: "s"}
_CODES: Final[Mapping[type, str]] = {
    **PLAIN_CODES,
    type(None): "n",
    bytes: "b",
    list: "p",
    tuple: "p",
    dict: "p",
}
OBJECT: Final = "o"
"""The code of an object of the program, here only: the other side gets its text, as code ``s``."""

_NOT_OBJECTS: Final = (str, int, float, bytes, dict, list, tuple)
_SIZES: Final = str.maketrans("sbpon", "IIII?")
_CONVERSION: Final = re.compile(r"%(?:%|[-#0 +]*\d*(?:\.\d+)?[hlL]?([diouxXeEfFgGcrsa]))")
_NUMBERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    **dict.fromkeys("eEfFgG", ("d", ("__float__",))),
    **dict.fromkeys("diu", ("q", ("__int__", "__index__"))),
}
_IN_C: Final = (WrapperDescriptorType, MethodDescriptorType)
_TO_NUMBER: Final[Mapping[str, Callable[[Any], object]]] = {"d": float, "q": operator.index}
_FORMATTED: Final[Mapping[str, str]] = {OBJECT: "s", "q": "diouxXeEfFgGsra", "?": "diouxXeEfFgGsra", "d": "diueEfFgGsra"}
"""The letters of the conversions that format a value with a code. The message of a template that fails shows all objects."""

_MAX_TEMPLATE: Final = 512


@lru_cache(maxsize=4096)
def codes_of(kinds: tuple[type, ...]) -> str | None:
    """Return the codes of values of these types, or None for a subclass of a plain type: it may have any text."""
    return _joined(map(_code, kinds))


def codes_in(template: object, kinds: tuple[type, ...]) -> str | None:
    """Return the codes of the arguments of a template: one that it formats as a number is sent as a number.

    These are numbers of NumPy, tensors, a `Decimal`. They cost as much as a float, and formatters may change the template.
    """
    codes = codes_of(kinds)
    if (codes is not None and OBJECT not in codes) or type(template) is not str or len(template) > _MAX_TEMPLATE:
        return codes
    return _codes_in(template, kinds)


@lru_cache(maxsize=1024)
def _codes_in(template: str, kinds: tuple[type, ...]) -> str | None:
    letters = _conversions(template)
    if letters is None or len(letters) != len(kinds):
        return codes_of(kinds)
    return _joined(_number(kind, letter) or _code(kind) for kind, letter in zip(kinds, letters, strict=True))


def _joined(codes: Iterable[str]) -> str | None:
    codes = tuple(codes)
    return "".join(codes) if all(codes) else None


def _code(kind: type) -> str:
    return _CODES.get(kind) or ("" if issubclass(kind, _NOT_OBJECTS) else OBJECT)


def _number(kind: type, letter: str) -> str:
    """Return the code of values that a conversion with this letter formats as a number, or "" if it does not.

    `struct` takes the number from the same method as the conversion. Methods in Python may do anything, such as fork.
    """
    code, methods = _NUMBERS.get(letter, ("", ()))
    return code if kind not in _CODES and all(isinstance(getattr(kind, method, None), _IN_C) for method in methods) else ""


def as_number(value: Any, code: str) -> Any:
    """Return what arrives of a value that is packed as a number; any other value as it is."""
    if type(value) in SCALARS or code not in _TO_NUMBER:
        return value
    return _TO_NUMBER[code](value)


def are_texts(template: str, codes: str) -> bool:
    """Return whether each object among arguments with these codes is formatted as its ``str``, whatever the template says."""
    return OBJECT not in codes or (len(template) <= _MAX_TEMPLATE and _are_texts(template, codes))


@lru_cache(maxsize=1024)
def _are_texts(template: str, codes: str) -> bool:
    letters = _conversions(template)
    return (
        letters is not None
        and len(letters) == len(codes)
        and all(letter in _FORMATTED.get(code, "sra") for letter, code in zip(letters, codes, strict=True))
    )


def _conversions(template: str) -> list[str] | None:
    """Return the letters of the conversions in a template, or None for names and for a width that is an argument."""
    if "%" in _CONVERSION.sub("", template):
        return None
    return [match[1] for match in _CONVERSION.finditer(template) if match[1]]


def packer(schema: int, codes: str) -> Packer:
    """Return the function that packs a record of this schema from ``(created, msecs, relativeCreated, *values)``."""
    layout = _layout(codes)
    fixed = layout.size - HEADER.size
    sized = tuple((index, _ENCODE[code]) for index, code in enumerate(codes) if code in _ENCODE)
    if not sized:
        return partial(layout.pack, RECORD, schema, fixed)
    pack_fixed = layout.pack
    if len(codes) == 1 and codes != OBJECT:
        return _packer_of_one(pack_fixed, schema, fixed, _ENCODE[codes])
    # The code of an object may fork: the child must not write to the journal of its parent.
    pid = os.getpid() if OBJECT in codes else None

    def pack_with_sizes(created: float, msecs: float, relative: float, *args: object) -> bytes:
        values = list(args)
        tail = b""
        index = -1
        try:
            for index, encode in sized:
                data = encode(args[index])
                values[index] = len(data)
                tail += data
            if len(tail) > MAX_ENTRY:
                raise ValueError("this record needs a side file")  # the slow path writes it there
            if pid is not None and pid != os.getpid():
                raise LookupError("another process")
            return pack_fixed(RECORD, schema, fixed + len(tail), created, msecs, relative, *values) + tail
        except Exception as failure:
            if pid is None:
                raise
            done = values[index] is not args[index]
            texts = _texts(codes, values, tail, len(codes) if done else index)
            if not done and codes[index] == OBJECT:
                texts[index] = failure.args[0] if isinstance(failure, _NotEncoded) else failed_text(args[index], failure)
            raise NotPacked(texts) from failure

    return pack_with_sizes


def _packer_of_one(pack_fixed: Callable[..., bytes], schema: int, fixed: int, encode: Callable[[Any], bytes]) -> Packer:
    """Return the same for a single value that has a size, as f-strings have: without lists, it takes half the time."""

    def pack_with_size(created: float, msecs: float, relative: float, value: object) -> bytes:
        data = encode(value)
        size = len(data)
        if size > MAX_ENTRY:
            raise ValueError("this record needs a side file")
        return pack_fixed(RECORD, schema, fixed + size, created, msecs, relative, size) + data

    return pack_with_size


def texts_in(data: bytes, codes: str) -> Texts:
    """Return the texts of the objects in a packed record."""
    layout = _layout(codes)
    return _texts(codes, layout.unpack_from(data)[_FIRST:], data[layout.size :], len(codes))


def _texts(codes: str, values: Sequence[Any], tail: bytes, end: int) -> dict[int, str]:
    """Return the texts of the objects before index `end`; `tail` has the data of all values that have a size."""
    found, at = {}, 0
    for index, code in enumerate(codes[:end]):
        if code in _ENCODE:
            at, begin = at + values[index], at
            if code == OBJECT:
                found[index] = tail[begin:at].decode()
    return found


def _layout(codes: str) -> Struct:
    return Struct("<BxHIddd" + codes.translate(_SIZES))


_FIRST: Final = 6
"""The index of the first value of a record."""


class _NotEncoded(Exception):
    """The text of an object has a lone surrogate."""


def _encode_object(value: object) -> bytes:
    text = str.__str__(str(value))
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _NotEncoded(text) from None


def _encode_flat(value: Any) -> bytes:
    if not is_flat(value):
        raise NotPlain("a container in a container may hold itself")
    return pack(value)


def is_flat(value: Any) -> bool:
    """Return whether a value is a scalar, or a container of scalars."""
    kind = type(value)
    if kind is dict:
        return SCALARS.issuperset(map(type, value)) and SCALARS.issuperset(map(type, value.values()))
    return kind in SCALARS or ((kind is tuple or kind is list) and SCALARS.issuperset(map(type, value)))


_ENCODE: Final[Mapping[str, Callable[[Any], bytes]]] = {
    "s": str.encode,
    "b": bytes,
    "p": _encode_flat,
    OBJECT: _encode_object,
}
