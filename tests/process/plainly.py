"""Programs that log in unusual ways, run as ``python -m tests.process.plainly HOW FOLDER``.

Each runs in a forked process of its own and writes to files whose names begin with its name. HOW is "plain" for the handlers of
the standard library alone, "here" for a `MeshHandler` in the process that shows, and "forked" for one in a child of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from fractions import Fraction
from logging.handlers import RotatingFileHandler
from typing import Any

import meshlog_handler
from meshlog_handler import MeshHandler
from meshlog_handler.worker import fast_logger

log = logging.getLogger("app.part")
how = ""


def show_by(*handlers: logging.Handler) -> None:
    """Show the records of this process by handlers."""
    logging.root.setLevel(logging.DEBUG)
    logging.root.handlers = list(handlers) if how == "plain" else [MeshHandler(handlers=handlers)]


def file(name: str, formatter: logging.Formatter | str = "%(message)s", **options: Any) -> logging.FileHandler:
    """Return a handler for a file."""
    handler = logging.FileHandler(name, **options)
    handler.setFormatter(logging.Formatter(formatter) if isinstance(formatter, str) else formatter)
    return handler


def in_a_child(act: Callable[[], object]) -> None:
    """Call a function, in a forked child if records are to come from one."""
    if how != "forked":
        act()
        return
    pid = os.fork()
    if pid == 0:
        fast_logger.enable(MeshHandler)
        act()
        os._exit(0)
    os.waitpid(pid, 0)


class Counted:
    """Its texts say how often they were made."""

    def __init__(self, text: str) -> None:
        self.text, self.count = text, 0

    def __str__(self) -> str:
        self.count += 1
        return f"{self.text}{self.count}"

    def __repr__(self) -> str:
        self.count += 1
        return f"<{self.text}{self.count}>"


class CountedRepr:
    """Its `str` is its `repr`."""

    count = 0

    def __repr__(self) -> str:
        self.count += 1
        return f"<{self.count}>"


def texts_are_made_once() -> None:
    """A lone surrogate, a number of more than 64 bits and full segments do not fit the schema."""
    show_by(file("texts", errors="backslashreplace", encoding="utf-8"))
    one, other, surrogate = Counted("a"), CountedRepr(), Counted("")

    def act() -> None:
        for number in range(6):
            log.info("object %s and %d", one, number)
            log.info("both %s %r", one, other)
            log.info("the same object %r", other)
            log.info("in a list %s %s", [one, other], {"a": other})
            log.info("by name %(one)s %(other)r", {"one": one, "other": other})
            log.info("a large number %s %d", one, 10**30)
            surrogate.text = "\ud800" if number > 2 else "plain"
            log.info("a surrogate %s", surrogate)
        for _ in range(60):
            log.info("large %s %s", one, "x" * 50_000)

    in_a_child(act)


class Logs:
    """Logs while it is formatted."""

    def __str__(self) -> str:
        log.warning("within")
        return "text"

    __repr__ = __str__


class LogsItself:
    """Logs itself while it is formatted."""

    def __str__(self) -> str:
        log.warning("within %s", self)
        return "text"


class LogsInFilter(logging.Filter):
    """Logs about records of the logger `checked`, as a filter that changes them may do."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Log, and accept the record."""
        if record.name == "checked":
            logging.getLogger("filter").warning("a filter logs")
        return True


class Rotating(RotatingFileHandler):
    """Logs when it changes files."""

    def doRollover(self) -> None:
        super().doRollover()
        log.info("rotated")


def what_logs_while_another_record_is_shown() -> None:
    """Arguments, signal handlers and files that change."""
    show_by(file("nested"), Rotating("nested-rotating", maxBytes=60, backupCount=9), logging.NullHandler())
    signal.signal(signal.SIGUSR1, lambda *_: log.info("signal"))

    class Interrupted:
        def __str__(self) -> str:
            os.kill(os.getpid(), signal.SIGUSR1)
            return "interrupted"

    for number in range(4):
        log.info("%d %s", number, Logs())
        log.info("%r %s", number, [Logs()])
    log.info("%s", Interrupted())


class Sends(logging.Handler):
    """Logs to another logger what it cannot send."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log instead."""
        if record.name != "delivery":
            logging.getLogger("delivery").warning("not sent: %s", record.getMessage())


