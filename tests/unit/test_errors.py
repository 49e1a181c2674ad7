"""What another process sent is shown in errors and messages as one short line without control characters."""

from __future__ import annotations

import copy
import pickle
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler import LogClient, complete, install, this_host
from meshlog_handler.client.flushes.receipt import FlushReceipt
from meshlog_handler.errors import (
    MAX_QUOTE,
    BusyError,
    ClosedError,
    ConfigRefused,
    ConnectError,
    DirectoryError,
    FlushTimeout,
    ProtocolError,
    RankDied,
    RankError,
    RemoteTraceback,
    SettingError,
    printable,
    quoted,
)
from meshlog_handler.protocol.codec import Text
from meshlog_handler.settings import check_level, check_rank

plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Text, st.text(), st.text()),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
)


def is_safe(text: str) -> bool:
    """Return whether a terminal shows a text as it is: no control, format or separating character but a space and a tab."""
    return all(each == "\t" or unicodedata.category(each) not in ("Cc", "Cs", "Zl", "Zp") for each in text) and not (
        set(text) & set("\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
    )


@given(st.text(st.characters()), st.integers(0, 50))
def test_a_printable_text_is_short_and_safe(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert is_safe(shown)
    assert len(shown) <= 10 * limit + 50
    if len(text) <= limit and is_safe(text) and text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\nmeshlog: b\r", "a\\nmeshlog: b\\r"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m\udc80\u2028", "\\x9b31m\\udc80\\u2028"),
        ("caf\u00e9 \u00a0\u4f60\U0001f600", "caf\u00e9 \u00a0\u4f60\U0001f600"),
        ("x" * 12, "xxxxxxxxxx... [2 more characters]"),
    ],
)
def test_unsafe_characters_are_escaped_and_others_stay(text: str, shown: str) -> None:
    assert printable(text, 10 if text[0] == "x" else 100) == shown


@given(plain_data)
def test_a_quoted_value_is_short_and_safe(value: object) -> None:
    shown = quoted(value)
    assert is_safe(shown)
    assert len(shown) <= 10 * MAX_QUOTE + 50


def test_a_large_value_is_not_formatted_as_a_whole() -> None:
    assert len(quoted(b"\x00" * 10_000_000)) < MAX_QUOTE + 50
    assert len(quoted(["x" * 10_000_000] * 1000)) < MAX_QUOTE + 50
    assert quoted("short") == "'short'"
    assert quoted(b"short") == "b'short'"


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class array:
    """Has the name of another class, by which `reprlib` chooses."""


@pytest.mark.parametrize(
    "value", [10**5000, -(10**5000), NoRepr(), [NoRepr()], {"a": 10**5000}, array()], ids=lambda value: type(value).__name__
)
def test_a_value_without_a_repr_is_quoted(value: object) -> None:
    assert re.search("without a repr|NoRepr instance|int instance|array", quoted(value))


NAMED: dict[str, Callable[[Any], object]] = {
    "level": check_level,
    "rank": check_rank,
    "address": lambda value: install(value),
    "aggregate_window_sec": lambda value: LogClient(aggregate_window_sec=value),
    "hang_after": lambda value: LogClient(hang_after=value),
    "per_host": lambda value: this_host().spawn_procs(per_host=value),
    "start_method": lambda value: this_host().spawn_procs(per_host={"gpus": 1}, start_method=value),
    "timeout": lambda value: complete(value),
}


@pytest.mark.parametrize("value", [-(10**5000), NoRepr()], ids=["number", "object"])
@pytest.mark.parametrize("name", NAMED)
def test_the_error_names_a_setting_whose_value_has_no_repr(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"{name}=<.*Valid|Expected"):
        NAMED[name](value)


def test_the_text_of_a_protocol_error_is_safe() -> None:
    text = str(ProtocolError("got \x1b[2J" + "x" * 1_000_000))
    assert is_safe(text)
    assert len(text) < 1100


ERRORS = [
    FlushTimeout("missing rank 1", FlushReceipt(3, (0,), (1,), (), 0, 1.0)),
    *(kind("failed on rank 2", {2: "why"}) for kind in (RankError, RankDied, ConfigRefused)),
    *(kind("why") for kind in (BusyError, ClosedError, ConnectError, ProtocolError, RemoteTraceback, SettingError)),
    DirectoryError("log_dir='/x' cannot be used", OSError(2, "No such file", "/x")),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_a_pool_can_return_an_error(error: Exception, again: Callable[[Exception], Exception]) -> None:
    error.__notes__ = ["a note"]  # type: ignore[attr-defined]  # as `add_note` of Python 3.11 does
    returned = again(error)
    assert (type(returned), str(returned), vars(returned)) == (type(error), str(error), vars(error))
