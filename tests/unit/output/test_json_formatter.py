"""JsonFormatter: each record becomes one line of JSON."""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.errors import SettingError
from meshlog_handler.output.json_formatter import JsonFormatter

from .test_formatter import captured, make


def read(record: logging.LogRecord, formatter: JsonFormatter | None = None) -> dict[str, Any]:
    text = (formatter or JsonFormatter()).format(record)
    assert len(text.splitlines()) == 1

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    value: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return value


class Poison:
    """An object whose `str` and `repr` raise."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_the_keys_of_a_record() -> None:
    record = make("step %d", 5, created=1700000000.123456, process=42)
    assert read(record) == {
        "timestamp": "2023-11-14T22:13:20.123456Z",
        "level": "INFO",
        "name": "train",
        "message": "step 5",
        "rank": 3,
        "stream": None,
        "local_rank": 1,
        "hostname": "node-7",
        "coords": {"gpus": 1},
        "process": 42,
    }


def test_an_aggregated_record_has_count_ranks_and_span() -> None:
    found = read(make("m", count=8, ranks=(0, 1, 2), span_sec=2.5))
    assert (found["count"], found["ranks"], found["span_sec"]) == (8, [0, 1, 2], 2.5)


def test_exceptions_and_stacks_are_included() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        record = make("m", exc_info=sys.exc_info(), stack_info="Stack:\n  here")
    found = read(record)
    assert found["exc_text"].endswith("ValueError: boom")
    assert found["stack_info"] == "Stack:\n  here"
    assert read(make("m", exc_text="known already"))["exc_text"] == "known already"


def test_extras_follow_in_order_and_get_an_underscore_if_their_name_is_taken() -> None:
    record = make("m", user="ann", age=7, timestamp="theirs")
    record.__dict__["level"] = "high"
    found = read(record)
    assert list(found.items())[-4:] == [("user", "ann"), ("age", 7), ("timestamp_", "theirs"), ("level_", "high")]
    assert found["level"] == "INFO"


def test_extras_of_any_name_are_included() -> None:
    record = make("m", count=8, ranks=(3, 4))
    names = ("rank", "rank_", "stream", "count", "coords", "timestamp", "level", "raw_text", "progress", "meshlog", "message_")
    record.__dict__.update({name: f"the {name}" for name in names})
    found = read(record)
    assert (found["rank"], found["stream"], found["count"], found["coords"]) == (3, None, 8, {"gpus": 1})
    ours = {name for name in names if name in ("rank", "stream", "count", "coords", "timestamp", "level")}
    assert all(found[f"{name}_" if name in ours else name] == f"the {name}" for name in names if name != "rank_")
    assert "the rank_" in found.values()


def test_defaults_are_extras_for_records_that_lack_them() -> None:
    formatter = JsonFormatter(defaults={"job": "a", "user": "nobody"})
    found = read(make("m", user="ann"), formatter)
    assert (found["job"], found["user"]) == ("a", "ann")


def test_colours_of_captured_lines_are_removed() -> None:
    found = read(captured(b"\x1b[31mred\x1b[0m \xff"))
    assert (found["message"], found["stream"]) == ("red \\xff", "stdout")
    assert not {"raw", "progress", "meshlog"} & found.keys()


def test_values_that_json_cannot_express_are_text() -> None:
    circle: list[Any] = []
    circle.append(circle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    record = make(
        "m",
        lock=threading.Lock(),
        poison=Poison(),
        nan=float("nan"),
        infinite=-float("inf"),
        keys={(1, 2): {1: Poison()}},
        circle=circle,
        deep=deep,
        bytes=b"\xff",
        huge=10**5000,
        fine=[1, 2.5, None, True, {"a": "b"}],
    )
    found = read(record)
    assert found["lock"].startswith("<unlocked _thread.lock")
    assert found["poison"] == "<Poison that cannot be shown: RuntimeError>"
    assert (found["nan"], found["infinite"]) == ("nan", "-inf")
    assert found["keys"] == {"(1, 2)": {"1": found["poison"]}}
    assert (found["bytes"], found["huge"]) == ("b'\\xff'", hex(10**5000))
    assert found["fine"] == [1, 2.5, None, True, {"a": "b"}]
    while len(deep):  # step by step: all at once, taking it apart is too deep for the interpreter
        deep = deep[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"msg": "%d", "args": ("x",)},
        {"msg": Poison()},
        {"msg": "%s", "args": (Poison(),)},
        {"created": float("nan")},
        {"created": 1e300},
        {"created": "yesterday"},
        {"exc_info": (1, 2, 3)},
        {"levelname": Poison()},
    ],
)
def test_format_raises_for_no_record(fields: dict[str, Any]) -> None:
    record = make("m")
    record.__dict__.update(fields)
    assert read(record)["name"] == "train"


@given(st.text(), st.dictionaries(st.text(), st.text() | st.floats() | st.binary()), st.booleans())
def test_the_result_is_always_one_line_of_json_that_utf8_can_encode(text: str, extra: dict[str, Any], ascii_only: bool) -> None:
    record = make("%s", text, payload=extra)
    line = JsonFormatter(ensure_ascii=ascii_only).format(record)
    assert "\n" not in line
    assert line.isascii() or not ascii_only
    assert json.loads(line.encode("utf-8"))["message"] == text


def test_non_ascii_characters_can_be_kept() -> None:
    line = JsonFormatter(ensure_ascii=False).format(make("é\u2028x"))
    assert '"é\\u2028x"' in line


def test_timestamps() -> None:
    assert read(make("m", created=0.0), JsonFormatter(datefmt="%Y %H"))["timestamp"] == "1970 00"
    now = datetime(2024, 2, 29, 23, 59, 59, 999999, timezone.utc)
    stamp = read(make("m", created=now.timestamp()))["timestamp"]
    assert datetime.fromisoformat(stamp.replace("Z", "+00:00")) == now


def test_a_format_is_rejected() -> None:
    with pytest.raises(SettingError, match="takes no format"):
        JsonFormatter("%(message)s")  # type: ignore[arg-type]  # the mistake
    assert json.loads(JsonFormatter(None, None, "%").format(make("m")))["message"] == "m"
