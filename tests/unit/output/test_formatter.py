"""MeshFormatter: prefixes, colours, and captured bytes shown unchanged."""

from __future__ import annotations

import logging
import logging.config
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.errors import SettingError
from meshlog_handler.output.formatter import MeshFormatter
from meshlog_handler.output.terminal import wants_colour
from meshlog_handler.protocol.record import MeshInfo, MeshRecord


def make(msg: str = "hello", *args: object, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("train", fields.pop("level", logging.INFO), "train.py", 7, msg, args, None)
    known = {"rank": 3, "local_rank": 1, "hostname": "node-7", "coords": {"gpus": 1}}
    info = MeshInfo(**{**known, **{name: fields.pop(name) for name in MeshInfo.__slots__ if name in fields}})
    return MeshRecord.of({**info.attributes(), **record.__dict__, **fields}, info)


def captured(raw: bytes, stream: str = "stdout", **fields: Any) -> logging.LogRecord:
    return make(
        "%s", raw.decode("utf-8", "backslashreplace"), stream=stream, raw=raw.decode("utf-8", "surrogateescape"), **fields
    )


def failure() -> Any:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        return sys.exc_info()


def test_the_default_format_is_rank_and_message() -> None:
    assert MeshFormatter().format(make("step %d", 5)) == "[3] step 5"


def test_every_physical_line_is_prefixed() -> None:
    record = make("one\ntwo", exc_info=failure(), stack_info="Stack (most recent call last):\n  here")
    lines = MeshFormatter().format(record).split("\n")
    plain = logging.Formatter().format(make("one\ntwo", exc_text=record.exc_text, stack_info=record.stack_info))
    assert len(lines) > 8
    assert lines == [f"[3] {line}" for line in plain.split("\n")]


def test_the_text_equals_that_of_the_standard_formatter() -> None:
    fmt = "%(asctime)s %(levelname)s %(name)s %(message)s"
    record = make("x %s", "y", exc_info=failure())
    assert MeshFormatter(fmt, prefix=None).format(record) == logging.Formatter(fmt).format(record)


def test_a_record_of_the_client_has_no_prefix() -> None:
    assert MeshFormatter().format(make("one\ntwo", rank=None)) == "one\ntwo"


def test_an_aggregated_record_names_its_ranks_on_every_line() -> None:
    first = "[2 similar log lines] [ranks 0-1] one"
    record = make(f"{first}\ntwo", count=2, ranks=(0, 1), level=logging.ERROR)
    assert MeshFormatter().format(record) == f"{first}\n[ranks 0-1] two"
    assert MeshFormatter(colour=True).format(record) == f"\x1b[31m{first}\x1b[0m\n[ranks 0-1] \x1b[31mtwo\x1b[0m"
    assert MeshFormatter(prefix=None).format(record) == f"{first}\ntwo"
    assert MeshFormatter().line(f"{first}\ntwo", record.meshlog, colour=False) is None  # type: ignore[attr-defined]  # a MeshRecord
    many = make("one\ntwo", count=20, ranks=tuple(range(0, 40, 2)))
    assert MeshFormatter().format(many) == "one\n[20 ranks] two"


def test_a_plain_logging_record_has_no_prefix() -> None:
    assert MeshFormatter().format(logging.makeLogRecord({"msg": "plain"})) == "plain"


@pytest.mark.parametrize(
    ("prefix", "fields", "expected"),
    [
        ("[{hostname}:{rank}] ", {}, "[node-7:3] "),
        ("{rank:>4}|", {}, "   3|"),
        ("{rank:04d} ", {}, "0003 "),
        ("{pid}/{process} ", {"process": 42}, "42/42 "),
        ("{name} {levelname} ", {}, "train INFO "),
        ("{stream}: ", {}, "log: "),
        ("{stream}: ", {"stream": "stderr"}, "stderr: "),
        ("{coords} ", {}, "gpus=1 "),
        ("{coords[gpus]} ", {}, "1 "),
        ("{coords[hosts]:>3} ", {}, "  - "),
        ("{coords} ", {"coords": None}, "- "),
        ("{local_rank} ", {"local_rank": None}, "- "),
        ("{local_rank:3d} ", {"local_rank": None}, "- "),
        ("{{{rank}}} ", {}, "{3} "),
        ("> ", {}, "> "),
        ("", {}, ""),
        ("{rank:d} ", {"rank": "three"}, "[three] "),
    ],
)
def test_a_prefix_is_a_template_with_fields_of_the_record(prefix: str, fields: dict[str, Any], expected: str) -> None:
    formatter = MeshFormatter(prefix=prefix)
    for _ in range(2):  # made, then cached
        assert formatter.format(make("m", **fields)) == f"{expected}m"


def test_a_missing_field_is_a_dash() -> None:
    record = logging.makeLogRecord({"msg": "m", "rank": 2})
    assert MeshFormatter(prefix="{rank} {hostname} ").format(record) == "2 - m"


def test_prefixes_with_times_are_not_cached() -> None:
    formatter = MeshFormatter(prefix="{asctime}|", datefmt="%Y")
    texts = [formatter.format(make("m", created=year * 31557600.0)) for year in (1.5, 31.5)]
    assert texts == ["1971|m", "2001|m"]


def test_each_rank_gets_its_own_prefix() -> None:
    formatter = MeshFormatter()
    assert [formatter.format(make("m", rank=rank)) for rank in (0, 1, 0, 12)] == ["[0] m", "[1] m", "[0] m", "[12] m"]


@pytest.mark.parametrize(
    "prefix", ["[{ranks}] ", "{", "{}", "{0}", "{rank", "{rank:%%}", "{rank.real.nothing}", "{coords.gpus}"]
)
def test_an_invalid_prefix_is_an_error_that_lists_the_fields(prefix: str) -> None:
    with pytest.raises(SettingError, match="Fields: rank, local_rank, hostname, coords") as caught:
        MeshFormatter(prefix=prefix)
    assert repr(prefix) in str(caught.value)


@given(st.binary())
def test_without_a_prefix_captured_bytes_are_unchanged(raw: bytes) -> None:
    formatter = MeshFormatter("%(levelname)s %(message)s", prefix=None)
    record = captured(raw)
    assert formatter.format(record).encode("utf-8", "surrogateescape") == raw
    assert formatter.verbatim(record) == raw


def test_only_single_captured_lines_are_verbatim() -> None:
    formatter = MeshFormatter(prefix=None)
    assert formatter.verbatim(make("m")) is None
    assert formatter.verbatim(captured(b"x", count=2, ranks=(3,))) is None
    assert formatter.format(make("whole", stream="stdout", raw="first", count=2, ranks=(3,))) == "whole"
    assert MeshFormatter().verbatim(captured(b"x")) is None


def test_captured_colours_are_kept_only_if_requested() -> None:
    formatter = MeshFormatter()
    record = captured(b"\x1b[31mred\x1b[0m")
    assert formatter.format(record) == "[3] red"
    assert formatter.render(record, colour=False, keep_ansi=True) == "[3] \x1b[31mred\x1b[0m"
    assert formatter.format(make("\x1b[31mred")) == "[3] \x1b[31mred", "the text of a logging call is not changed"


def test_stripping_accepts_any_text() -> None:
    assert MeshFormatter().format(make("\x1b[1m\udc80é", stream="stderr")) == "[3] \udc80é"


def test_colours() -> None:
    formatter = MeshFormatter(colour=True)
    blue, reset = "\x1b[34m", "\x1b[0m"
    assert formatter.format(make("m")) == f"{blue}[3]{reset} m"
    assert formatter.format(make("a\nb", level=logging.WARNING)) == (
        f"{blue}[3]{reset} \x1b[33ma{reset}\n{blue}[3]{reset} \x1b[33mb{reset}"
    )
    assert "\x1b[31mm" in formatter.format(make("m", level=logging.ERROR))
    assert "\x1b[1;31mm" in formatter.format(make("m", level=logging.CRITICAL))
    assert formatter.format(captured(b"\x1b[32mok", level=logging.ERROR)) == f"{blue}[3]{reset} \x1b[32mok"
    assert formatter.format(make("m", rank=None)) == "m"
    assert MeshFormatter(colour=False).format(make("m")) == "[3] m"


@pytest.mark.parametrize(
    ("terminal", "env", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "0"}, False),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_environment_variables_that_control_colour(terminal: bool, env: dict[str, str], expected: bool) -> None:
    assert wants_colour(terminal, env) is expected


def test_the_formatter_can_be_used_in_a_logging_configuration(restored_logging: logging.Logger) -> None:
    name = f"{MeshFormatter.__module__}.{MeshFormatter.__qualname__}"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "plain": {"class": name, "format": "%(levelname)s %(message)s"},
                "made": {"()": name, "prefix": "<{rank}> "},
            },
            "handlers": {
                "a": {"class": "logging.StreamHandler", "formatter": "plain"},
                "b": {"class": "logging.StreamHandler", "formatter": "made"},
            },
            "root": {"handlers": ["a", "b"]},
        }
    )
    texts = [handler.format(make("m")) for handler in restored_logging.handlers if handler.name in ("a", "b")]
    assert texts == ["[3] INFO m", "<3> m"]
