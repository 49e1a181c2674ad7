from __future__ import annotations

import builtins
import logging
import random
import traceback
from collections.abc import Iterable, Sequence
from itertools import groupby
from logging import LogRecord
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.grouping import tracebacks
from meshlog_handler.grouping.aggregator import Aggregator
from meshlog_handler.lines.captured import CapturedPipe
from meshlog_handler.lines.framer import Line
from meshlog_handler.output.formatter import MeshFormatter

several: Any = getattr(builtins, "ExceptionGroup", None)
BASE: dict[str, Any] = {**logging.makeLogRecord({}).__dict__, "args": ()}
WINDOW = 10.0


def pipe(rank: int | None, stream: str = "stderr", pid: int = 1) -> CapturedPipe:
    return CapturedPipe(-1, stream, base={**BASE, "process": pid}, identity={"rank": rank}, max_line=1 << 20)


class Job:
    """Some ranks and what their client shows of their captured output, with a window."""

    def __init__(self, **options: Any) -> None:
        self.aggregator = Aggregator(WINDOW, **options)
        self._pipes: dict[tuple[int, str], CapturedPipe] = {}
        self.now = 0.0

    def print(self, rank: int, text: str, stream: str = "stderr") -> list[str]:
        """Print lines; return what is shown at once."""
        known = self._pipes.setdefault((rank, stream), pipe(rank, stream))
        items = known.items([Line(line.encode(), True, False, 0) for line in text.split("\n")], self.now)
        shown: list[LogRecord] = []
        for template, each in groupby(items, key=lambda item: item[1]):
            shown += self.aggregator.add_lines(template, [values for _, _, values in each], self.now)
        return formatted(shown)

    def wait(self, seconds: float) -> list[str]:
        self.now += seconds
        return formatted(self.aggregator.expire(self.now))

    def flush(self) -> list[str]:
        shown = formatted(self.aggregator.flush())
        assert self.aggregator.pending == 0
        assert self.aggregator.deadline is None
        return shown


def formatted(records: Sequence[LogRecord]) -> list[str]:
    return [MeshFormatter(prefix=None).format(record) for record in records]


