from __future__ import annotations

import copy
import io
import logging
import logging.handlers
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler.dispatch.sink import Sink, own_info
from meshlog_handler.dispatch.sinks import Sinks
from meshlog_handler.output.console import ConsoleHandler
from meshlog_handler.protocol.record import MeshInfo, MeshRecord, info_of
from meshlog_handler.testing import RecordCollector


def record(name: str = "app", level: int = logging.INFO, msg: str = "text", **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord(name, level, __file__, 1, msg, (), None)
    made.__dict__.update(extra)
    return made


@pytest.fixture
def loggers() -> Iterator[None]:
    """Remove new loggers and restore the root logger."""
    root, manager = logging.root, logging.Logger.manager
    before, known = root.handlers[:], dict(manager.loggerDict)
    root.handlers[:] = []
    yield
    root.handlers[:] = before
    manager.loggerDict.clear()
    manager.loggerDict.update(known)


class HasSink(logging.Handler):
    """A handler with a sink, like a `MeshHandler`."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self.sink = sink


def three() -> tuple[Sinks, list[Sink]]:
    sinks = Sinks()
    made = [Sink([RecordCollector()]) for _ in range(3)]
    for sink in made:
        sinks.add(sink)
    return sinks, made


def test_a_number_finds_its_sink() -> None:
    sinks, made = three()
    assert [sinks.find(sink.number, "any") for sink in made] == [(sink,) for sink in made]


def test_a_name_finds_its_latest_sink_and_a_number_always_the_same() -> None:
    sinks, (first, second, _) = three()
    sinks.name(first, "mesh")
    assert sinks.find("mesh", "any") == (first,)
    sinks.retire(first)
    sinks.name(second, "mesh")
    assert sinks.find("mesh", "any") == (second,)
    assert sinks.find(first.number, "any") == (first,)


def test_without_a_route_the_loggers_of_this_process_decide(loggers: None) -> None:
    sinks, (first, second, third) = three()
    logging.root.addHandler(HasSink(first))
    logging.getLogger("access").addHandler(HasSink(second))
    logging.getLogger("access").propagate = False
    logging.getLogger("both").addHandler(HasSink(third))
    logging.getLogger("both.part")
    assert sinks.find(None, "anything.else") == (first,)
    assert sinks.find(None, "access") == sinks.find(None, "access.of.a.kind") == (second,)
    assert sinks.find(None, "both.part.of") == (third, first)
    assert "anything.else" not in logging.Logger.manager.loggerDict, "the search creates no logger"


def test_a_sink_of_another_client_is_not_found(loggers: None) -> None:
    sinks, made = three()
    logging.root.addHandler(HasSink(Sink([RecordCollector()])))
    assert sinks.find(None, "any") == (made[-1],)


def test_records_of_unknown_routes_go_to_the_handlers_of_the_client(loggers: None) -> None:
    default = Sink([RecordCollector()])
    sinks = Sinks(default)
    assert sinks.find(None, "any") == sinks.find("mesh", "any") == sinks.find(7, "any") == (default,)


def test_handlers_that_accepted_a_record_get_it_without_filtering_it_again() -> None:
    asked: list[str] = []

    class Asks(logging.Filter):
        def filter(self, each: logging.LogRecord) -> bool:
            asked.append(self.name)
            return self.name != "1"

    collectors = [RecordCollector() for _ in range(3)]
    for number, collector in enumerate(collectors):
        collector.addFilter(Asks(str(number)))
    sinks = Sinks()
    sink = Sink(collectors)
    sinks.add(sink)
    passed, texts = sink.prepared(record(), own_info())
    assert (passed, texts, asked) == ((0, 2), (), ["0", "1", "2"])
    (narrowed,) = sinks.find((sink.number, passed), "any")
    narrowed.deliver(record())
    assert [len(collector.records) for collector in collectors] == [1, 0, 1]
    assert asked == ["0", "1", "2"]
    assert sinks.find((sink.number, ()), "any") == ()
    assert sinks.find((sink.number, (99, -99)), "any")[0].handlers == ()


def test_routes_that_peers_invent_take_bounded_memory() -> None:
    sinks, (first, *_) = three()
    for number in range(2000):
        sinks.find((first.number, (number,)), "any")
    assert len(sinks.all()) < 300


def test_only_the_latest_configurations_are_kept() -> None:
    sinks = Sinks()
    for _ in range(3000):
        sink = Sink([RecordCollector()])
        sinks.add(sink)
        sinks.name(sink, "mesh")
    assert len(sinks.all()) <= 1024
    assert sinks.find("mesh", "any") == (sink,)


def test_a_closed_file_is_appended_to(tmp_path: Path) -> None:
    file = logging.FileHandler(tmp_path / "log", mode="w")
    sinks, sink = Sinks(), Sink([file])
    sinks.add(sink)
    sink.deliver(record(msg="before"))
    sinks.retire(sink)
    file.close()
    sink.deliver(record(msg="after"))
    file.close()
    assert (tmp_path / "log").read_text() == "before\nafter\n"


# -- on the calling thread ------------------------------------------------------------------------------------------


def test_attributes_of_the_client_are_on_a_copy_and_extras_keep_their_names() -> None:
    collector = RecordCollector()
    mine = record(rank=7, user="ada")
    before = dict(vars(mine))
    Sink([collector]).show_here(mine)
    (shown,) = collector.records
    assert vars(mine) == before
    assert (shown.rank, shown.user, shown.coords) == (7, "ada", {})  # type: ignore[attr-defined]  # extras
    assert info_of(shown).rank is None


class Odd(logging.LogRecord):
    """A record class that overrides `getMessage`."""

    def getMessage(self) -> str:
        """Return the message with a prefix."""
        return f"odd {super().getMessage()}"


def test_a_record_class_of_the_program_keeps_its_methods_and_can_be_copied() -> None:
    collector = RecordCollector()
    Sink([collector]).show_here(Odd("app", 20, "", 1, "text", (), None))
    (shown,) = collector.records
    assert shown.getMessage() == "odd text"
    assert copy.copy(shown).getMessage() == "odd text"
    assert pickle.loads(pickle.dumps(shown)).getMessage() == "odd text"


def test_records_of_a_handler_do_not_reach_its_own_sink_but_another() -> None:
    other = RecordCollector()
    elsewhere = Sink([other])

    class Logs(RecordCollector):
        def emit(self, each: logging.LogRecord) -> None:
            super().emit(each)
            sink.show_here(record(msg="again"))
            elsewhere.show_here(record(msg="elsewhere"))

    collector = Logs()
    sink = Sink([collector])
    sink.show_here(record())
    assert collector.messages == ["text"]
    assert other.messages == ["elsewhere"]
    sink.show_here(record())
    assert collector.messages == ["text", "text"], "the next one is shown"


class Raises(logging.Handler):
    def __init__(self, failure: BaseException) -> None:
        super().__init__()
        self.failure = failure

    def emit(self, record: logging.LogRecord) -> None:
        raise self.failure


def test_an_exception_is_reported_once_and_the_other_handlers_get_the_record(capfd: pytest.CaptureFixture[str]) -> None:
    collector = RecordCollector()
    sink = Sink([Raises(OSError("full")), collector])
    sink.show_here(record())
    sink.deliver(record())
    assert collector.messages == ["text", "text"]
    assert capfd.readouterr().err.count("full") == 1


def test_on_the_calling_thread_an_exit_ends_the_call_as_in_plain_logging() -> None:
    sink = Sink([Raises(SystemExit(3))])
    with pytest.raises(SystemExit):
        sink.show_here(record())
    with pytest.raises(SystemExit):
        sink.show_here(record())


def test_levels_of_handlers_apply_unless_switched_off() -> None:
    collector = RecordCollector(logging.WARNING)
    Sink([collector]).show_here(record())
    assert collector.records == []
    Sink([collector], respect_handler_level=False).show_here(record())
    assert collector.messages == ["text"]


def test_a_formatter_set_later_gets_the_attributes_of_the_client(tmp_path: Path) -> None:
    file = logging.FileHandler(tmp_path / "log")
    sink = Sink([file])
    sink.show_here(record(msg="one"))
    file.setFormatter(logging.Formatter("%(rank)s %(message)s"))
    sink.show_here(record(msg="two"))
    file.close()
    assert (tmp_path / "log").read_text() == "one\nNone two\n"


def test_later_handlers_see_the_attributes_that_a_filter_sets() -> None:
    class Sets(logging.Filter):
        def filter(self, each: logging.LogRecord) -> bool:
            each.request = 5
            each.msg = "without the password"
            return True

    collector = RecordCollector()
    collector.addFilter(Sets())
    mine = record()
    before = set(vars(mine))
    Sink([collector]).show_here(mine)
    assert mine.request == 5  # type: ignore[attr-defined]  # the filter's
    assert mine.getMessage() == "without the password"
    assert vars(mine).keys() - before <= {"request", "message"}  # nothing of what a client adds


class Adds(logging.Filter):
    """Changes a record in place, or returns a changed copy, as a filter may since Python 3.12."""

    def __init__(self, word: str, new: bool = False) -> None:
        super().__init__()
        self.word, self.new = word, new

    def filter(self, each: logging.LogRecord) -> Any:
        changed = copy.copy(each) if self.new else each
        changed.msg = f"{each.msg} {self.word}"
        return changed if self.new else True


def shown_by(handlers: list[logging.Handler], directory: Path) -> list[str]:
    """Show a record of another process, in which the filters ran; return the text of each file."""
    sink, mine = Sink(handlers), record()
    accepted, texts = sink.prepared(mine, MeshInfo(3))
    arrived = MeshRecord.of({**vars(mine), "rank": 3}, MeshInfo(3, texts=texts))
    sink.narrowed(accepted).deliver(arrived)
    sink.flush()
    for handler in handlers:
        handler.close()
    return [(directory / str(number)).read_text() for number in range(len(handlers))]


def files(directory: Path, *filters: logging.Filter | None) -> list[logging.Handler]:
    made: list[logging.Handler] = []
    for number, each in enumerate(filters):
        made.append(logging.FileHandler(directory / str(number)))
        if each is not None:
            made[-1].addFilter(each)
    return made


def test_a_change_in_place_by_a_filter_is_shown_by_its_handler_and_later_ones(tmp_path: Path) -> None:
    handlers = files(tmp_path, None, Adds("a"), None, Adds("b"))
    assert shown_by(handlers, tmp_path) == ["text\n", "text a\n", "text a\n", "text a b\n"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="filters return records since Python 3.12")
def test_a_record_that_a_filter_returns_is_shown_by_its_handler_alone(tmp_path: Path) -> None:
    handlers = files(tmp_path, Adds("a", new=True), None, Adds("b"), None)
    assert shown_by(handlers, tmp_path) == ["text a\n", "text\n", "text b\n", "text b\n"]


def test_a_handler_that_overrides_format_formats_what_a_later_filter_has_not_changed(tmp_path: Path) -> None:
    class Upper(logging.FileHandler):
        def format(self, each: logging.LogRecord) -> str:
            return super().format(each).upper()

    changes = logging.FileHandler(tmp_path / "1")
    changes.addFilter(Adds("a"))
    assert shown_by([Upper(tmp_path / "0"), changes], tmp_path) == ["TEXT\n", "text a\n"]  # as in plain logging


@pytest.mark.skipif(sys.version_info < (3, 12), reason="filters return records since Python 3.12")
def test_a_handler_that_uses_the_record_gets_the_record_of_its_filter() -> None:
    collector = RecordCollector()
    collector.addFilter(Adds("without the password", new=True))
    sink, mine = Sink([collector]), record()
    sink.prepared(mine, MeshInfo(3))
    assert mine.getMessage() == "text without the password"


def test_a_handler_that_keeps_records_gets_the_attributes_of_the_client() -> None:
    target = RecordCollector()
    memory = logging.handlers.MemoryHandler(10, target=target)
    Sink([memory]).show_here(record())
    memory.close()
    assert target.records[0].rank is None  # type: ignore[attr-defined]  # added by the client


class Quiet(RecordCollector):
    """A handler that rejects warnings by its own `filter`."""

    def filter(self, record: logging.LogRecord) -> Any:
        """Reject warnings."""
        return record.levelno < logging.WARNING


def test_a_filter_method_of_a_handler_decides_here_and_in_other_processes() -> None:
    collector = Quiet()
    sink = Sink([collector])
    sink.show_here(record())
    sink.show_here(record(level=logging.WARNING))
    assert len(collector.records) == 1
    assert sink.particular
    assert sink.prepared(record(), own_info()).accepted == (0,)
    assert sink.prepared(record(level=logging.WARNING), own_info()).accepted == ()


def test_what_a_program_sets_on_a_handler_is_used_from_the_next_record_on() -> None:
    collector, others = RecordCollector(), RecordCollector()
    sink = Sink([collector])
    sink.show_here(record())
    collector.emit = others.emit  # type: ignore[method-assign]  # as a program may do
    sink.show_here(record())
    collector.filters = [lambda record: False]
    sink.show_here(record())
    assert (len(collector.records), len(others.records)) == (1, 1)


def test_the_filters_of_a_handler_do_not_get_records_below_its_level() -> None:
    errors, seen = RecordCollector(), list[int]()

    def note(record: logging.LogRecord) -> bool:
        seen.append(record.levelno)
        return True

    errors.setLevel(logging.ERROR)
    errors.addFilter(note)
    sink = Sink([errors, RecordCollector()])
    assert sink.prepared(record(), own_info()).accepted == (0, 1)
    assert sink.prepared(record(level=logging.ERROR), own_info()).accepted == (0, 1)
    assert seen == [logging.ERROR]
    everything = Sink([errors], respect_handler_level=False)
    everything.prepared(record(), own_info())
    assert seen == [logging.ERROR, logging.INFO]


def test_later_handlers_see_the_hostname_that_a_filter_sets() -> None:
    collector = RecordCollector()

    def mark(record: logging.LogRecord) -> bool:
        record.hostname = "of the program"
        return True

    collector.addFilter(mark)
    mine = record()
    Sink([collector]).show_here(mine)
    assert {name: mine.__dict__.get(name, "absent") for name in ("hostname", "rank", "meshlog")} == {
        "hostname": "of the program",
        "rank": "absent",
        "meshlog": "absent",
    }


def test_a_sink_without_handlers_uses_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    Sink([]).show_here(record())
    assert capsys.readouterr().err == "text\n"


def test_a_formatter_applies_to_the_handlers_that_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, none = logging.FileHandler(tmp_path / "own"), logging.FileHandler(tmp_path / "none")
    own.setFormatter(logging.Formatter("own %(message)s"))
    sink = Sink([own, none, ConsoleHandler()])
    sink.set_formatter(logging.Formatter("given %(rank)s %(message)s"))
    sink.show_here(record())
    sink.deliver(MeshRecord.of({**vars(record()), "rank": 4}, MeshInfo(4)))
    sink.narrowed([0, 1]).deliver(MeshRecord.of({**vars(record()), "rank": 5}, MeshInfo(5)))
    sink.set_formatter(None)
    sink.show_here(record())
    sink.flush()
    for handler in (own, none):
        handler.close()
    assert (tmp_path / "own").read_text() == "own text\n" * 4
    assert (tmp_path / "none").read_text() == "given None text\ngiven 4 text\ngiven 5 text\ntext\n"
    assert capsys.readouterr().err == "given None text\ngiven 4 text\ntext\n"
    assert none.formatter is None, "the handler itself is unchanged"


def test_flushing_a_closed_stream_reports_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    sink = Sink((logging.StreamHandler(stream),))
    stream.close()
    sink.flush()
    assert capfd.readouterr().err == ""