def a_handler_that_logs_to_another_logger() -> None:
    """The other one has handlers of its own; files change meanwhile."""
    show_by(Sends(), Rotating("other-rotating", maxBytes=60, backupCount=9))
    delivery = logging.getLogger("delivery")
    given = file("delivery", "%(name)s %(message)s")
    delivery.addHandler(given if how == "plain" else MeshHandler(handlers=[given]))
    delivery.propagate = False

    def act() -> None:
        for number in range(12):
            log.info("number %d", number)

    in_a_child(act)


def a_filter_that_logs() -> None:
    """The filter of a handler logs."""
    handler = file("filtering", "%(name)s %(message)s")
    handler.addFilter(LogsInFilter())
    show_by(handler)
    in_a_child(lambda: logging.getLogger("checked").info("checked"))


def a_text_that_logs_itself_ends() -> None:
    """It logs some lines, and does not go on for ever."""
    if how != "plain":  # there it ends in a RecursionError
        show_by(file("itself"))
        log.info("%s", LogsItself())
        with open("itself") as written:
            assert 1 < len(written.readlines()) < 200
        os.unlink("itself")


class OwnHandle(logging.FileHandler):
    """Changes records, and leaves some out."""

    def handle(self, record: logging.LogRecord) -> Any:
        if record.levelno == logging.ERROR:
            return False
        record.msg = f"<{record.msg}>"
        return super().handle(record)


