from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from logging import LogRecord
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.grouping.aggregator import Aggregator
from meshlog_handler.grouping.similarity import mask_digits
from meshlog_handler.grouping.template_types import AnyTemplate


@dataclass(frozen=True)
class Call:
    """A logging call with message arguments; the values are the arguments and the signature of the exception."""

    msg: str
    rank: int | None = 0
    levelno: int = logging.INFO
    line: int = 1
    at: float = 0.0

    @property
    def group(self) -> Hashable:
        return ("train", self.levelno, self.msg, "/train.py", self.line)

    scope: Hashable = None
    source: Hashable = None

    def args(self, values: tuple[Any, Any]) -> tuple[object, ...]:
        args: tuple[object, ...] = values[0]
        return args

    def columns(self, lines: Sequence[tuple[Any, Any]]) -> Sequence[Sequence[object]]:
        return list(zip(*(self.args(values) for values in lines), strict=True))

    def text(self, values: tuple[Any, Any]) -> str:
        try:
            return self.build(values).getMessage()
        except Exception as failure:
            return f"{self.msg} [{type(failure).__name__}]"

    def signature(self, values: tuple[Any, Any]) -> Hashable:
        signature: Hashable = values[1]
        return signature

    def when(self, values: tuple[Any, Any]) -> float:
        return self.at

    def build(self, values: tuple[Any, Any]) -> LogRecord:
        record = LogRecord("train", self.levelno, "/train.py", self.line, self.msg, values[0], None)
        record.created = self.at
        return record


@dataclass(frozen=True)
class Captured:
    """A captured stream; the values are the text."""

    rank: int | None = 0
    levelno: int = logging.INFO
    stream: str = "stdout"
    at: float = 0.0
    group: Hashable = None
    source: Hashable = None

    @property
    def scope(self) -> Hashable:
        return (self.stream, self.levelno)

    def args(self, values: str) -> tuple[object, ...]:
        raise AssertionError("a text has no arguments")

    def text(self, values: str) -> str:
        return values

    def when(self, values: str) -> float:
        return self.at

    def digit_mask(self, values: str) -> bytes:
        return mask_digits(values)

    def signature(self, values: str) -> Hashable:
        return None

    def build(self, values: str) -> LogRecord:
        record = LogRecord(self.stream, self.levelno, "", 0, values, (), None)
        record.created = self.at
        return record


def texts(records: Sequence[LogRecord]) -> list[str]:
    return [record.getMessage() for record in records]


def count(record: LogRecord) -> int:
    return int(getattr(record, "count", 1))


def merged(*lines: str, window: float = 1.0) -> list[str]:
    """Return the merged texts of captured lines, one from each rank."""
    aggregator = Aggregator(window)
    for rank, line in enumerate(lines):
        assert aggregator.add(Captured(rank), line, 0.0) == ()
    return texts(aggregator.flush())


def merged_calls(msg: str, *calls: tuple[object, ...]) -> list[str]:
    """Return the merged texts of calls with one message, one from each rank."""
    aggregator = Aggregator(1.0)
    for rank, args in enumerate(calls):
        assert aggregator.add(Call(msg, rank), (args, None), 0.0) == ()
    return texts(aggregator.flush())


def test_the_helpers_satisfy_the_protocol() -> None:
    templates: list[AnyTemplate] = [Call("x"), Captured()]
    assert [template.levelno for template in templates] == [logging.INFO, logging.INFO]


def test_a_group_is_shown_when_its_window_ends() -> None:
    aggregator = Aggregator(3.0)
    assert aggregator.deadline is None
    for rank in range(8):
        call = Call("step %d loss=%.2f", rank)
        assert aggregator.add(call, ((12, 0.25 + rank * 0.06 / 7), None), 10.0 + rank / 10) == ()
    assert aggregator.deadline == 13.0
    assert aggregator.expire(12.99) == []
    (record,) = aggregator.expire(13.0)
    assert record.getMessage() == "[8 similar log lines] [ranks 0-7] step 12 loss=0.25..0.31"
    assert (record.args, record.name, record.lineno) == ((), "train", 1)
    assert record.__dict__["count"] == 8
    assert record.__dict__["ranks"] == tuple(range(8))
    assert aggregator.deadline is None
    assert aggregator.expire(100.0) == []


