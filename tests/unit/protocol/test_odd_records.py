"""Odd records. Each arrives with as much data as possible, and does not affect other records."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import re
import sys
import threading
from collections import OrderedDict, UserDict
from collections.abc import Callable
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import pytest

from meshlog_handler.errors import ProtocolError
from meshlog_handler.protocol.codec import MAX_DEPTH
from meshlog_handler.protocol.decode import TaggedTemplate
from meshlog_handler.protocol.encode import RecordEncoder, SchemaTable, encode_record

from ..crossing import cross, decode, encode, make
from .test_codec import Point, nested, same


class Broken:
    def __str__(self) -> str:
        raise LookupError("no text")

    __repr__ = __str__


class NotText:
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # as in a class with a bug


class Markup(str):
    """A text whose operations return texts of the same class, as in template engines."""

    __slots__ = ()

    def __str__(self) -> str:
        return self

    def __mod__(self, args: object) -> Markup:
        return Markup(f"<{str.__mod__(self, args)}>")


class Word(str, Enum):
    LOUD = "loud"


class Level(IntEnum):
    HIGH = 35


class Braces(logging.LogRecord):
    """A record of a program that formats its messages in another style."""

    def getMessage(self) -> str:
        args: Any = self.args
        return str(self.msg).format(*args)


def braces(msg: str, *args: object) -> logging.LogRecord:
    return Braces("app", logging.INFO, "/srv/app.py", 7, msg, args, None)


class BadError(Exception):
    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]  # the first attribute that a traceback reads
        raise LookupError("no cause")


def caught(error: BaseException) -> Any:
    try:
        raise error
    except BaseException:
        return sys.exc_info()


OWN = object()
"""The expected message is ``record.getMessage()`` of the original."""

ODD: dict[str, tuple[Callable[[], logging.LogRecord], object]] = {
    "a lambda": (lambda: make("got %s", lambda: 1), OWN),
    "%d with a text": (lambda: make("%d", "x"), re.compile(r"%d \('x',\) \[cannot be formatted: TypeError: .*\]")),
    "too many arguments": (lambda: make("plain", 1, 2), re.compile(r"plain \(1, 2\) \[cannot be formatted: TypeError.*")),
    "too few arguments": (lambda: make("%s %s", 1), re.compile(r"%s %s \(1,\) \[cannot be formatted: TypeError.*")),
    "no such conversion": (lambda: make("%y", 1), re.compile(r"%y \(1,\) \[cannot be formatted: ValueError.*")),
    "10 MB": (lambda: make("x" * 10_000_000), "x" * 10_000_000),
    "a 10 MB argument": (lambda: make("%s", "x" * 10_000_000), "x" * 10_000_000),
    "NUL": (lambda: make("a\0b %s", "\0"), "a\0b \0"),
    "a lone surrogate": (lambda: make("\ud800 %s", "\udfff"), "\ud800 \udfff"),
    "no text": (lambda: make("%s", Broken()), "<Broken object: its __str__ raised LookupError>"),
    "no text in a list": (lambda: make("%s", [Broken()]), "['<Broken object: its __str__ raised LookupError>']"),
    "a __str__ that returns an int": (lambda: make("%s", NotText()), "<NotText object: its __str__ raised TypeError>"),
    "a message that has no text": (lambda: make(Broken()), "<Broken object: its __str__ raised LookupError>"),
    "a message that has no text, and arguments": (lambda: make(Broken(), 1), re.compile("<Broken.*cannot be formatted")),
    "an int of 65 bits": (lambda: make("%d %x", 1 << 64, -(1 << 200)), OWN),
    "an int of 5000 digits": (lambda: make("%x", 10**5000), OWN),
    "an int of 5000 digits in decimal": (lambda: make("%d", 10**5000), re.compile("%d .*cannot be formatted: TypeError.*")),
    "an extra of 5000 digits": (lambda: make("got %d", 5, size=10**5000, least=-(10**5000)), OWN),
    "a width of a million": (lambda: make("%1000000d|", 5), OWN),
    "a width that is an argument": (lambda: make("%*d|%.*f", 100000, 5, 3, 0.5), OWN),
    "a level of 3000 bits": (lambda: make("level", levelno=1 << 3000), OWN),
    "nan and infinities": (lambda: make("%f %s %r", math.nan, math.inf, -math.inf), "nan inf -inf"),
    "dict arguments": (lambda: make("%(a)s %(b)d", {"a": "x", "b": 3}), "x 3"),
    "dict arguments with a lock": (lambda: make("%(a)s %(b)s", {"a": 1, "b": threading.Lock()}), OWN),
    "an empty dict": (lambda: make("%s", {}), "{}"),
    "a mapping proxy": (lambda: make("%(a)s", MappingProxyType({"a": 1})), "1"),
    "a mapping class of the user": (lambda: make("%(a)s", UserDict(a=1)), "1"),
    "an ordered dict": (lambda: make("%(a)s", OrderedDict(a=1)), "1"),
    "a list for arguments": (lambda: make("%s", args=[1, 2]), "[1, 2]"),
    "None for arguments": (lambda: make("hello %s", args=None), "hello %s"),
    "a message that is an int": (lambda: make(5), "5"),
    "a message that is an exception": (lambda: make(ValueError("why")), "why"),
    "a message that is a dict": (lambda: make({"step": 5}), "{'step': 5}"),
    "an object as a message, with arguments": (lambda: make(mock.Mock(__str__=lambda _: "step %d"), 5), "step 5"),
    "a text of another class": (lambda: make(Markup("step %s"), 5), "<step 5>"),
    "an argument of another class of text": (lambda: make("step %s", Markup("five")), "step five"),
    "an enum that is a text": (lambda: make("%s", Word.LOUD), OWN),
    "a mock with the class of a text": (lambda: make("%s %d", mock.MagicMock(spec=str), 5), OWN),
    "a message that is such a mock": (lambda: make(mock.Mock(spec=str)), OWN),
    "a named tuple": (lambda: make("%s", Point(1)), "Point(x=1)"),
    "nested to the maximum depth": (lambda: make("%s", nested(MAX_DEPTH - 2)), OWN),
    "nested a little deeper": (lambda: make("%s %d", nested(MAX_DEPTH - 1), 5), OWN),
    "nested far too deep": (lambda: make("%.5s", nested(100_000)), re.compile("<list|\\[\\[\\[\\[\\[")),
    "another format": (lambda: braces("{} of {}", 1, 2), "1 of 2"),
    "another format, of an object": (lambda: braces("{}", Level), "<enum 'Level'>"),
    "another format that fails": (lambda: braces("{} {}", 1), re.compile(r"\{\} \{\} \(1,\) \[cannot be formatted.*")),
    "a level that is an enum": (lambda: make(levelno=Level.HIGH), OWN),
    "a level of many bits": (lambda: make(levelno=1 << 70), OWN),
    "a level as text": (lambda: make(levelno="20"), OWN),
    "no level": (lambda: make(levelno=None, levelname=None), OWN),
    "a float level": (lambda: make(levelno=20.5), OWN),
    "times as whole numbers": (lambda: make(created=5, msecs=0, relativeCreated=1), OWN),
    "times as text": (lambda: make(created="5.5", msecs="now", relativeCreated=None), OWN),
    "infinite times": (lambda: make(created=10**400, msecs=math.inf, relativeCreated=math.nan), OWN),
    "a line that is a list": (lambda: make("at %d", 5, lineno=[1], pathname=["a"], threadName=[1], process={}), OWN),
    "a thread that is a list": (lambda: make("at %d", 5, thread=[1]), OWN),
    "a name that is no text": (lambda: make(name=Word.LOUD, funcName=5, module=None), OWN),
    "attributes that have no text": (lambda: make(name=Broken(), pathname=Broken(), threadName=Broken()), OWN),
    "a stack that is no text": (lambda: make(stack_info=Broken()), OWN),
    "exception info without an exception": (lambda: make(exc_info=True), OWN),
    "an extra with an enum as name": (lambda: make(**{Word.LOUD: 1}), OWN),
    "a lock as extra": (lambda: make(lock=threading.Lock(), lost=Broken(), deep=nested(40)), OWN),
    "formatted before": (lambda: make("hello %d", 5, message="hello 5", asctime="now"), "hello 5"),
    "a broken exception": (lambda: make(exc_info=caught(BadError("x"))), OWN),
    "an exception with a text as traceback": (lambda: make(exc_info=(ValueError, ValueError("x"), "no traceback")), OWN),
    "an exception by its name": (lambda: make(exc_info=("ValueError", "x", None)), OWN),
}


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # from a mock of a deprecated attribute
@pytest.mark.parametrize("case", ODD)
def test_an_odd_record_arrives(case: str) -> None:
    record, expected = ODD[case][0](), ODD[case][1]
    own = record.getMessage() if expected is OWN else expected
    table = SchemaTable()
    stream = encode([make("before"), record, record, make("after"), make("after")], table)
    before, odd, again, *after = [template.build(values) for _, template, values in decode(stream)]
    assert [each.getMessage() for each in (before, *after)] == ["before", "after", "after"]
    for each in (odd, again):
        found = each.getMessage()
        assert own.match(found) if isinstance(own, re.Pattern) else found == own
        assert type(each.levelno) is int
        assert type(each.created) is float
        logging.Formatter("%(name)s %(levelname)s %(pathname)s %(lineno)s %(threadName)s %(process)s %(message)s").format(each)


def test_the_template_of_an_odd_record_has_the_same_text() -> None:
    for make_one, _ in ODD.values():
        for _, template, values in decode(encode([make_one()])):
            assert template.text(values) == template.build(values).getMessage()


def test_levels_become_numbers() -> None:
    odd = [make(levelno=Level.HIGH), make(levelno="20"), make(levelno=None), make(levelno=20.5), make(levelno=True)]
    assert [found.levelno for found in cross(*odd)] == [35, 20, 0, 20, 1]


def test_times_become_numbers() -> None:
    whole, text, endless = cross(make(created=5, msecs=1), make(created="5.5", msecs="x"), make(created=10**400))
    assert (whole.created, whole.msecs, text.created) == (5.0, 1.0, 5.5)
    assert 0 < endless.created < math.inf


def test_extras_are_kept_if_plain_and_become_text_if_not() -> None:
    lock = threading.Lock()
    (found,) = cross(make(plain=[1, None], lock=lock, lost=Broken(), deep=nested(MAX_DEPTH - 1), **{Word.LOUD: 5}))
    assert found.plain == [1, None]  # type: ignore[attr-defined]  # an extra
    assert str(found.deep).count("[") == MAX_DEPTH - 1  # type: ignore[attr-defined]  # an extra; the deepest part is text
    assert found.lock == str(lock)  # type: ignore[attr-defined]  # an extra
    assert "LookupError" in found.lost  # type: ignore[attr-defined]  # an extra
    assert found.loud == 5  # type: ignore[attr-defined]  # an extra


@pytest.mark.parametrize(("name", "known"), [("rank", 3), ("hostname", "node"), ("coords", {"gpus": 3}), ("stream", None)])
def test_extras_do_not_change_the_identity_of_a_worker(name: str, known: object) -> None:
    (found,) = cross(make(**{name: "other"}))
    assert getattr(found.meshlog, name) == known
    assert getattr(found, name) == "other", "an extra keeps its name"
    (found,) = cross(make())
    assert getattr(found, name) == known


def test_extras_do_not_make_a_record_an_aggregated_one() -> None:
    (found,) = cross(make(count=5, ranks=(0, 1)))
    assert (found.meshlog.count, found.meshlog.ranks) == (None, None)
    assert (vars(found)["count"], vars(found)["ranks"]) == (5, (0, 1)), "ordinary extras"


def test_the_text_of_a_traceback_is_that_of_the_process() -> None:
    for info in (caught(ValueError("why")), (None, None, None)):
        (found,) = cross(make(exc_info=info))
        assert found.exc_text == logging.Formatter().formatException(info)
        assert logging.Formatter().formatException(found.exc_info or info) == found.exc_text


def test_a_text_replaces_a_traceback_that_cannot_be_formatted() -> None:
    (found,) = cross(make(exc_info=caught(BadError("x"))))
    text = found.exc_text or ""
    # Some versions of Python can format it.
    assert "BadError" in text
    (found,) = cross(make(exc_info=(ValueError, ValueError("x"), "no traceback")))
    assert "cannot be formatted: AttributeError" in (found.exc_text or "")


def test_tracebacks_have_a_signature_without_the_message() -> None:
    errors = [ValueError("a"), ValueError("b"), KeyError("a")]
    items = decode(encode([make(exc_info=caught(error)) for error in errors]))
    one, other, another = (template.signature(values) for _, template, values in items)
    assert one == other != another
    assert one[0] == "builtins.ValueError"


def test_an_extra_is_not_taken_for_a_signature() -> None:
    ((_, template, values),) = decode(encode([make(exc_signature=("mine",), signature=("mine",))]))
    assert template.signature(values) is None
    with pytest.raises(ProtocolError):
        TaggedTemplate.of(template, (), {}, {"signature": [1]})
    with pytest.raises(ProtocolError):
        TaggedTemplate.of(template, (), {}, {"rank": 9})


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __str__(self) -> str:
        self.calls += 1
        return f"call {self.calls}"


def test_arguments_are_rendered_once_and_not_for_each_segment() -> None:
    argument, changing = Counted(), [1]
    encoder = RecordEncoder(make("%s %s", argument, changing, lost=argument))
    first = encoder(SchemaTable())
    calls = argument.calls
    second = encoder(SchemaTable())
    assert argument.calls == calls
    assert same(*(decode(encoded.data)[0][2] for encoded in (first, second)))


def test_an_interrupt_is_not_swallowed() -> None:
    impatient = mock.Mock(__str__=mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        encode_record(make("%s", impatient), SchemaTable())


class Number:
    """Like a NumPy number: not plain data, but it can be formatted as a number."""

    def __float__(self) -> float:
        return 0.5

    def __str__(self) -> str:
        return "half"


@pytest.mark.parametrize(
    ("msg", "arg", "text"),
    [
        ("loss %.3f", Number(), "loss 0.500"),
        ("loss %s", Number(), "loss half"),
        ("100%% %.1f", Number(), "100% 0.5"),
        ("%r", Number, f"{Number!r}"),
        ("%r", Path("a"), "PosixPath('a')"),
    ],
)
def test_a_copy_of_a_record_has_the_same_text_and_template(msg: str, arg: object, text: str) -> None:
    (record,) = cross(make(msg, arg))
    # `makeLogRecord`: structlog's formatter makes a plain record.
    for copied in (record, logging.makeLogRecord(vars(record)), pickle.loads(pickle.dumps(record)), copy.copy(record)):
        assert copied.getMessage() == text
        assert (copied.msg, copied.args) == (msg, (str(arg),))


@pytest.mark.parametrize(
    ("msg", "args", "by_template"),
    [
        ("step %d", (1,), True),
        ("%s", ("a",), False),
        ("%s: %-8.3f%%", ("a", 0.5), False),
        ("%5d %x", (1, 2), False),
        ("%s items", (3,), True),
        ("%*d", (3, 2), False),
        ("\u00fc %s", (1,), True),
        ("-> %s", (1,), False),
    ],
)
def test_records_are_grouped_by_template_only_if_it_has_words(msg: str, args: tuple[object, ...], by_template: bool) -> None:
    ((_, template, _),) = decode(encode([make(msg, *args)]))
    assert (template.group is not None) is by_template
