"""Calls that need no `LogRecord`: the client shows the same record, and each change is seen by the next call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
import time
from collections import UserDict
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import PurePosixPath
from types import CodeType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshlog_handler import MeshHandler
from meshlog_handler.protocol import encode
from meshlog_handler.worker import fast_logger
from meshlog_handler.worker.record_stream import RecordStream

from ..one_proc import Proc
from ..protocol.test_odd_records import Broken

pytestmark = pytest.mark.skipif(hasattr(logging.Logger, "_is_disabled"), reason="not used with this Python")

plain = st.integers(-(1 << 70), 1 << 70) | st.floats() | st.booleans() | st.text(max_size=5) | st.none() | st.just([1])
objects = st.sampled_from([PurePosixPath("a"), Decimal(1), KeyError("k"), UserDict(a=1), UserDict(), b"b", Broken()])
values = plain | objects
msgs = st.sampled_from(["step %d", "loss %.3f", "%s", "plain", "100%", "", "\ud800", "a %s b %s", {"a": 1}, 5]) | st.text(
    max_size=5
)
calls = st.tuples(st.sampled_from([10, 20, 30, 35, 50]), msgs, st.lists(values, max_size=2).map(tuple) | st.just(({"a": 1},)))


class Counts(MeshHandler):
    """A handler of one stream that counts the records that reach it."""

    def __init__(self, stream: RecordStream) -> None:
        logging.Handler.__init__(self)
        self.record_stream, self.sink, self.route = stream, None, None
        self.count = 0

    def handle(self, record: logging.LogRecord) -> Any:
        self.count += 1
        return super().handle(record)


class Fast:
    """A logger below another one, which has the handler."""

    def __init__(self, proc: Proc) -> None:
        self.proc = proc
        self.handler = Counts(proc.stream)
        self.parent = logging.Logger("fast", 1)
        self.log = logging.Logger("fast.part")
        self.log.parent = self.parent
        self.log.manager = self.parent.manager = logging.Manager(self.parent)  # type: ignore[arg-type]  # as a root
        self.parent.addHandler(self.handler)

    def records(self) -> list[logging.LogRecord]:
        """Return what the client shows of the calls since the last look."""
        self.proc.ship()
        items, self.proc.items = self.proc.items, []
        return [template.build(values) for _, template, values in items if template is not None]

    def handled(self, call: Callable[[], object]) -> bool:
        """Make a call; return whether a record reached the handler."""
        before = self.handler.count
        call()
        return self.handler.count > before


@pytest.fixture
def fast(proc: Proc) -> Iterator[Fast]:
    assert fast_logger.enable(Counts)
    yield Fast(proc)
    fast_logger.disable()
    assert "fast" not in logging.Logger._log.__name__


def shown(record: logging.LogRecord) -> dict[str, object]:
    return {**record.__dict__, "text": record.getMessage(), "exc_info": bool(record.exc_info)}


def call_each(log: logging.Logger, made: list[tuple[int, Any, Any]]) -> None:
    for level, msg, args in made:
        log.log(level, msg, *args)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(calls, min_size=1, max_size=6))
def test_the_short_way_and_the_standard_way_give_equal_records(made: list[tuple[int, Any, Any]], fast: Fast) -> None:
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(IndexError):
        patch.setattr(fast_logger, "_BUILTIN", type(lambda: 0))
        patch.setattr(time, "time", lambda: 1_700_000_000.999_999_9)
        patch.setattr(time, "time_ns", lambda: 1_700_000_000_999_999_999)
        found = []
        for enabled in (True, False):
            if not enabled:
                fast_logger.disable()
            for _ in range(3):
                call_each(fast.log, made)
            found.append([repr(sorted(shown(record).items())) for record in fast.records()])
        assert len(found[0]) == 3 * len(made)
        assert found[0] == found[1]
    fast_logger.enable(Counts)


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.info("step %d loss=%.3f of %s", 3, 0.5, "é"),
        lambda log: log.info("constant"),
        lambda log: log.warning(f"f-string {time.perf_counter()}"),
        lambda log: log.log(35, "own level %d", 3),
        lambda log: log.info("reading %s of %s", PurePosixPath("a"), None),
        lambda log: log.warning("failed: %s", KeyError("k")),
        lambda log: log.info("loss %.3f of %s, %d", Decimal("0.25"), PurePosixPath("a"), signal.SIGTERM),
    ],
)
def test_after_the_first_calls_no_record_is_made(fast: Fast, call: Callable[[logging.Logger], None]) -> None:
    handled = [fast.handled(lambda: call(fast.log)) for _ in range(20)]
    assert handled[0]
    assert not any(handled[6:])
    assert len(fast.records()) == 20


class Loud(str):
    """A text that is shown in capitals."""

    def __str__(self) -> str:
        return self.upper()


def test_messages_of_a_subclass_of_str_are_shown_as_its_str(fast: Fast) -> None:
    for fast_way in (True, False):
        if not fast_way:
            fast_logger.disable()
        for msg in ("x", "x", "x", Loud("x"), "x", Loud("%s"), Loud("%s")):
            fast.log.info(msg)
    fast_logger.enable(Counts)
    assert [record.getMessage() for record in fast.records()] == ["x", "x", "x", "X", "x", "%S", "%S"] * 2


def test_a_way_to_make_messages_that_the_program_sets_is_used(fast: Fast, monkeypatch: pytest.MonkeyPatch) -> None:
    def braces(self: logging.LogRecord) -> str:
        return str(self.msg).format(*self.args)  # type: ignore[misc]  # a tuple

    for fast_way in (True, False):
        if not fast_way:
            fast_logger.disable()
        with monkeypatch.context() as patch:
            for number in range(6):
                if number == 3:
                    patch.setattr(logging.LogRecord, "getMessage", braces)
                fast.log.info("{} of %d", number)
    fast_logger.enable(Counts)
    assert [record.getMessage() for record in fast.records()] == [
        *(f"{{}} of {n}" for n in range(3)),
        *(f"{n} of %d" for n in range(3, 6)),
    ] * 2


def test_the_same_text_at_another_place_is_another_record(fast: Fast) -> None:
    for _ in range(3):
        fast.log.info("step %d", 1)
        fast.log.info("step %d", 1)
    lines = [record.lineno for record in fast.records()]
    assert lines == [lines[0], lines[0] + 1] * 3


def test_code_that_is_compiled_again_at_the_same_address_is_another_place(fast: Fast) -> None:
    lines = []
    for number in range(30):
        code: CodeType = compile("\n" * number + "log.info('step %d', 1)", "made", "exec")
        for _ in range(3):
            exec(code, {"log": fast.log})
        lines += [number + 1] * 3
        del code
    assert [record.lineno for record in fast.records()] == lines


def test_a_record_has_the_names_at_the_time_of_its_call(fast: Fast, monkeypatch: pytest.MonkeyPatch) -> None:
    current = threading.current_thread()
    monkeypatch.setattr(current, "name", "first")

    def call() -> None:
        fast.log.info("step %d", 1)

    for _ in range(3):
        call()
    monkeypatch.setattr(current, "name", "second")
    call()
    fast.log.name = "renamed"
    call()
    monkeypatch.setitem(logging._levelToName, logging.INFO, "FYI")
    call()
    names = [(record.threadName, record.name, record.levelname) for record in fast.records()]
    assert names[2:] == [
        ("first", "fast.part", "INFO"),
        ("second", "fast.part", "INFO"),
        ("second", "renamed", "INFO"),
        ("second", "renamed", "FYI"),
    ]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="records have the task's name since Python 3.12")
def test_a_record_has_the_name_of_its_task(fast: Fast) -> None:
    async def work(name: str) -> None:
        current = asyncio.current_task()
        assert current is not None
        current.set_name(name)
        for _ in range(3):
            fast.log.info("step %d", 1)

    for name in ("one", "two"):
        asyncio.run(work(name))
    fast.log.info("step %d", 1)
    assert [vars(record)["taskName"] for record in fast.records()] == ["one"] * 3 + ["two"] * 3 + [None]


class _Drops(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return False


def _own_factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
    return logging.LogRecord(*args, **kwargs)


CHANGES: dict[str, Callable[[Fast, pytest.MonkeyPatch], object]] = {
    "a filter of the logger": lambda fast, patch: fast.log.addFilter(_Drops()),
    "a filter of the handler": lambda fast, patch: fast.handler.addFilter(_Drops()),
    "a disabled logger": lambda fast, patch: setattr(fast.log, "disabled", True),
    "a level of the handler": lambda fast, patch: fast.handler.setLevel(60),
    "another handler of the logger": lambda fast, patch: fast.log.addHandler(logging.NullHandler()),
    "another handler of the parent": lambda fast, patch: fast.parent.addHandler(logging.NullHandler()),
    "no propagation": lambda fast, patch: setattr(fast.log, "propagate", False),
    "a factory": lambda fast, patch: patch.setattr(logging, "_logRecordFactory", _own_factory),
    "a method of the class": lambda fast, patch: patch.setattr(logging.Logger, "handle", lambda *_: None),
    "callHandlers": lambda fast, patch: patch.setattr(logging.Logger, "callHandlers", lambda *_: None),
    "a method of the logger": lambda fast, patch: setattr(fast.log, "handle", lambda record: None),
    "a method of the handler": lambda fast, patch: setattr(fast.handler, "handle", lambda record: None),
    "logThreads": lambda fast, patch: patch.setattr(logging, "logThreads", False),
    "logProcesses": lambda fast, patch: patch.setattr(logging, "logProcesses", False),
    "logMultiprocessing": lambda fast, patch: patch.setattr(logging, "logMultiprocessing", False),
    "a formatter": lambda fast, patch: fast.handler.setFormatter(logging.Formatter("%(message)s!")),
    "a subclass": lambda fast, patch: setattr(fast.log, "__class__", type("Own", (logging.Logger,), {})),
    "filter of the class": lambda fast, patch: patch.setattr(logging.Logger, "filter", lambda *_: True),
    "handle of the handler's class": lambda fast, patch: patch.setattr(Counts, "handle", lambda *_: None),
    "LogRecord's own method": lambda fast, patch: patch.setattr(fast_logger, "_INIT", None),
    "getMessage": lambda fast, patch: patch.setattr(logging.LogRecord, "getMessage", lambda self: "text"),
    "getLevelName": lambda fast, patch: patch.setattr(logging, "getLevelName", lambda level: "level"),
    "no callers": lambda fast, patch: patch.setattr(logging, "_srcfile", None),
    "a clock": lambda fast, patch: patch.setattr(time, "time", lambda: 1.0),
    "no stream": lambda fast, patch: setattr(fast.handler, "record_stream", None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_by_the_next_call(fast: Fast, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    standard = logging.LogRecord.__init__

    def counted(self: logging.LogRecord, *args: Any, **kwargs: Any) -> None:
        made.append(1)
        standard(self, *args, **kwargs)

    monkeypatch.setattr(logging.LogRecord, "__init__", counted)
    monkeypatch.setattr(fast_logger, "_INIT", counted)

    def call() -> None:
        fast.log._log(logging.INFO, "step %d", (1,))

    for _ in range(4):
        call()
    assert len(made) == 1
    CHANGES[change](fast, monkeypatch)
    call()
    assert len(made) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.info("step %d", 1, extra={"a": 1}),
        lambda log: log.info("step %d", 1, exc_info=ValueError()),
        lambda log: log.info("step %d", 1, stack_info=True),
        lambda log: log.info("step %d", 1, stacklevel=2),
        lambda log: log.info("step %(a)d", {"a": 1}),
        lambda log: log.info("step %s", [1]),
        lambda log: log.info({"a": 1}),
        lambda log: log.info("step %d", 1 << 70),
    ],
)
def test_other_calls_take_the_standard_way(fast: Fast, call: Callable[[logging.Logger], None]) -> None:
    for enabled in (True, True, True, False):
        if not enabled:
            fast_logger.disable()
        assert fast.handled(lambda: call(fast.log))
    *before, after = [{**shown(record), "created": 0, "msecs": 0, "relativeCreated": 0} for record in fast.records()]
    assert [repr(each) for each in before] == [repr(after)] * 3


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_stacklevel_names_the_same_caller(fast: Fast, levels: int) -> None:
    def helper() -> None:
        fast.log.info("step", stacklevel=levels)

    def caller() -> None:
        helper()

    for enabled in (True, False):
        if not enabled:
            fast_logger.disable()
        caller()
    first, second = fast.records()
    assert (first.funcName, first.lineno) == (second.funcName, second.lineno)


def test_a_method_that_calls_log_itself_is_skipped_or_not_as_before(fast: Fast) -> None:
    def trace(msg: str, *args: object) -> None:
        fast.log._log(5, msg, args)

    def caller(enabled: bool) -> None:
        if not enabled:
            fast_logger.disable()
        trace("step %d", 1)

    for enabled in (True, True, True, False):
        caller(enabled)
    assert len({(record.funcName, record.lineno) for record in fast.records()}) == 1


def test_levels_that_are_no_plain_numbers_keep_their_names(fast: Fast) -> None:
    class Own(int):
        def __str__(self) -> str:
            return "own"

    for level in (25, Own(25), 25):
        fast.log.log(level, "step")
    names = [record.levelname for record in fast.records()]
    assert names == [logging.getLevelName(25), logging.getLevelName(Own(25)), logging.getLevelName(25)]


def test_calls_that_are_never_learned_are_soon_left_to_logging(fast: Fast, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(fast_logger, "_MAX_MISSES", 2)
    monkeypatch.setattr(encode, "_SITE_LIMIT", {False: 4, True: 2})
    learn = fast_logger._learn

    def counted(*args: Any) -> None:
        tried.append(1)
        learn(*args)

    monkeypatch.setattr(fast_logger, "_learn", counted)
    texts = []
    for number in range(300):
        fast.log.info(f"template {number} of %d", number)
        if number % 10 == 9:
            texts += [record.getMessage() for record in fast.records()]
    assert texts == [f"template {number} of {number}" for number in range(300)]
    assert len(tried) < 150


def test_code_that_is_compiled_again_and_again_is_not_kept(fast: Fast) -> None:
    for number in range(1500):
        exec(compile("log.info('step %d', 1)", f"made {number % 7}", "exec"), {"log": fast.log})
        if number % 20 == 0:
            fast.records()
    assert all(len(segment.codes) <= 1024 for segment in [fast.proc.stream.appender[0]])
