"""Which extras the format of a formatter needs as objects: ``%(seconds).3f`` cannot use the text of a Decimal."""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from ..protocol.record import GROUPED, ORIGIN, STANDARD

_PERCENT: Final = re.compile(r"%(?:%|\(([^)]*)\)[-#0 +]*\d*(?:\.\d+)?[hlL]?(.))", re.DOTALL)
_KNOWN: Final = STANDARD.union(ORIGIN, GROUPED)


def needed_extras(formatter: Any) -> frozenset[str]:
    """Return the extras of which the format uses more than the text that `str` makes."""
    style: Any = getattr(formatter, "_style", None)
    fmt = getattr(style, "_fmt", None)
    kind: Any = type(style)
    return _needed(kind, fmt) if isinstance(fmt, str) else frozenset()


@lru_cache(maxsize=256)
def _needed(style: type, fmt: str) -> frozenset[str]:
    if issubclass(style, logging.StringTemplateStyle):
        return frozenset()
    try:
        return frozenset(_in_braces(fmt) if issubclass(style, logging.StrFormatStyle) else _in_percents(fmt)) - _KNOWN
    except ValueError:  # the formatter reports it
        return frozenset()


def _in_percents(fmt: str) -> Iterator[str]:
    return (match[1] for match in _PERCENT.finditer(fmt) if match[1] and match[2] != "s")


def _in_braces(fmt: str) -> Iterator[str]:
    fields = ((field, conversion) for _, field, _, conversion in string.Formatter().parse(fmt) if field)
    return (re.split(r"[.\[]", field, maxsplit=1)[0] for field, conversion in fields if conversion != "s")