def test_a_single_line_in_a_window_is_shown_unchanged() -> None:
    aggregator = Aggregator(1.0)
    aggregator.add(Call("step %d"), ((12,), None), 0.0)
    aggregator.add(Captured(), "hello", 0.5)
    (record,) = aggregator.expire(1.0)
    assert (record.msg, record.args) == ("step %d", (12,))
    assert not hasattr(record, "count")
    assert texts(aggregator.expire(1.5)) == ["hello"]


def test_groups_are_shown_in_the_order_in_which_they_opened() -> None:
    aggregator = Aggregator(1.0)
    for at, line in enumerate(["alpha", "beta is here", "gamma was there", "alpha", "beta is here"]):
        aggregator.add(Captured(), line, at / 10)
    assert texts(aggregator.flush()) == [
        "[2 similar log lines] [rank 0] alpha",
        "[2 similar log lines] [rank 0] beta is here",
        "gamma was there",
    ]


def test_a_line_after_the_end_of_the_window_first_shows_the_group() -> None:
    aggregator = Aggregator(1.0)
    aggregator.add(Captured(), "hello", 0.0)
    aggregator.add(Captured(), "hello", 0.9)
    assert texts(aggregator.add(Captured(), "hello", 1.0)) == ["[2 similar log lines] [rank 0] hello"]
    assert aggregator.deadline == 2.0
    assert texts(aggregator.flush()) == ["hello"]


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR, 55])
def test_a_warning_is_shown_at_once_and_later_ones_are_counted(level: int) -> None:
    aggregator = Aggregator(3.0)
    warnings = [Call("disk %d%% full", rank, level) for rank in range(4)]
    assert texts(aggregator.add(warnings[0], ((90,), None), 0.0)) == ["disk 90% full"]
    assert aggregator.deadline == 3.0
    for rank in (1, 2, 3):
        assert aggregator.add(warnings[rank], ((90 + rank,), None), 1.0) == ()
    assert texts(aggregator.expire(3.0)) == ["[3 similar log lines] [ranks 1-3] disk 91..93% full"]
    assert texts(aggregator.add(warnings[0], ((99,), None), 4.0)) == ["disk 99% full"]
    assert aggregator.expire(7.0) == []
    assert (aggregator.received, aggregator.shown) == (5, 5)


def test_the_level_from_which_the_first_line_is_shown_at_once_can_be_chosen() -> None:
    aggregator = Aggregator(1.0, first_level=logging.INFO)
    first = [*aggregator.add(Call("step %d"), ((0,), None), 0.0), *aggregator.add(Captured(), "line 0", 0.0)]
    assert texts(first) == ["step 0", "line 0"]
    for number in (1, 2):
        assert aggregator.add(Call("step %d", rank=number), ((number,), None), 0.0) == ()
        assert aggregator.add(Captured(), f"line {number}", 0.0) == ()
    assert aggregator.add(Call("detail", levelno=logging.DEBUG), ((), None), 0.0) == ()
    assert texts(aggregator.expire(1.0)) == [
        "[2 similar log lines] [ranks 1-2] step 1..2",
        "[2 similar log lines] [rank 0] line 1..2",
        "detail",
    ]
    assert aggregator.received == aggregator.shown


def test_a_single_counted_warning_is_shown_unchanged() -> None:
    aggregator = Aggregator(3.0)
    captured = Captured(2, logging.WARNING)
    assert texts(aggregator.add(captured, "WARNING: 1 left", 0.0)) == ["WARNING: 1 left"]
    assert aggregator.add(captured, "WARNING: 2 left", 0.0) == ()
    (record,) = aggregator.expire(3.0)
    assert record.getMessage() == "WARNING: 2 left"
    assert not hasattr(record, "count")