def printed(error: BaseException) -> str:
    """Return a raised exception as the interpreter prints it."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip("\n")


def fail(kind: type[Exception], *args: object, cause: BaseException | None = None) -> Exception:
    try:
        raise kind(*args) from cause
    except Exception as error:
        return error


def trace(what: str, frame: int = 3) -> str:
    return f'Traceback (most recent call last):\n  File "/a.py", line {frame}, in f\n    raise {what.split(":")[0]}\n{what}'


def in_turns(texts: Sequence[str], seed: int) -> Iterable[tuple[int, str]]:
    """Yield the lines of several texts, mixed, each with the index of its text."""
    left = {at: text.split("\n") for at, text in enumerate(texts)}
    mixed = random.Random(seed)
    while left:
        at = mixed.choice(sorted(left))
        yield at, left[at].pop(0)
        if not left[at]:
            del left[at]


def test_equal_tracebacks_are_one_group_shown_whole() -> None:
    job = Job()
    text = trace("ValueError: no data")
    shown = [line for rank, line in in_turns([text] * 4, 1) for line in job.print(rank, line)]
    assert shown == []  # one that another is joined to may follow
    assert job.aggregator.deadline == 0.1
    assert job.wait(0.1) == [text]
    (group,) = job.wait(WINDOW)
    head, _, rest = group.partition(text)
    assert (head.partition(" [ranks ")[0], rest) == ("[3 similar log lines]", "")
    assert job.flush() == []


def test_the_message_tells_what_differs() -> None:
    job = Job()
    for rank in range(4):
        job.print(rank, trace(f"ValueError: {rank}"))
    assert job.wait(0.1) == [trace("ValueError: 0")]
    assert job.flush() == [f"[3 similar log lines] [ranks 1-3] {trace('ValueError: 1..3')}"]


@given(st.integers(0, 2**32))
def test_different_tracebacks_are_each_shown_whole(seed: int) -> None:
    texts = [trace("ValueError: 1"), trace("KeyError: 1"), trace("ValueError: 1", 4), trace("OSError")]
    job = Job()
    for rank, line in in_turns(texts, seed):
        assert job.print(rank, line) == []
    assert sorted(job.wait(0.1)) == sorted(texts)
    assert job.flush() == []


@pytest.mark.parametrize(
    "error",
    [
        fail(RuntimeError, "second", cause=fail(ValueError, "first")),
        fail(RuntimeError, "third", cause=fail(RuntimeError, "second", cause=fail(ValueError, "first"))),
        *(
            [
                fail(several, "several", [fail(ValueError, 1), several("in", [fail(KeyError, 2), OSError()])]),
                fail(OSError, cause=fail(several, "several", [fail(ValueError, 1), TypeError("multi\nline")])),
                fail(several, "several", [fail(ValueError, 1, cause=fail(OSError))]),
            ]
            if several is not None
            else []
        ),
    ],
)
def test_joined_tracebacks_and_exception_groups_are_one_text(error: BaseException) -> None:
    job = Job()
    text = printed(error)
    assert [shown for rank, line in in_turns([text] * 3, 7) for shown in job.print(rank, line)] == []
    assert job.wait(0.1) == [text]
    (group,) = job.flush()
    assert group.startswith("[2 similar log lines]")
    assert group.endswith(text)


def test_an_empty_line_after_a_traceback_is_a_line_of_its_own() -> None:
    job = Job()
    job.print(0, trace("OSError") + "\n")
    assert job.wait(0.1) == [trace("OSError")]
    job.print(1, trace("KeyError"))
    assert job.print(1, "\nstep 1") == [trace("KeyError")]
    assert job.flush() == ["[2 similar log lines] [ranks 0-1] ", "step 1"]


def test_the_next_line_of_the_stream_comes_after_the_traceback() -> None:
    job = Job()
    assert job.print(0, trace("OSError")) == []
    assert job.print(0, "ERROR: no data") == [trace("OSError"), "ERROR: no data"]
    job.print(0, trace("KeyError"))
    assert job.print(0, trace("IndexError")) == [trace("KeyError")]
    assert job.flush() == [trace("IndexError")]


def test_another_stream_of_the_rank_waits_only_for_a_traceback_that_is_whole() -> None:
    job = Job()
    head, last = trace("OSError").rsplit("\n", 1)
    job.print(0, head)
    assert job.print(0, "ERROR: first", "stdout") == ["ERROR: first"]
    assert job.print(1, "ERROR: of another rank", "stdout") == ["ERROR: of another rank"]
    job.print(0, last)
    assert job.print(1, "ERROR: later", "stdout") == ["ERROR: later"]
    assert job.print(0, "ERROR: third, and longer", "stdout") == [trace("OSError"), "ERROR: third, and longer"]


def test_the_lines_of_two_processes_without_ranks_are_not_mixed() -> None:
    aggregator = Aggregator(WINDOW)
    texts = [trace("OSError"), trace("KeyError")]
    pipes = [pipe(None, pid=pid) for pid in range(2)]
    for at, line in in_turns(texts, 3):
        for _, template, values in pipes[at].items([Line(line.encode(), True, False, 0)], 0.0):
            aggregator.add_lines(template, [values], 0.0)
    assert sorted(formatted(aggregator.flush())) == sorted(texts)


def test_a_traceback_without_an_end_is_shown_after_five_seconds() -> None:
    job = Job()
    head = trace("OSError").rpartition("\n")[0]
    job.print(0, head)
    assert job.wait(4.0) == []
    job.print(0, "    more")
    assert job.wait(0.9) == []
    assert job.wait(0.1) == [head + "\n    more"]
    job.print(0, "Traceback (most recent call last):")
    assert job.flush() == ["Traceback (most recent call last):"]
    job.print(0, head)
    assert formatted(job.aggregator.end(1, job.now, whole=False)) == []
    assert formatted(job.aggregator.end(0, job.now, whole=False)) == [head]


@pytest.mark.skipif(several is None, reason="exception groups are new in Python 3.11")
def test_an_indented_line_after_an_exception_group_is_no_part_of_it() -> None:
    job = Job()
    group = printed(fail(several, "several", [fail(ValueError, 1)]))
    job.print(0, group)
    assert job.print(0, "  retrying") == [group]
    assert job.flush() == ["  retrying"]


def test_the_signature_of_a_long_line_takes_linear_time() -> None:
    text = f"{tracebacks.HEAD}\n{'|' * 300_000}\nValueError: 1"
    assert tracebacks.signature_of(text) == text.removesuffix(": 1")


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracebacks, "_MAX_SIZE", 10_000)
    monkeypatch.setattr(tracebacks, "_MAX_HELD", 30_000)
    job = Job()
    head = trace("OSError").rpartition("\n")[0]
    shown = [text for number in range(100) for text in job.print(0, head if not number else f"    a line {'x' * 100}")]
    assert shown[0].startswith(head)
    assert len(shown) == 2  # the lines beyond the bound are similar to each other
    job = Job()
    shown = [text for rank in range(200) for text in job.print(rank, head)]
    assert shown == [head]  # others are counted
    held = job.aggregator._tracebacks
    assert 10_000 < held._size <= 30_000
    assert job.flush()[0].startswith("[")
    assert (held._size, bool(held), held.due) == (0, False, float("inf"))


def dump(rank: int) -> str:
    """Return what `faulthandler` prints when a process crashes."""
    other = f'Thread 0x{rank}7 (most recent call first):\n  File "/a.py", line 7 in load\n  File "/a.py", line 1 in run'
    current = f'Current thread 0x{rank}9 (most recent call first):\n  File "/a.py", line 9 in train'
    modules = "Extension modules: numpy.core (total: 1)"
    return "\n\n".join(["Fatal Python error: Segmentation fault", other, current, modules])


def test_the_dump_of_a_crash_is_one_text() -> None:
    job = Job()
    shown = [line for rank, line in in_turns([dump(rank) for rank in range(3)], 1) for line in job.print(rank, line)]
    assert shown == []
    assert job.aggregator.deadline == 0.1  # after the latest line: none is known to be the last
    (first,) = job.wait(0.1)
    assert first in {dump(rank) for rank in range(3)}
    (group,) = job.flush()
    assert group.startswith("[2 similar log lines] [ranks ")
    assert [line for line in group.split("\n") if "File" in line] == [line for line in dump(0).split("\n") if "File" in line]


def test_a_dump_ends_where_other_lines_follow() -> None:
    job = Job()
    shown = job.print(0, f"{dump(0)}\n\nstep 1\nFatal Python error: Aborted\nstep 2") + job.flush()
    assert shown[:2] == [dump(0), "Fatal Python error: Aborted"]
    assert len(shown) == 4


def test_patterns_apply_to_lines_of_tracebacks() -> None:
    job = Job(hide=["raise"], never=["OSError"])
    shown = [text for rank in range(2) for kind in ("KeyError", "OSError") for text in job.print(rank, trace(f"{kind}: 1"))]
    hidden = [trace(f"{kind}: 1").replace(f"    raise {kind}\n", "") for kind in ("KeyError", "OSError", "OSError")]
    assert sorted(shown + job.wait(0.1)) == sorted(hidden)
    assert job.flush() == [hidden[0]]  # the second one was counted
    assert (job.aggregator.received, job.aggregator.shown, job.aggregator.hidden) == (8, 4, 4)
    job = Job(never=["Traceback"])
    for rank in range(2):
        job.print(rank, trace("KeyError: 1"))
    assert job.wait(0.1) == [trace("KeyError: 1")] * 2


lines = st.sampled_from(
    [
        *trace("OSError: 1").split("\n"),
        *tracebacks.HEADS,
        *tracebacks.LINKS,
        *dump(0).split("\n"),
        "    +----",
        "  | ValueError: 1",
        "step 1",
    ]
)


steps = st.tuples(st.integers(0, 1), st.sampled_from(["stderr", "stdout"]), lines, st.sampled_from([0.0, 0.05, 1.0, 9.0]))


@given(st.lists(steps), st.booleans())
def test_each_line_is_shown_once_and_in_the_order_of_its_stream(steps: list[tuple[int, str, str, float]], groups: bool) -> None:
    aggregator = Aggregator(WINDOW, never=[] if groups else [""])
    pipes = {(rank, stream): pipe(rank, stream) for rank in range(2) for stream in ("stderr", "stdout")}
    printed: dict[tuple[int, str], list[str]] = {}
    shown: list[LogRecord] = []
    now = 0.0
    for rank, stream, line, seconds in steps:
        now += seconds
        shown += aggregator.expire(now)
        printed.setdefault((rank, stream), []).append(line)
        for _, template, values in pipes[rank, stream].items([Line(line.encode(), True, False, 0)], now):
            shown += aggregator.add_lines(template, [values], now)
        if seconds == 1.0:
            shown += aggregator.flush()
        assert aggregator.received == aggregator.shown + aggregator.pending
    shown += aggregator.flush()
    assert (aggregator.pending, aggregator.deadline) == (0, None)
    assert sum(record.__dict__.get("count", 1) for record in shown) == aggregator.shown
    for (rank, stream), expected in printed.items() if not groups else ():
        mine = [record for record in shown if (record.__dict__["rank"], record.name) == (rank, stream)]
        assert [line for record in mine for line in record.getMessage().split("\n")] == expected
