"""Shared copies of texts and record layouts, because the workers of a mesh log the same ones from the same call sites."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any, Final, TypeVar

T = TypeVar("T")

_MAX_KNOWN: Final = 4096
_MAX_LENGTH: Final = 512

_known: Final[dict[Any, Any]] = {}


def shared(value: Any) -> Any:
    """Return the known copy of a short text, and any other value as it is."""
    return shared_key(value) if type(value) is str and len(value) <= _MAX_LENGTH else value


def shared_key(key: T) -> T:
    """Return the known copy of a key that does not change."""
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    known: T = _known.setdefault(key, key)
    return known


@lru_cache(maxsize=256)  # bounded: a peer may send any codes
def layouts(codes: str) -> tuple[Struct, Struct]:
    """Return the layouts of records with arguments of these `struct` codes, without and with their commit byte."""
    return Struct("<Q" + codes), Struct("<Q" + codes + "B")