def test_similar_captured_warnings_are_counted_from_the_second_on() -> None:
    aggregator = Aggregator(3.0)
    lines = ["WARNING: cannot reach node alpha, will retry", "WARNING: cannot reach node gamma, will retry"]
    assert len(aggregator.add(Captured(0, logging.WARNING), lines[0], 0.0)) == 1
    for rank in (1, 2, 3):
        assert aggregator.add(Captured(rank, logging.WARNING), lines[rank % 2], 0.0) == ()
    assert texts(aggregator.flush()) == [
        "[3 similar log lines] [ranks 1-3] WARNING: cannot reach node {gamma, alpha}, will retry"
    ]


@pytest.mark.parametrize(
    ("ranks", "where"),
    [([3, 3], "[rank 3] "), ([0, 1, 2, 5], "[ranks 0-2,5] "), ([None, None], ""), ([None, 4], "[rank 4] ")],
)
def test_a_group_names_its_ranks(ranks: list[int | None], where: str) -> None:
    aggregator = Aggregator(1.0)
    for rank in ranks:
        aggregator.add(Captured(rank), "hello", 0.0)
    (record,) = aggregator.flush()
    assert record.getMessage() == f"[{len(ranks)} similar log lines] {where}hello"
    assert record.__dict__["ranks"] == tuple(sorted({rank for rank in ranks if rank is not None}))


@pytest.mark.parametrize(
    ("times", "within", "span"),
    [
        ([1000.0, 1002.5], "", 2.5),
        ([1000.0, 1044.75, 1040.0], " in 45 s", 44.75),
        ([1000.0, 940.0], "", 0.0),  # an older line that arrives later
        ([1000.0, nan, inf], "", 0.0),  # a program may set any time
    ],
)
def test_a_group_tells_its_time_span(times: list[float], within: str, span: float) -> None:
    for ways in ("calls", "texts", "lines"):
        aggregator = Aggregator(60.0)
        for at in times:
            if ways == "calls":
                aggregator.add(Call("step %d", at=at), ((1,), None), 0.0)
            elif ways == "texts":
                aggregator.add(Captured(at=at), "step 1", 0.0)
            else:
                aggregator.add_lines(Captured(at=at), ["step 1"], 0.0)
        (record,) = aggregator.flush()
        assert record.getMessage() == f"[{len(times)} similar log lines{within}] [rank 0] step 1", ways
        assert (record.created, record.__dict__["span_sec"]) == (1000.0, span), ways


def test_the_time_span_includes_lines_that_are_only_counted() -> None:
    aggregator = Aggregator(60.0)
    aggregator.add(Call("step %d", at=1000.0), ((0,), None), 0.0)
    assert aggregator.counts(Call("step %d"), ((1,), None), 1.0)
    aggregator.add_calls(Call("step %d", at=1031.0), [((1,), None), ((2,), None)])
    assert texts(aggregator.flush()) == ["[3 similar log lines in 31 s] [rank 0] step 0..2"]


@pytest.mark.parametrize(
    "lines",
    [
        ("1", "5", "9"),
        ("0.25", "0.31"),
        ("10 20", "10 21"),
        ("1234567890123456789", "1234567890123456780"),
        ("[3/10] 5%", "[4/10] 5%"),
        ("2024-01-01 12:00:01", "2024-01-01 12:00:02"),
        ("\x1b[32m5\x1b[0m", "\x1b[32m7\x1b[0m"),
        ("10.0.0.1", "10.0.0.2"),
        ("-" * 40, "-" * 41),
    ],
)
def test_lines_without_words_group_only_with_equal_lines(lines: tuple[str, ...]) -> None:
    assert merged(*lines) == list(lines)
    aggregator = Aggregator(1.0)
    for rank in range(2):
        for line in lines:
            assert aggregator.add_lines(Captured(rank), [line], 0.0) == []
    assert texts(aggregator.flush()) == [f"[2 similar log lines] [ranks 0-1] {line}" for line in lines]


