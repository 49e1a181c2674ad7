"""Records that are hard to send, by name, and processes that log them, each with a good record before and after."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import meshlog_handler

LOGGER = logging.getLogger("poison")
BIG = 10_000_000
FORMAT = (
    "%(levelname)s|%(name)s|%(process)d|%(threadName)s|%(funcName)s:%(lineno)d|%(created).6f|%(msecs)03d|%(extra)s|%(message)s"
)


class CannotBeRebuilt(Exception):
    """An exception that cannot be pickled or rebuilt."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")
        self.lock = threading.Lock()


class Broken:
    """An object whose `__str__` and `__repr__` raise."""

    def __str__(self) -> str:
        raise RuntimeError("no text today")

    __repr__ = __str__


class Chatty:
    """An object that logs when it is formatted."""

    def __str__(self) -> str:
        LOGGER.info("from inside")
        return "chatty"


class Liar(str):
    """A string whose `__str__` and `encode` do not match its text."""

    def __str__(self) -> str:
        return "a lie"

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        """Raise, instead of encoding the text."""
        raise RuntimeError("not today")


def unpicklable_exception() -> None:
    """Log an exception that cannot be pickled."""
    try:
        raise CannotBeRebuilt("this", "that")
    except CannotBeRebuilt:
        LOGGER.exception("failed with %s", "it")


def endless() -> list[Any]:
    """Return a list that contains itself."""
    items: list[Any] = [1]
    items.append(items)
    return items


POISON: dict[str, Callable[[], object]] = {
    "a lambda": lambda: LOGGER.info("got %s", lambda: 1),
    "a lock in extra": lambda: LOGGER.info("locked", extra={"lock": threading.Lock()}),
    "an exception": unpicklable_exception,
    "%d with a string": lambda: LOGGER.info("%d apples", "many"),
    "too few arguments": lambda: LOGGER.info("%s and %s", 1),
    "too many arguments": lambda: LOGGER.info("one %s", 1, 2),
    "10 MB": lambda: LOGGER.info("x" * BIG),
    "10 MB argument": lambda: LOGGER.info("%s", "x" * BIG),
    "NUL and surrogates": lambda: LOGGER.info("a\0b\ud800c"),
    "a surrogate argument": lambda: LOGGER.info("got %s", "\udcff"),
    "a broken argument": lambda: LOGGER.info("got %s", Broken()),
    "a broken message": lambda: LOGGER.info(Broken()),
    "a broken extra": lambda: LOGGER.info("extra", extra={"broken": Broken()}),
    "an argument that logs": lambda: LOGGER.info("got %s", Chatty()),
    "a string that lies": lambda: LOGGER.info("got %s %s", Liar("truth"), 1),
    "a message that lies": lambda: LOGGER.info(Liar("truth")),
    "an endless list": lambda: LOGGER.info("got %s", endless()),
    "a number beyond 64 bits": lambda: LOGGER.info("got %d", 1 << 80),
    "a name of ours": lambda: LOGGER.info("mine", extra={"rank": 99, "stream": "stdout", "hostname": "elsewhere", "count": 7}),
    "an odd level": lambda: LOGGER.log(70_000, "odd"),
}


def log_poison(address: str, name: str) -> None:
    """Log one of the bad records, and good records around it."""
    logging.getLogger().handlers.clear()  # the handlers of pytest raise
    meshlog_handler.install(address, capture=False)
    LOGGER.info("before")
    POISON[name]()
    LOGGER.info("after %d", 1)


class Same(logging.Handler):
    """Keeps the formatted text of each record, in the process that logs it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT, defaults={"extra": "-"}))
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text."""
        self.texts.append(self.format(record))


def nested() -> None:
    """Raise an exception with a cause."""
    try:
        _ = 1 // 0
    except ZeroDivisionError as cause:
        raise CannotBeRebuilt("two", "lines\nof text") from cause


def log_everything(address: str, first: bool, answer: Any) -> None:
    """Log one record of each kind; send their texts, which are formatted before or after the records are forwarded."""
    root = logging.getLogger()
    root.handlers.clear()
    same = Same()
    if first:
        root.addHandler(same)
    meshlog_handler.install(address, level="DEBUG", capture=False)
    if not first:
        root.addHandler(same)
    for _ in range(3):
        LOGGER.info("plain")
        LOGGER.debug("%s %d %.3f %r %5s|%-5s|%x", "text", 3, 2.5, "quoted", "r", "l", 255)
        LOGGER.warning("%(a)s and %(b)d", {"a": "dict", "b": 2})
        LOGGER.info("100%")
        LOGGER.info("object %s %r", {1, 2}, threading.current_thread)
        LOGGER.info("with extra", extra={"extra": [1, {"two": (3.5, None)}]})
        LOGGER.info("extra object", extra={"extra": {1: Exception("odd")}})
        LOGGER.info(ValueError("no text"))
        LOGGER.error("not in an exception", exc_info=True)
        try:
            nested()
        except CannotBeRebuilt:
            LOGGER.exception("failed %d", 1)
            LOGGER.error("failed, and where", exc_info=True, stack_info=True)
        LOGGER.info("stack", stack_info=True)
        LOGGER.log(35, "level without a name")
        LOGGER.info("several\nlines %s", "and\nmore")
    thread = threading.Thread(target=lambda: LOGGER.info("from a thread"), name="another")
    thread.start()
    thread.join()
    answer.send(same.texts)