class Tag(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.tag = "tagged"
        return "left out" not in str(record.msg)


class Upper(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).upper()


def a_handle_method_of_the_program() -> None:
    """With filters, with a formatter of the program, and with neither."""
    filtered, formatted, plain = OwnHandle("handle-filtered"), OwnHandle("handle-formatted"), OwnHandle("handle-plain")
    filtered.addFilter(Tag())
    filtered.setFormatter(logging.Formatter("%(tag)s %(message)s"))
    formatted.setFormatter(Upper("%(message)s"))

    def log_some() -> None:
        log.info("shown")
        log.info("left out")
        log.error("no")
        log.info("number %d", 3)

    for handler in (filtered, formatted, plain):
        show_by(handler)
        in_a_child(log_some)
        if how != "plain":
            logging.root.handlers[0].close()


class Lines(logging.FileHandler):
    """Writes each line of a record as a separate record."""

    def handle(self, record: logging.LogRecord) -> bool:
        for line in record.getMessage().splitlines():
            part = logging.makeLogRecord({**record.__dict__, "msg": line, "args": None})
            with self.lock or contextlib.nullcontext():
                self.emit(part)
        return True


def a_handle_method_that_emits_several() -> None:
    """Each of them is written."""
    show_by(Lines("several"), file("several-beside"))
    in_a_child(lambda: log.info("one\ntwo\n%s", "three"))


class OneLine(logging.Formatter):
    def formatException(self, ei: Any) -> str:
        return f"EXCEPTION {ei[1]!r}"


class Cut(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = record.exc_text and record.exc_text[-5:]
        return super().format(record)


def tracebacks_are_formatted_by_the_first_formatter() -> None:
    """It keeps the text in the record."""

    def fail() -> None:
        try:
            raise KeyError("missing")
        except KeyError:
            log.exception("failed")

    for number, formatters in enumerate(([OneLine(), None, Cut(), None], [None, OneLine(), Cut(), OneLine()])):
        show_by(*(file(f"trace-{number}-{index}", each or "%(message)s") for index, each in enumerate(formatters)))
        in_a_child(fail)
        if how != "plain":
            logging.root.handlers[0].close()


def tracebacks_of_records_that_a_handler_does_not_get() -> None:
    """It formats none of them."""
    errors = file("unreached-errors")
    errors.setLevel(logging.ERROR)
    show_by(errors, file("unreached", OneLine()), file("unreached-later"))

    def fail() -> None:
        try:
            raise KeyError("missing")
        except KeyError:
            log.info("not bad", exc_info=True)

    in_a_child(fail)


def tracebacks_with_defaults() -> None:
    """The first formatter keeps its text for all, whether it has defaults or not."""
    show_by(file("trace-defaults", OneLine("%(message)s", defaults={"rank": "-"})), file("trace-defaults-later"))
    try:
        raise KeyError("missing")
    except KeyError:
        log.exception("failed")


def a_list_that_contains_itself() -> None:
    """Its text is the one of `repr`."""
    show_by(file("itself"))

    def log_it() -> None:
        found: list[Any] = [sys.float_info, signal.SIGTERM]
        found.append(found)
        log.info("%s", found)

    in_a_child(log_it)


def defaults_of_formatters() -> None:
    """They have the names of what a client adds."""
    defaults = {"rank": "-", "local_rank": "-", "stream": "log", "hostname": "here", "coords": "nowhere", "user": "nobody"}
    names = "%(rank)s %(local_rank)s %(stream)s %(hostname)s %(coords)s %(user)s %(message)s"
    changed = file("defaults-changed")
    show_by(
        file("defaults", logging.Formatter(names, defaults=defaults)),
        file("defaults-braces", logging.Formatter("{rank} {message}", style="{", defaults=defaults)),
        file("defaults-own", Upper(names, defaults=defaults)),
        changed,
    )
    log.info("first")  # not in a child: its records have a rank
    log.info("second", extra={"rank": 4, "user": "me"})
    changed.setFormatter(logging.Formatter(names, defaults=defaults))
    log.info("third")


def a_child_changes_its_handlers() -> None:
    """Formatters and levels, before its first record."""
    lower, higher, tagged, plain = file("lower"), file("higher"), file("tagged", "parent %(message)s"), file("unchanged")
    lower.setLevel(logging.WARNING)
    higher.setLevel(logging.INFO)
    show_by(lower, higher, tagged, plain)
    log.error("before")

    def act() -> None:
        lower.setLevel(logging.DEBUG)
        higher.setLevel(logging.ERROR)
        tagged.setFormatter(logging.Formatter("child %(message)s"))
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR) * 2:
            log.log(level, "level %d", level)

    in_a_child(act)


def a_child_sets_a_formatter_for_all() -> None:
    """It sets it for the handlers of the root logger, as the initializer of a pool may do."""
    show_by(logging.FileHandler("initialized"))
    logging.root.handlers[0].setFormatter(logging.Formatter("parent %(message)s"))
    log.info("before")

    def act() -> None:
        logging.root.handlers[0].setFormatter(logging.Formatter("child %(message)s"))
        log.info("first")
        logging.root.handlers[0].setFormatter(None)
        log.info("second")

    in_a_child(act)


def wrapped_and_unwrapped() -> None:
    """A file of mode "w" is not opened again after it was closed."""
    handler = file("wrapped", mode="w")
    logging.root.handlers = [handler]
    wrapping = None if how == "plain" else meshlog_handler.MeshHandler.wrap()
    in_a_child(lambda: log.warning("wrapped"))
    if wrapping is not None:
        wrapping.unwrap()
    log.warning("unwrapped")
    handler.close()
    log.warning("closed")
    with open("wrapped-mode", "w") as out:
        out.write(handler.mode)


def a_record_without_a_level() -> None:
    """Given to the handler, and not to a logger."""
    show_by(file("level"))
    logging.root.handlers[0].handle(logging.makeLogRecord({"msg": "made by hand"}))


class Formats(logging.FileHandler):
    """Formats with what only the process that logs has."""

    state = "before"

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        return f"{self.state} {getattr(error, 'errno', None)} {super().format(record)}"


def a_format_method_of_the_program() -> None:
    """It is called in the process that logs, with the exception itself, and with the formatter."""
    handlers = [Formats("format-none"), Formats("format-formatter"), file("format-usual"), file("format-replaced")]
    handlers[1].setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    replaced = logging.Formatter()
    replaced.format = lambda record: f"{Formats.state}: {record.getMessage()}"  # type: ignore[method-assign]  # on purpose
    handlers[3].setFormatter(replaced)
    show_by(*handlers)

    def act() -> None:
        Formats.state = "while it acts"
        log.info("a message")
        try:
            os.stat("missing")
        except OSError:
            log.exception("an error")
        if how != "plain":
            logging.root.handlers[0].setFormatter(logging.Formatter("late %(message)s"))
        else:
            handlers[0].setFormatter(logging.Formatter("late %(message)s"))
        log.info("formatted by the formatter of all")

    in_a_child(act)


class _Exact:
    """An extra that a format uses as an object."""

    name = "exact"

    def __format__(self, spec: str) -> str:
        return f"<{spec}>"

    def __float__(self) -> float:
        return 0.5

    def __repr__(self) -> str:
        return "Exact()"

    def __str__(self) -> str:
        return "the text"


def formats_that_need_an_extra_as_it_is() -> None:
    """Their text is that of the object, also where the object is no data."""
    formats = [
        ("%", "%(exact).3f %(exact)s %(exact)r %(levelname)s %(message)s"),
        ("%", "%(exact)s %(message)s"),
        ("{", "{exact.name} {exact:wide} {exact} {exact!r} {exact!s} {message}"),
        ("$", "$exact $message"),
    ]
    handlers = []
    for number, (style, fmt) in enumerate(formats):
        handlers.append(file(f"needs{number}", logging.Formatter(fmt, style=style, validate=False)))  # type: ignore[arg-type]
    show_by(*handlers)

    def act() -> None:
        for exact in (_Exact(), Fraction(1, 3), _Exact()):
            _Exact.name += "!"
            log.info("an extra", extra={"exact": exact})
            log.info("with %s", exact, extra={"exact": exact})

    logging.raiseExceptions = False  # a Fraction has no name
    in_a_child(act)


class _Passes(logging.Handler):
    """What a MeshHandler is without processes: it passes records to its handlers."""

    def __init__(self, handlers: list[logging.Handler]) -> None:
        super().__init__()
        self.handlers = handlers

    def emit(self, record: logging.LogRecord) -> None:
        for handler in self.handlers:
            handler.handle(record)


class _Own:
    """What a subclass adds to a handler."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record on with another message, and a second record after it."""
        record.msg = f"own {record.msg}"
        super().emit(record)  # type: ignore[misc]  # the class before it has one
        super().emit(logging.makeLogRecord({"msg": "after it", "levelno": 20}))  # type: ignore[misc]

    def filter(self, record: logging.LogRecord) -> Any:
        """Reject what is secret, and what the filters reject."""
        return "secret" not in str(record.msg) and super().filter(record)  # type: ignore[misc]


def a_subclass_of_the_handler() -> None:
    """Its `emit` and `filter` are called for each record, also when another process shows it."""

    class OwnPasses(_Own, _Passes):
        pass

    class OwnMeshHandler(_Own, MeshHandler):
        pass

    handler: logging.Handler = (OwnPasses if how == "plain" else OwnMeshHandler)(handlers=[file("subclass")])
    handler.addFilter(lambda record: "hidden" not in str(record.msg))
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.INFO)

    def act() -> None:
        for number in range(3):
            log.info("number %d", number)
            log.info("secret")
            log.warning("hidden")
        pid = os.fork()
        if pid == 0:
            log.info("after a fork")
            os._exit(0)
        os.waitpid(pid, 0)

    in_a_child(act)


PROGRAMS = (
    texts_are_made_once,
    what_logs_while_another_record_is_shown,
    a_handler_that_logs_to_another_logger,
    a_filter_that_logs,
    a_text_that_logs_itself_ends,
    a_handle_method_of_the_program,
    a_handle_method_that_emits_several,
    tracebacks_are_formatted_by_the_first_formatter,
    tracebacks_of_records_that_a_handler_does_not_get,
    tracebacks_with_defaults,
    a_list_that_contains_itself,
    defaults_of_formatters,
    a_child_changes_its_handlers,
    a_child_sets_a_formatter_for_all,
    wrapped_and_unwrapped,
    a_record_without_a_level,
    a_format_method_of_the_program,
    formats_that_need_an_extra_as_it_is,
    a_subclass_of_the_handler,
)


def main() -> None:
    """Run each program in a process of its own."""
    global how
    _, how, folder = sys.argv
    os.chdir(folder)
    for program in PROGRAMS:
        pid = os.fork()
        if pid == 0:
            program()
            sys.exit()
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"{program.__name__} failed")


if __name__ == "__main__":
    main()
