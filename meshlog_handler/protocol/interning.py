"""Shared copies of texts and record layouts, because the workers of a mesh log the same ones from the same call sites."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any, Final

_MAX_TEXTS: Final = 4096
_MAX_LENGTH: Final = 512

_texts: Final[dict[str, str]] = {}


def shared(value: Any) -> Any:
    """Return the known copy of a short text, and any other value as it is."""
    if type(value) is not str or len(value) > _MAX_LENGTH:
        return value
    if len(_texts) >= _MAX_TEXTS:
        _texts.clear()
    return _texts.setdefault(value, value)


@lru_cache(maxsize=256)  # bounded: a peer may send any codes
def layouts(codes: str) -> tuple[Struct, Struct]:
    """Return the layouts of records with arguments of these `struct` codes, without and with their commit byte."""
    return Struct("<Q" + codes), Struct("<Q" + codes + "B")