def test_a_line_with_a_word_is_not_similar_to_one_without() -> None:
    assert merged("=" * 30, "=" * 29 + "a") == ["=" * 30, "=" * 29 + "a"]
    assert merged("took 5", "took 9", "5") == ["[2 similar log lines] [ranks 0-1] took 5..9", "5"]


@pytest.mark.parametrize(
    ("msg", "calls", "text"),
    [
        ("step %d loss=%.3f", [(1, 0.5), (2, 0.25)], "step 1..2 loss=0.250..0.500"),
        ("%d%% of %s", [(5, "all"), (7, "all")], "5..7% of all"),
        ("%s", [(1,), (0.5,), (2,)], "0.5..2"),
        ("at %x", [(255,), (16,)], "at 10..ff"),
        ("%e", [(1e-9,), (1e3,)], "1.000000e-09..1.000000e+03"),
        ("|%5d|", [(7,), (12,)], "|7..12|"),
        ("|%8d|", [(7,), (12,)], "|   7..12|"),
        ("|%-8d|", [(7,), (12,)], "|7..12   |"),
        ("|%05.1f|", [(1.5,), (22.5,)], "|001.5..022.5|"),
        ("%+d", [(-2,), (3,)], "-2..+3"),
        ("%d", [(-1,), (-30,)], "-30..-1"),
        ("%.2f", [(0.501,), (0.502,)], "0.50"),
        ("loss=%.1f", [(0.5,), (float("nan"),), (0.25,)], "loss={0.2..0.5, nan}"),
        ("loss=%.1f", [(float("nan"),), (float("nan"),)], "loss=nan"),
        ("x=%s", [(None,), (3,), (5,)], "x={3..5, None}"),
        ("x=%d", [(None,), (3,), (5,)], "x %d"),
        ("%s ready", [("a",), ("b",)], "{a, b} ready"),
        ("%s ready", [("a",), ("b",), ("c",)], "{a, b, c} ready"),
        ("%s ready", [("a",), ("b",), ("c",), ("d",), ("e",)], "{a, b, c, ...} ready"),
        ("%r ready", [("a",), ("b",)], "{'a', 'b'} ready"),
        ("|%6s|", [("a",), ("a",)], "|     a|"),
        ("|%-8s|", [("a",), ("b",)], "|{a, b}  |"),
        ("%s ready", [("host12",), ("host7",)], "host7..12 ready"),
        ("loss=%s", [("0.31",), ("0.25",)], "loss=0.25..0.31"),
        ("%s", [([1, 2],), ([1, 3],)], "[1, 2..3]"),
        ("%s", [(True,), (False,)], "{True, False}"),
        (
            "loss=%(loss).2f of %(name)s",
            [({"loss": 0.5, "name": "a"},), ({"loss": 0.25, "name": "a"},)],
            "loss=0.25..0.50 of a",
        ),
        ("%*d", [(5, 1), (5, 22)], "1..22"),
        ("no conversion", [(1,), (2,)], "no conversion [TypeError]"),
        ("%s", [(10**5000,), (10**5000,)], None),
        ("%.0f %s", [(10**400, 1), (0.5, 2)], None),
    ],
)
def test_arguments_are_merged(msg: str, calls: list[tuple[object, ...]], text: str | None) -> None:
    (got,) = merged_calls(msg, *calls)
    assert got.startswith(f"[{len(calls)} similar log lines] [ranks 0-{len(calls) - 1}] ")
    if text is None:
        return
    if msg == "x=%d":  # the first call cannot be formatted: texts are merged
        assert "x=" in got
    else:
        assert got.partition("] [ranks")[2].partition("] ")[2].strip() == text.strip()


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["step 3 of 10", "step 12 of 10"], "step 3..12 of 10"),
        (["loss=0.31", "loss=0.250", "loss=0.27"], "loss=0.250..0.31"),
        (["t=12:00:01 x", "t=9:59:59 x"], "t=9:59:59..12:00:01 x"),
        (["2024-01-01 12:00:00,100 a", "2024-01-02 12:00:00,200 a"], "2024-01-01..2024-01-02 12:00:00,100..12:00:00,200 a"),
        (["got 1,200 tokens", "got 999 tokens"], "got 999..1,200 tokens"),
        (["delta -0.5 here", "delta 0.25 here"], "delta -0.5..0.25 here"),
        (["lr 1e-05 now", "lr 5e-05 now", "lr 3e-05 now"], "lr 1e-05..5e-05 now"),
        (["step    9 of 100", "step   10 of 100"], "step 9..10 of 100"),
        (["wrote /tmp/a.pt ok", "wrote /tmp/b.pt ok"], "wrote {/tmp/a.pt, /tmp/b.pt} ok"),
        (["id 0xa1", "id 0xa2", "id 0xa3", "id 0xa4"], "id {0xa1, 0xa2, 0xa3, ...}"),
        (
            ["connected to server alpha on port 80", "connected to server gamma on port 81"],
            "connected to server {alpha, gamma} on port 80..81",
        ),
        (
            ["connected to the server at node alpha on port 80", "connected to the server at node on port 81"],
            "connected to the server at {node alpha, node} on port 80..81",
        ),
        (
            [
                "the loss of this step: (loss=0.5), going on",
                "the loss of this step: (loss=nan), going on",
                "the loss of this step: (loss=0.25), going on",
            ],
            "the loss of this step: (loss={0.25..0.5, nan}), going on",
        ),
        (["model initialised", "model initialized"], "model {initialised, initialized}"),
        (["\x1b[31mstep 1\x1b[0m", "\x1b[32mstep 2\x1b[0m"], "\x1b[31mstep 1..2\x1b[0m"),
        (
            ["x  y   z is the longer text of the two", "x  w   z is the longer text of the two"],
            "x  {y, w}   z is the longer text of the two",
        ),
        (["same", "same", "same"], "same"),
        (["", ""], ""),
    ],
)
def test_captured_lines_are_merged(lines: list[str], text: str) -> None:
    assert merged(*lines) == [f"[{len(lines)} similar log lines] [ranks 0-{len(lines) - 1}] {text}"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("loading the model", "saving a checkpoint"),
        ("aaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaabbb"),
        ("a", "b"),
        ("", "x"),
    ],
)
def test_dissimilar_lines_are_not_merged(one: str, two: str) -> None:
    assert merged(one, two) == [one, two]


