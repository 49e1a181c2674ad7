"""A console shows a line without a record exactly as it shows the record."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshlog_handler import ConsoleHandler, MeshFormatter
from meshlog_handler.dispatch.dispatcher import Dispatcher
from meshlog_handler.dispatch.sink import Sink
from meshlog_handler.dispatch.sinks import Sinks
from meshlog_handler.lines.captured import CapturedPipe
from meshlog_handler.lines.framer import Line
from meshlog_handler.protocol.decode import Item
from meshlog_handler.protocol.templates import TimedTemplate

from ..crossing import IDENTITY, decode, encode, make
from ..protocol.test_equal_ways import records


class Own(MeshFormatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return f"own {super().formatMessage(record)}"


class Shouting(ConsoleHandler):
    def emit(self, record: logging.LogRecord) -> None:
        record.msg = str(record.msg).upper()
        super().emit(record)


def _changed(**attributes: Any) -> MeshFormatter:
    made = MeshFormatter()
    vars(made).update(attributes)
    return made


FORMATTERS: dict[str, Callable[[], logging.Formatter | None]] = {
    "default": lambda: None,
    "no prefix": lambda: MeshFormatter(prefix=None),
    "other fields of the origin": lambda: MeshFormatter(prefix="{hostname}:{rank}:{stream} "),
    "coordinates": lambda: MeshFormatter(prefix="{coords} {coords[gpus]} "),
    "fields of the record": lambda: MeshFormatter(prefix="{name} {levelname} {rank} {lineno} "),
    "times": lambda: MeshFormatter(prefix="{rank} {asctime} "),
    "a format": lambda: MeshFormatter("%(levelname)s %(user)s %(message)s", defaults={"user": "-"}),
    "another style": lambda: MeshFormatter("{message}", style="{"),
    "colours": lambda: MeshFormatter(colour=True),
    "no colours": lambda: MeshFormatter(colour=False),
    "a subclass": Own,
    "of logging": lambda: logging.Formatter("%(message)s"),
    "changed": lambda: _changed(format=lambda record: "changed", render=lambda *_, **__: "rendered"),
}


def captured(text: str, *, whole: bool) -> list[Item]:
    pipe = CapturedPipe(-1, "stdout", base=logging.makeLogRecord({}).__dict__, identity=IDENTITY, max_line=9999)
    raw = text.encode("utf-8", "surrogatepass")
    plain = list(pipe._plain(raw, 1.0) or ()) if whole else []
    return plain or pipe.items([Line(raw, True, False, 0)], 1.0)


texts = st.sampled_from(["plain", "", "two\nlines", "\x1b[31mred\x1b[0m", "\x1b[2Kcleared", "é", "WARNING: hot", "a\rb"])
items = st.one_of(
    st.builds(captured, texts.filter(lambda text: "\n" not in text), whole=st.booleans()),
    st.builds(lambda text: decode(encode([make(text)])), texts),
    st.builds(lambda text: decode(encode([make("a %s", text, user="ann")])), texts),
    st.builds(lambda level: decode(encode([make("loud %d", 1, levelno=level)])), st.sampled_from([10, 30, 40])),
    st.builds(lambda record: decode(encode([record] * 2)), records()),
)


def shown(handler: ConsoleHandler, out: tuple[io.StringIO, io.StringIO]) -> tuple[str, str]:
    handler.flush()
    return out[0].getvalue(), out[1].getvalue()


@pytest.mark.parametrize("name", FORMATTERS)
def test_the_output_is_that_of_the_records(name: str) -> None:
    @settings(max_examples=15, deadline=None)
    @given(st.lists(items, max_size=5), st.sampled_from([0, 20, 40]), st.booleans(), st.sampled_from([None, "0", "5"]))
    def check(batches: list[list[Item]], level: int, respect: bool, ranks: str | None) -> None:
        found = []
        for by_records in (True, False):
            out = io.StringIO(), io.StringIO()
            handler = ConsoleHandler(*out, formatter=FORMATTERS[name](), ranks_filter=ranks)
            handler.setLevel(level)
            dispatcher = Dispatcher(Sinks(Sink((handler,), respect)))
            for item in (item for batch in batches for item in batch):
                if by_records:
                    built = item[1].build(item[2])
                    if not respect or built.levelno >= level:
                        handler.handle(built)
                else:
                    dispatcher.dispatch([item], 0.0)
            if not by_records:
                assert dispatcher.shown == sum(map(len, batches))
            found.append(shown(handler, out))
        assert found[0] == found[1]

    check()


def test_lines_make_no_records(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO(), io.StringIO()
    handler = ConsoleHandler(*out)
    dispatcher = Dispatcher(Sinks(Sink((handler,))))
    dispatcher.dispatch(decode(encode([make("step %d", 0)])), 0.0)  # makes the prefix
    monkeypatch.setattr(TimedTemplate, "build", lambda *_: pytest.fail("a record was made"))
    dispatcher.dispatch(decode(encode([make("step %d", number) for number in range(1, 3)])), 0.0)
    assert shown(handler, out) == ("", "[3] step 0\n[3] step 1\n[3] step 2\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda handler, patch: handler.addFilter(lambda record: "1" not in record.getMessage()),
        lambda handler, patch: handler.setFormatter(Own()),
        lambda handler, patch: patch.setattr(handler, "emit", lambda record: None),
        lambda handler, patch: patch.setattr(ConsoleHandler, "emit", lambda self, record: None),
        lambda handler, patch: patch.setattr(handler, "handle", lambda record: None),
        lambda handler, patch: handler.setLevel(50),
    ],
)
def test_a_change_is_seen_by_the_next_line(change: Callable[[ConsoleHandler, pytest.MonkeyPatch], object]) -> None:
    out = io.StringIO(), io.StringIO()
    handler = ConsoleHandler(*out)
    dispatcher = Dispatcher(Sinks(Sink((handler,))))
    sent = decode(encode([make("step %d", 1)]))
    dispatcher.dispatch(sent, 0.0)
    with pytest.MonkeyPatch.context() as patch:
        change(handler, patch)
        dispatcher.dispatch(sent, 0.0)
    assert shown(handler, out)[1] in ("[3] step 1\n", "[3] step 1\n[3] own step 1\n")


def test_a_subclass_gets_records() -> None:
    out = io.StringIO(), io.StringIO()
    handler = Shouting(*out)
    Dispatcher(Sinks(Sink((handler,)))).dispatch(decode(encode([make("step")] * 2)), 0.0)
    assert shown(handler, out)[1] == "[3] STEP\n" * 2
