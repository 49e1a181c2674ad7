"""Plain data as bytes: numbers, text, bytes, None, and tuples, lists and dicts of these.

The format has no classes, so the decoder cannot run code. It checks every length against the remaining bytes, so a hostile
peer cannot make it allocate more than the peer sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, error
from typing import Final

from ..errors import ProtocolError

MAX_DEPTH: Final = 32
MAX_INT: Final = 1 << 2047
"""An int is in ``range(-MAX_INT, MAX_INT)``: every Python can print it, whatever its limit for int conversion is."""

MAX_COLLIDING: Final = 16
"""So many keys of a dict may have the hash of another key: the time to make a dict grows with the square of their number."""

_INT_SIZE: Final = 257
_INT: Final = Struct("<cq")
_FLOAT: Final = Struct("<cd")
_SIZE: Final = Struct("<cI")
_INT64: Final = Struct("<q")
_FLOAT64: Final = Struct("<d")
_UINT32: Final = Struct("<I")
_CONSTANTS: Final[dict[int, object]] = {ord("N"): None, ord("T"): True, ord("F"): False}


class Text(str):
    """The text of a value in a container. Its `repr` is that of the value, so the container's text does not change."""

    __slots__ = ("shown",)
    shown: str

    def __new__(cls, text: str, shown: str) -> Text:
        """Return a text whose `repr` is `shown`."""
        made = super().__new__(cls, text)
        made.shown = shown
        return made

    def __repr__(self) -> str:
        return self.shown

    def __reduce__(self) -> tuple[type[Text], tuple[str, str]]:
        return Text, (str.__str__(self), self.shown)


class NotPlain(TypeError):
    """A value that is not plain data, or nests deeper than `MAX_DEPTH`."""


def pack(value: object) -> bytes:
    """Encode plain data; raise `NotPlain` for any other value, and for one that nests deeper than `MAX_DEPTH`.

    Plain data is None, bool, int of up to 2048 bits, float, str, bytes, or a tuple, list or dict of these. Subclasses are not
    allowed, because the decoded value would silently lose the additions of the subclass. Lone surrogates in text are kept.
    """
    parts: list[bytes] = []
    _pack(value, parts, 0)
    return b"".join(parts)


def _pack(value: object, parts: list[bytes], depth: int) -> None:
    kind = type(value)  # not __class__, which a proxy or a mock may fake
    if kind is str:
        try:
            data = value.encode()  # type: ignore[attr-defined]  # kind is str
        except UnicodeEncodeError:
            data = value.encode("utf-8", "surrogatepass")  # type: ignore[attr-defined]  # as above
        parts.append(_SIZE.pack(b"s", len(data)))
        parts.append(data)
    elif kind is int:
        try:
            parts.append(_INT.pack(b"i", value))
        except error:
            number: int = value  # type: ignore[assignment]  # kind is int
            if not -MAX_INT <= number < MAX_INT:
                raise NotPlain("an int of more than 2048 bits") from None
            data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
            parts.append(_SIZE.pack(b"I", len(data)))
            parts.append(data)
    elif kind is float:
        parts.append(_FLOAT.pack(b"d", value))
    elif value is None:
        parts.append(b"N")
    elif value is True:
        parts.append(b"T")
    elif value is False:
        parts.append(b"F")
    elif kind is bytes:
        parts.append(_SIZE.pack(b"b", len(value)))  # type: ignore[arg-type]  # kind is bytes
        parts.append(value)  # type: ignore[arg-type]  # kind is bytes
    elif kind is Text:
        parts.append(b"t")
        _pack(str.__str__(value), parts, depth)
        _pack(value.shown, parts, depth)  # type: ignore[attr-defined]  # as above
    elif kind is tuple or kind is list:
        if depth >= MAX_DEPTH:
            raise NotPlain(f"nested deeper than {MAX_DEPTH}")
        items: tuple[object, ...] = tuple(value)  # type: ignore[arg-type]  # kind is tuple or list
        parts.append(_SIZE.pack(b"(" if kind is tuple else b"[", len(items)))
        for item in items:
            _pack(item, parts, depth + 1)
    elif kind is dict:
        if depth >= MAX_DEPTH:
            raise NotPlain(f"nested deeper than {MAX_DEPTH}")
        pairs = tuple(value.items())  # type: ignore[attr-defined]  # kind is dict
        if _collide(pairs):
            raise NotPlain(f"a dict with more than {MAX_COLLIDING} keys of the same hash")
        parts.append(_SIZE.pack(b"{", len(pairs)))
        for key, item in pairs:
            _pack(key, parts, depth + 1)
            _pack(item, parts, depth + 1)
    else:
        raise NotPlain(f"{kind.__qualname__} is not plain data")