def test_texts_of_different_scopes_levels_and_exceptions_are_not_similar() -> None:
    aggregator = Aggregator(1.0)
    aggregator.add(Captured(0), "hello", 0.0)
    aggregator.add(Captured(0, stream="stderr"), "hello", 0.0)
    aggregator.add(Captured(0, logging.DEBUG), "hello", 0.0)
    assert texts(aggregator.flush()) == ["hello", "hello", "hello"]
    aggregator.add(Call("failed %d"), ((1,), ("ValueError", "f:1")), 0.0)
    aggregator.add(Call("failed %d"), ((2,), ("KeyError", "f:2")), 0.0)
    aggregator.add(Call("failed %d"), ((3,), ("ValueError", "f:1")), 0.0)
    aggregator.add(Call("failed %d", line=2), ((4,), ("ValueError", "f:1")), 0.0)
    assert texts(aggregator.flush()) == ["[2 similar log lines] [rank 0] failed 1..3", "failed 2", "failed 4"]


def test_many_shapes_of_one_group_are_merged_word_by_word() -> None:
    names = [
        "alpha",
        "bravo",
        "gamma",
        "delta",
        "kappa",
        "sigma",
        "omega",
        "theta",
        "lambd",
        "zebra",
        "quebe",
    ]
    lines = [f"the worker called {name} has finished its part of the work, step {at}" for at, name in enumerate(names)]
    assert merged(*lines) == [
        "[11 similar log lines] [ranks 0-10] the worker called {alpha, bravo, gamma, ...} has finished its part "
        "of the work, step 0..10"
    ]


