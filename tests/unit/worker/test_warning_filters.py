"""Warning filters sent to a worker, and warnings logged there."""

from __future__ import annotations

import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from meshlog_handler.protocol.messages import Command, LogWarnings, decode
from meshlog_handler.testing import RecordCollector
from meshlog_handler.worker.warning_filters import LOGGER, log_warnings, warnings_command


class LocalWarning(UserWarning):
    """A category of a module that is loaded."""


class Text(str):
    """A subclass of `str`, which is not plain data."""


@pytest.fixture(autouse=True)
def own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        yield


@pytest.fixture
def collector() -> Iterator[RecordCollector]:
    handler, logger = RecordCollector(), logging.getLogger(LOGGER)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def send_filters() -> Any:
    """Encode this process's filters, apply them in place of others, and return the filters then in use."""
    command = decode(warnings_command().encode(), Command)
    assert isinstance(command, LogWarnings)
    warnings.resetwarnings()
    warnings.simplefilter("error")
    log_warnings(command.filters)
    return list(warnings.filters)


def absent_category() -> type[Warning]:
    """Return a category of a module that is not loaded."""
    module = ModuleType("absent")
    exec("class Outer:\n class Absent(UserWarning):\n  pass\nclass Special(Outer.Absent):\n pass", module.__dict__)
    found: type[Warning] = module.__dict__["Outer"].Absent
    return found


def test_filters_arrive_unchanged() -> None:
    warnings.simplefilter("always", ResourceWarning, 7, append=True)
    warnings.simplefilter("ignore", (UserWarning, LocalWarning))
    warnings.filterwarnings("once", r"a (message|text)\d", LocalWarning, r"some\.module", 12)
    warnings.filters.insert(0, ("default", None, DeprecationWarning, "__main__", 0))  # type: ignore[attr-defined]  # a list
    before = list(warnings.filters)
    assert send_filters() == before
    # Patterns keep their flags: messages match in any case.
    assert [each[1].flags & re.I for each in before if each[1] is not None and not isinstance(each[1], str)] == [re.I]


def test_a_filter_that_cannot_be_encoded_is_left_out() -> None:
    warnings.simplefilter("always")
    messages: tuple[object, ...] = (5, Text("a"))
    for odd in (*(("ignore", message, UserWarning, None, 0) for message in messages), ("ignore", None, "name", None, 0), ()):
        warnings.filters.insert(0, odd)  # type: ignore[attr-defined]  # added directly
    assert len(send_filters()) == 1


def test_a_category_that_is_not_loaded_matches_by_name(collector: RecordCollector) -> None:
    warnings.simplefilter("always")
    absent = absent_category()
    warnings.simplefilter("ignore", absent)
    assert "absent" not in sys.modules
    send_filters()
    assert "absent" not in sys.modules
    for category in (absent, LocalWarning, *absent.__subclasses__(), type("Absent", (UserWarning,), {})):
        warnings.warn(category.__name__, category, stacklevel=1)
    assert [message.partition(": ")[2].split("\n")[0] for message in collector.messages] == [
        "LocalWarning: LocalWarning",
        "Absent: Absent",
    ]


def test_a_warning_becomes_a_record_with_the_file_and_line_of_the_warning(collector: RecordCollector) -> None:
    warnings.simplefilter("default")
    send_filters()
    registry: dict[Any, Any] = {}
    for line in (3, 3, 4):
        warnings.warn_explicit("100% old", DeprecationWarning, "/srv/app.py", line, registry=registry)
    assert collector.messages == [f"/srv/app.py:{line}: DeprecationWarning: 100% old" for line in (3, 4)]
    record = collector.records[0]
    assert (record.name, record.levelno, record.pathname, record.lineno) == ("py.warnings", logging.WARNING, "/srv/app.py", 3)


def test_earlier_decisions_are_cleared(collector: RecordCollector) -> None:
    registry: dict[Any, Any] = {}
    warnings.simplefilter("default")
    for _ in range(2):
        send_filters()
        warnings.warn_explicit("old", UserWarning, "/srv/app.py", 3, registry=registry)
    assert len(collector.records) == 2


def test_an_error_filter_raises_and_a_given_file_is_written_to(collector: RecordCollector) -> None:
    warnings.simplefilter("error", LocalWarning)
    send_filters()
    with pytest.raises(LocalWarning):
        warnings.warn("no", LocalWarning, stacklevel=1)
    output = io.StringIO()
    warnings.showwarning("text", UserWarning, "/srv/app.py", 3, output)
    assert output.getvalue() == "/srv/app.py:3: UserWarning: text\n"
    assert collector.records == []


def test_the_level_of_the_logger_applies(collector: RecordCollector) -> None:
    warnings.simplefilter("always")
    send_filters()
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.ERROR)
    try:
        warnings.warn("not shown", UserWarning, stacklevel=1)
    finally:
        logger.setLevel(logging.NOTSET)
    assert collector.records == []