def unpack(data: bytes, start: int = 0) -> object:
    """Decode the one value in ``data[start:]``; raise `ProtocolError`, and nothing else, for invalid bytes."""
    try:
        value, end = _unpack(data, start, 0)
    except (error, IndexError, UnicodeDecodeError, TypeError) as cause:
        raise ProtocolError(f"a value cannot be decoded: {cause}") from None
    if end != len(data):
        raise ProtocolError(f"{len(data) - end} bytes follow the end of the value")
    return value


def _unpack(data: bytes, at: int, depth: int) -> tuple[object, int]:
    tag = data[at]
    at += 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == 0x69:  # i
        return _INT64.unpack_from(data, at)[0], at + 8
    if tag == 0x64:  # d
        return _FLOAT64.unpack_from(data, at)[0], at + 8
    if tag == 0x74:  # t
        if data[at] != 0x73:
            raise ProtocolError("malformed text: expected a string")
        text, at = _unpack(data, at, depth)
        if data[at] != 0x73:
            raise ProtocolError("malformed text: expected a string for its repr")
        shown, at = _unpack(data, at, depth)
        return Text(text, shown), at  # type: ignore[arg-type]  # two texts
    size: int = _UINT32.unpack_from(data, at)[0]
    at += 4
    end = at + size
    # Every item takes at least one byte, so this check also finds a wrong count, before anything is allocated.
    if end > len(data):
        raise ProtocolError(f"a length of {size}, but only {len(data) - at} bytes are left")
    if tag == 0x73:  # s
        return str(data[at:end], "utf-8", "surrogatepass"), end
    if tag == 0x62:  # b
        return bytes(data[at:end]), end
    if tag == 0x49 and size <= _INT_SIZE:  # I
        number = int.from_bytes(data[at:end], "little", signed=True)
        if -MAX_INT <= number < MAX_INT:
            return number, end
    if depth >= MAX_DEPTH:
        raise ProtocolError(f"nested deeper than {MAX_DEPTH}")
    if tag == 0x28 or tag == 0x5B:  # ( [
        items = []
        for _ in range(size):
            item, at = _unpack(data, at, depth + 1)
            items.append(item)
        return (tuple(items) if tag == 0x28 else items), at
    if tag == 0x7B:  # {
        pairs = []
        for _ in range(size):
            key, at = _unpack(data, at, depth + 1)
            item, at = _unpack(data, at, depth + 1)
            pairs.append((key, item))
        if _collide(pairs):
            raise ProtocolError(f"a dict with more than {MAX_COLLIDING} keys of the same hash")
        return dict(pairs), at
    raise ProtocolError(f"invalid value with type byte {tag:#04x}")


def _collide(pairs: Sequence[tuple[object, object]]) -> bool:
    """Whether more keys than allowed have the hash of another one. The hashes of texts and bytes cannot be chosen."""
    hashes = [hash(key) for key, _ in pairs if type(key) is not str and type(key) is not bytes]
    return len(hashes) - len(set(hashes)) > MAX_COLLIDING