def test_the_oldest_group_is_shown_when_there_are_too_many() -> None:
    aggregator = Aggregator(10.0, max_groups=2)
    lines = ["alpha", "completely different", "something else again"]
    assert aggregator.add(Captured(), lines[0], 0.0) == ()
    assert aggregator.add(Captured(), lines[1], 1.0) == ()
    assert aggregator.add(Captured(), lines[0], 1.5) == ()
    assert texts(aggregator.add(Captured(), lines[2], 2.0)) == ["[2 similar log lines] [rank 0] alpha"]
    assert aggregator.deadline == 11.0
    warned = aggregator.add(Call("hot", levelno=logging.WARNING), ((), None), 3.0)
    assert texts(warned) == [lines[1], "hot"]
    assert aggregator.pending == 1


def test_never_and_hide_patterns() -> None:
    aggregator = Aggregator(1.0, never=["^rank 0", re.compile("URGENT", re.I)], hide=["heartbeat"])
    assert texts(aggregator.add(Captured(), "rank 0 is up", 0.0)) == ["rank 0 is up"]
    assert texts(aggregator.add(Call("%s now"), (("urgent",), None), 0.0)) == ["urgent now"]
    assert aggregator.add(Captured(), "heartbeat", 0.0) == ()
    assert aggregator.add(Captured(levelno=logging.ERROR), "ERROR heartbeat: urgent", 0.0) == ()
    assert aggregator.add(Captured(), "other", 0.0) == ()
    assert (aggregator.received, aggregator.shown, aggregator.hidden, aggregator.pending) == (5, 2, 2, 1)
    assert texts(aggregator.flush()) == ["other"]


def test_without_a_window_every_line_is_shown_at_once_and_hiding_still_works() -> None:
    aggregator = Aggregator(None, hide=["secret"])
    assert texts(aggregator.add(Captured(), "hello", 0.0)) == ["hello"]
    assert texts(aggregator.add(Captured(), "hello", 0.0)) == ["hello"]
    assert aggregator.add(Captured(), "secret", 0.0) == ()
    assert aggregator.deadline is None
    assert (aggregator.expire(1e9), aggregator.flush()) == ([], [])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["step %d", "loss %.3f", "warn %d", "text", "other text", "long %s"]),
            st.integers(0, 5),
            st.floats(0, 2),
            st.sampled_from(["add", "add", "add", "add", "expire", "flush"]),
        ),
        max_size=120,
    ),
    st.sampled_from([None, 0.5, 3.0]),
    st.sampled_from([1, 3, 2048]),
)
def test_every_line_is_shown_or_hidden_exactly_once(
    steps: list[tuple[str, int, float, str]], window: float | None, max_groups: int
) -> None:
    aggregator = Aggregator(window, max_groups=max_groups, never=["never|5"], hide=["^other.*4", "loss 3"])
    out: list[LogRecord] = []
    now = 0.0
    for msg, number, pause, action in steps:
        now += pause
        if action == "expire":
            out += aggregator.expire(now)
            assert aggregator.deadline is None or aggregator.deadline > now
        elif action == "flush":
            out += aggregator.flush()
            assert aggregator.pending == 0
            assert aggregator.deadline is None
        elif "%" in msg:
            level = logging.WARNING if "warn" in msg else logging.INFO
            out += aggregator.add(Call(msg, number, level), ((number,), None), now)
        else:
            out += aggregator.add(Captured(number), f"{msg} {number}" * (number + 1), now)
        assert sum(map(count, out)) == aggregator.shown
        assert aggregator.received == aggregator.shown + aggregator.hidden + aggregator.pending
        assert len(aggregator._groups) <= max_groups
    out += aggregator.flush()
    assert sum(map(count, out)) + aggregator.hidden == aggregator.received
    assert aggregator.received == [action for *_, action in steps].count("add")
    assert not aggregator._groups
    assert not aggregator._scopes
    assert aggregator._learned == 0


words = st.lists(st.sampled_from(["one", "two", "three", "7", "0.5", "/a/b", "0xff", "x=3", ""]), max_size=12).map(" ".join)
numbers = st.one_of(st.integers(-(10**6), 10**6), st.floats(allow_nan=False, allow_infinity=False, width=32))


