"""Types of command line arguments: functions that check a text and return its value."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TypeVar

from .. import settings
from ..errors import SettingError
from ..protocol.ranks import parse_ranks

T = TypeVar("T")


def _for_argparse(check: Callable[[str], T]) -> Callable[[str], T]:
    """Convert a `SettingError` of `check` to the only exception whose message `argparse` shows."""

    def checked(text: str) -> T:
        try:
            return check(text)
        except SettingError as failure:
            raise argparse.ArgumentTypeError(str(failure).rstrip(".")) from None

    return checked


@_for_argparse
def count(text: str) -> int:
    """Return a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise SettingError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


@_for_argparse
def whole(text: str) -> int:
    """Return a whole number of 0 or more."""
    if not text.isdecimal():
        raise SettingError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


@_for_argparse
def reader(text: str) -> int | None:
    """Return the rank that reads stdin, None for ``none``."""
    if text == "none":
        return None
    if not text.isdecimal():
        raise SettingError(f"{text!r} is not a rank. Expected 0, 1, ... or none")
    return int(text)


@_for_argparse
def seconds(text: str) -> float:
    """Return a number of seconds, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise SettingError(f"{text!r} is not a number of seconds. Expected 3 or 0.5, for example")
    return number


@_for_argparse
def positive(text: str) -> float:
    """Return a number of seconds, more than 0."""
    number = seconds(text)
    if not number:
        raise SettingError("expected more than 0 seconds")
    return number


@_for_argparse
def directory(text: str) -> str:
    """Return the path of a directory."""
    if not text:
        raise SettingError("'' is not a directory. Expected a path; leave the option out to write no files")
    return text


@_for_argparse
def window(text: str) -> float:
    """Return a grouping window in seconds."""
    number = seconds(text)
    if not number:
        raise SettingError("a window of 0 seconds groups nothing. Expected more than 0; leave it out to see each line at once")
    return number


@_for_argparse
def level(text: str) -> int:
    """Return a level given by name or number."""
    return settings.check_level(int(text) if text.isdecimal() else text)


@_for_argparse
def prefix(text: str) -> str:
    """Return a template for the prefix of each line."""
    from ..output.formatter import MeshFormatter

    MeshFormatter(prefix=text)
    return text


@_for_argparse
def pattern(text: str) -> str:
    """Return a regular expression."""
    try:
        re.compile(text)
    except re.error as failure:
        raise SettingError(f"{text!r} is not a regular expression: {failure}") from None
    return text


@_for_argparse
def ranks(text: str) -> frozenset[int]:
    """Return ranks written as ``0,2-3``, or ``none``."""
    return frozenset() if text == "none" else parse_ranks(text)
