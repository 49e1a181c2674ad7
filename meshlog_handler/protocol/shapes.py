"""Shapes of records: which attributes the records of a schema share, and what their values are called."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final

from .known_traces import KnownTrace
from .packers import OBJECT, codes_in, codes_of
from .record import FORMATTED, PLAIN_SIZE

HAS_TASK_NAME: Final = sys.version_info >= (3, 12)
ERROR: Final = "exc_info"

_SHARED: Final = (
    "lineno",
    "levelno",
    "levelname",
    "name",
    "pathname",
    "filename",
    "module",
    "funcName",
    "thread",
    "threadName",
    "process",
    "processName",
    "exc_info",
    "exc_text",
    "stack_info",
    *(("taskName",) if HAS_TASK_NAME else ()),
)
_THREAD: Final = ("thread", "threadName", "processName", *(("taskName",) if HAS_TASK_NAME else ()))
schema_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter("msg", *_SHARED)
"""What the records of one schema share. The last attributes are None in a plain record: others stay off the fast path."""

message_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(*_SHARED)
"""What the records of one schema share if each has another message, and no arguments."""

_traced_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(
    *(name for name in ("msg", *_SHARED) if name != ERROR)
)
_traced_message_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(
    *(name for name in _SHARED if name != ERROR)
)
"""The same for records with an exception. It is a value; its traceback is in the schema."""

_thread_of: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(*_THREAD)
_process_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(
    *(name for name in _SHARED if name not in (*_THREAD, ERROR))
)
"""What the records of one schema share if each has another message and another thread."""

Shape = tuple[object, tuple[str, ...], tuple[Any, ...], str]
"""Arguments, names, values, codes: what is known of the values of a record. The values are arguments and then attributes.

The first item is the number of arguments, or the keys of a mapping. The names are those of the attributes.
"""


def shape_of(record: logging.LogRecord) -> Shape | None:
    fields, args = record.__dict__, record.args
    shared: object
    values: Any
    if args.__class__ is tuple:
        shared, values = len(args), args
    elif args.__class__ is dict:
        args = args.copy()  # other threads may change the original
        shared, values = tuple(args), tuple(args.values())
    else:
        return None
    error: Any = fields[ERROR]
    names: tuple[str, ...] = ()
    sent = values
    if len(fields) != PLAIN_SIZE or error:
        names, extras = tuple(fields)[PLAIN_SIZE:], tuple(fields.values())[PLAIN_SIZE:]  # they follow those of every record
        if error:
            names, extras = (*names, ERROR), (*extras, error[1])
        if "message" in names:  # another handler has formatted the record
            extras = tuple([value for name, value in zip(names, extras, strict=True) if name not in FORMATTED])
            names = tuple([name for name in names if name not in FORMATTED])
        sent = values + extras
    kinds = tuple(map(type, sent))
    codes = codes_of(kinds)
    if values is args and (codes is None or OBJECT in codes):  # the template may format them as numbers
        of_args, of_extras = codes_in(record.msg, kinds[: len(args)]), codes_of(kinds[len(args) :])
        codes = None if of_args is None or of_extras is None else of_args + of_extras
    return None if codes is None else (shared, names, sent, codes)


def form_of(
    number: int, record: logging.LogRecord, shape: Shape, route: object, trace: KnownTrace | None
) -> tuple[object, Shape]:
    """Return the key of the schema, and what is known of the values that are not in it.

    The message of form 0 is in the schema, and so is the thread of form 1. A schema for each message, or for each of a
    thousand threads, would cost more than it saves, so these are values of the other forms.
    """
    fields = record.__dict__
    args, names, values, codes = shape
    traced = None if trace is None else trace.number
    if number == 0:
        return (0, _traced_key(fields), type(record), args, names, codes, route, traced), shape
    more: tuple[Any, ...]
    if number == 1:
        shared, names, more = _traced_message_key(fields), (*names, "msg"), (record.msg,)
    else:
        shared, names, more = _process_key(fields), (*names, "msg", *_THREAD), (record.msg, *_thread_of(fields))
    of_more = codes_of(tuple(map(type, more)))
    if of_more is None:
        raise ValueError("the name of a thread or task is of a subclass of str")
    codes += of_more
    return (number, shared, type(record), args, names, codes, route, traced), (args, names, values + more, codes)