@given(
    st.lists(st.tuples(st.lists(words, min_size=1, max_size=12), st.floats(0, 2), st.sampled_from([20, 30])), max_size=12),
    st.sampled_from([1, 2, 2048]),
    st.sampled_from([(), ("step",)]),
)
def test_adding_many_lines_together_equals_adding_each(
    batches: list[tuple[list[str], float, int]], max_groups: int, never: tuple[str, ...]
) -> None:
    together, apart = (Aggregator(1.0, max_groups=max_groups, never=never) for _ in range(2))
    now = 0.0
    for rank, (lines, pause, level) in enumerate(batches):
        now += pause
        template = Captured(rank, level)
        shown = texts(together.add_lines(template, lines, now))
        assert shown == [text for line in lines for text in texts(apart.add(template, line, now))]
        assert (together.received, together.shown, together.deadline) == (apart.received, apart.shown, apart.deadline)
    assert texts(together.flush()) == texts(apart.flush())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a=%d b=%s", "a=%d b=%r", "%s, %s", "a=%03d %5s"]),
            st.lists(st.tuples(st.integers(-99, 99), st.floats(0, 9)), min_size=1, max_size=9)
            | st.lists(st.tuples(st.integers(-99, 99), st.sampled_from("xyz")), min_size=1, max_size=9),
            st.floats(0, 0.9),
            st.sampled_from([20, 30]),
        ),
        max_size=12,
    ),
    st.sampled_from([1, 2, 2048]),
    st.sampled_from([(), ("a=7",)]),
)
def test_adding_many_calls_together_equals_adding_each(
    batches: list[tuple[str, list[tuple[object, ...]], float, int]], max_groups: int, never: tuple[str, ...]
) -> None:
    together, apart = (Aggregator(1.0, max_groups=max_groups, never=never) for _ in range(2))
    now = 0.0
    for rank, (msg, calls, pause, level) in enumerate(batches):
        now += pause
        template = Call(msg, rank, level)
        lines = [(args, None) for args in calls]
        expected = [text for values in lines for text in texts(apart.add(template, values, now))]
        if together.counts(template, lines[0], now):
            together.add_calls(template, lines)
            assert expected == []
        else:
            assert [text for values in lines for text in texts(together.add(template, values, now))] == expected
        assert (together.received, together.shown, together.deadline) == (apart.received, apart.shown, apart.deadline)
    assert texts(together.flush()) == texts(apart.flush())


@pytest.mark.parametrize("values", [[1.0, nan, 3.0, nan], [nan, nan], [10**400, nan, 2.0], [float("inf"), -float("inf")]])
def test_nan_is_listed_beside_the_range_of_the_other_numbers(values: list[float]) -> None:
    together, apart = Aggregator(1.0), Aggregator(1.0)
    call, lines = Call("x=%r"), [((value,), None) for value in values]
    together.add(call, lines[0], 0.0)
    together.add_calls(call, lines[1:])
    for values_of_one in lines:
        apart.add(call, values_of_one, 0.0)
    (text,) = texts(together.flush())
    assert [text] == texts(apart.flush())
    assert ("nan" in text) == any(value != value for value in values)
    assert f"[{len(values)} similar log lines]" in text


def test_calls_with_too_few_arguments_are_counted() -> None:
    aggregator = Aggregator(1.0)
    template = Call("a=%d b=%d")
    aggregator.add(template, ((1, 2), None), 0.0)
    assert aggregator.counts(template, ((1,), None), 0.0)
    aggregator.add_calls(template, [((1,), None)] * 3)
    assert texts(aggregator.flush()) == ["[4 similar log lines] [rank 0] a=1 b=2"]


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=200))
def test_ranges_of_arguments_go_from_the_least_to_the_greatest(calls: list[tuple[float, float]]) -> None:
    (got,) = merged_calls("a=%r b=%r!", *calls)
    for at, pattern in enumerate([r" a=(\S+) b", r" b=(\S+)!"]):
        match = re.search(pattern, got)
        assert match is not None
        low, _, high = match[1].partition("..")
        values = [call[at] for call in calls]
        assert (float(low), float(high or low)) == (float(min(values)), float(max(values)))


