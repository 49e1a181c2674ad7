"""What the procs of a mesh have in common, kept once: they log the same texts, in the same layouts, from the same places."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any, Final

_MAX_TEXTS: Final = 4096
_MAX_LENGTH: Final = 512

_texts: Final[dict[str, str]] = {}


def shared(value: Any) -> Any:
    """Return a text that was met before in place of an equal one; anything else as it is."""
    if type(value) is not str or len(value) > _MAX_LENGTH:
        return value
    if len(_texts) >= _MAX_TEXTS:
        _texts.clear()
    return _texts.setdefault(value, value)


@lru_cache(maxsize=256)  # bounded: a proc can think of any codes
def layouts(codes: str) -> tuple[Struct, Struct]:
    """Return how records with arguments of these `struct` codes are read, alone and with their mark."""
    return Struct("<Q" + codes), Struct("<Q" + codes + "B")