@given(st.lists(st.tuples(numbers, st.integers(0, 10**9)), min_size=2, max_size=200))
def test_ranges_in_texts_go_from_the_least_to_the_greatest(values: list[tuple[float, int]]) -> None:
    lines = [f"the value is {value!r} at step {step}, and so it goes on for a while" for value, step in values]
    (got,) = merged(*lines)
    match = re.search(r"is (\S+) at step (\S+), and", got)
    assert match is not None
    for at in (0, 1):
        low, _, high = match[at + 1].partition("..")
        column = [pair[at] for pair in values]
        assert (float(low), float(high or low)) == (float(min(column)), float(max(column)))


@given(st.lists(words, min_size=1, max_size=40))
def test_any_lines_can_be_merged_and_equal_lines_share_a_group(lines: list[str]) -> None:
    aggregator = Aggregator(1.0)
    for rank, line in enumerate(lines):
        assert aggregator.add(Captured(rank), line, 0.0) == ()
    records = aggregator.flush()
    assert sum(map(count, records)) == len(lines)
    ranks = [set(getattr(record, "ranks", ())) for record in records]
    for one, first in enumerate(lines):
        for two, second in enumerate(lines[:one]):
            if first == second:
                assert any({one, two} <= some for some in ranks)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=20))
def test_any_text_can_be_aggregated(lines: list[str]) -> None:
    aggregator = Aggregator(1.0)
    for line in lines * 2:
        aggregator.add(Captured(), line, 0.0)
        aggregator.add(Call("<%s>"), ((line,), None), 0.0)
    assert sum(map(count, aggregator.flush())) == 4 * len(lines)


@given(
    st.text(alphabet="ab%%dsf.5-0 (", max_size=12),
    st.lists(st.one_of(st.integers(), st.text(max_size=3)), max_size=3),
)
def test_any_template_can_be_aggregated_and_equal_calls_keep_their_text(msg: str, args: list[object]) -> None:
    call = Call(msg)
    values = (tuple(args), None)
    aggregator = Aggregator(1.0)
    for _ in range(3):
        aggregator.add(call, values, 0.0)
    (record,) = aggregator.flush()
    assert record.getMessage() == f"[3 similar log lines] [rank 0] {call.text(values)}"


def test_learned_shapes_are_discarded_above_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshlog_handler.grouping.aggregator._MAX_LEARNED", 20_000)
    aggregator = Aggregator(1.0)
    for number in range(3000):
        for rank in (0, 1):
            aggregator.add(Captured(rank), f"item {number} of {number * number * number} in {number / 7}", 0.0)
        assert aggregator._learned <= 20_000
    assert texts(aggregator.flush()) == [
        "[6000 similar log lines] [ranks 0-1] item 0..2999 of 0..26973008999 in 0.0..428.42857142857144"
    ]


def test_a_group_of_many_lines_takes_little_memory() -> None:
    aggregator = Aggregator(1.0)
    for number in range(5000):
        aggregator.add(Captured(), f"request {number:08x}-0000-4000-8000-{number:012x} took {number} ms", 0.0)
        aggregator.add(Call("%s and %d"), ((f"name-{number}-" + "x" * (number % 50), number), None), 0.0)
    for group in aggregator._groups.values():
        assert len(group.masks) <= 100
        if group.arguments is not None:
            assert len(group.arguments.pending) <= 64
    assert [count(record) for record in aggregator.flush()] == [5000, 5000]


def test_thousands_of_groups_leave_nothing_behind() -> None:
    aggregator = Aggregator(1.0, max_groups=50)
    out: list[LogRecord] = []
    for number in range(2000):
        name = "".join(chr(97 + (number * place) % 26) for place in range(1, 12))
        out += aggregator.add(Captured(number % 3), f"{name * 3} {number}", number / 1000)
    out += aggregator.flush()
    assert sum(map(count, out)) == 2000
    assert not aggregator._scopes
