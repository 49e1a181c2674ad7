"""Ways in which programs write records to the console. A worker sets up one of them and logs "once"."""

from __future__ import annotations

import io
import logging
import logging.config
import logging.handlers
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from meshlog_handler import install, uninstall
from meshlog_handler.worker import this_process
from tests.waiting import until

Setup = Callable[[], Any]
"""Sets up a program. The test calls the return value, if there is one, after the record was logged."""

app = logging.getLogger("app")


def _say(text: str, level: int = logging.INFO) -> None:
    app.log(level, text)


class Printing(logging.Handler):
    """A handler that prints, as in many answers on the web."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print, after a test whether stdout takes text or bytes, as in click's `echo`."""
        try:
            sys.stdout.write(b"")  # type: ignore[arg-type]  # the test needs the wrong type
        except TypeError:
            print(self.format(record))


class Secretly(Printing):
    """The same, without a sign that it writes to the console: `stream` is None."""

    stream = None


class Shouting(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 has no argument there
    """A console with its own `emit`, as console handlers with colours have."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record twice: here, and in the base class."""
        self.stream.write(f"! {self.format(record)}\n")
        super().emit(record)


class Wrapping(logging.Handler):
    """A handler that wraps a console handler, as in absl."""

    def __init__(self) -> None:
        super().__init__()
        self._inner = logging.StreamHandler()

    def handle(self, record: logging.LogRecord) -> bool:
        """Pass the record to the inner handler."""
        return bool(self._inner.handle(record))


class Fatal(Printing):
    """A handler that ends the process, as in absl."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print, and end the process."""
        super().emit(record)
        os._exit(3)


class Plain(logging.StreamHandler):  # type: ignore[type-arg]  # not subscriptable before Python 3.11
    """A handler with an `emit` of its own that writes to what ``sys.stderr`` is at that time, like the one of Ray Train."""

    def emit(self, record: logging.LogRecord) -> None:
        """Let a handler of the standard library write."""
        logging._StderrHandler().emit(record)  # type: ignore[attr-defined]  # no public name


class Tee(io.TextIOBase):
    """A stream that writes to another stream and keeps the text."""

    def __init__(self, to: Any) -> None:
        self._to, self.kept = to, ""

    def write(self, text: str) -> int:
        """Keep the text and write it to the other stream."""
        self.kept += text
        return int(self._to.write(text))


class Unbuffered:
    """A wrapper of a stream, like the ones that Ray and colorama install."""

    def __init__(self, to: Any) -> None:
        self._to = to

    def __getattr__(self, name: str) -> Any:
        return getattr(self._to, name)


class Forwarding(Unbuffered):
    """A wrapper that also sets attributes of the stream, like tqdm's for files."""

    def __init__(self, to: Any) -> None:
        object.__setattr__(self, "_to", to)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._to, name, value)


def _on_root(handler: logging.Handler) -> None:
    logging.getLogger().addHandler(handler)


def _unbuffered() -> None:
    vars(sys)["stderr"] = Unbuffered(open(2, "w", closefd=False))  # noqa: SIM115  # as Ray does; it is open until the end
    _on_root(Plain())


def _named() -> None:
    app.addHandler(logging.StreamHandler())


def _twice() -> None:
    app.addHandler(logging.StreamHandler(sys.stdout))
    _on_root(logging.StreamHandler())


def _cut_off() -> None:
    app.addHandler(logging.StreamHandler())
    app.propagate = False


def _configured() -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"console": {"class": "logging.StreamHandler"}},
            "root": {"handlers": ["console"], "level": "INFO"},
        }
    )


def _forced() -> None:
    logging.basicConfig(level=logging.INFO, force=True)


def _by_file() -> None:
    text = """
        [loggers]
        keys=root
        [handlers]
        keys=console
        [formatters]
        keys=
        [logger_root]
        level=INFO
        handlers=console
        [handler_console]
        class=StreamHandler
        args=(sys.stderr,)
    """
    logging.config.fileConfig(io.StringIO(text.replace("        ", "")), disable_existing_loggers=False)


def _replaced() -> None:
    for handler in logging.getLogger().handlers[:]:
        logging.getLogger().removeHandler(handler)
    _on_root(logging.StreamHandler())


def _buffered() -> Setup:
    memory = logging.handlers.MemoryHandler(100, target=logging.StreamHandler())
    _on_root(memory)
    return memory.flush


def _queued() -> Setup:
    records: queue.Queue[Any] = queue.Queue()
    listener = logging.handlers.QueueListener(records, logging.StreamHandler())
    _on_root(logging.handlers.QueueHandler(records))
    listener.start()
    return listener.stop


def _duplicate() -> None:
    _on_root(logging.StreamHandler(os.fdopen(os.dup(2), "w")))


def _teed() -> Setup:
    tee = sys.stderr = Tee(sys.stderr)
    _on_root(logging.StreamHandler())

    def look() -> None:
        assert tee.kept == "once\n"

    return look


def _in_a_thread() -> Setup:
    _named()
    thread = threading.Thread(target=_say, args=("once",))
    app.disabled = True  # the call after this does nothing

    def log() -> None:
        app.disabled = False
        thread.start()
        thread.join()

    return log


def _rich() -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    _on_root(RichHandler(console=Console(stderr=True)))


def _tqdm() -> Setup:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    _on_root(logging.StreamHandler())
    bar = tqdm(total=2, file=sys.stderr)
    redirected = logging_redirect_tqdm()
    redirected.__enter__()

    def end() -> None:
        redirected.__exit__(None, None, None)
        bar.close()

    return end


class TqdmWrite(logging.Handler):
    """The best-known recipe for tqdm."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write above the bars."""
        from tqdm import tqdm

        tqdm.write(self.format(record))


KINDS: dict[str, Setup] = {
    "none": lambda: None,
    "root": lambda: _on_root(logging.StreamHandler()),
    "root, a wrapped stream": lambda: _on_root(logging.StreamHandler(Unbuffered(sys.stderr))),
    "root, a wrapped stderr and an emit of its own": _unbuffered,
    "root, stdout": lambda: _on_root(logging.StreamHandler(sys.stdout)),
    "named": _named,
    "named and root": _twice,
    "cut off": _cut_off,
    "dictConfig": _configured,
    "basicConfig(force)": _forced,
    "fileConfig": _by_file,
    "removed and added": _replaced,
    "MemoryHandler": _buffered,
    "QueueListener": _queued,
    "prints": lambda: _on_root(Printing()),
    "an emit of its own": lambda: _on_root(Shouting()),
    "handles by another": lambda: _on_root(Wrapping()),
    "ends the process": lambda: _on_root(Fatal()),
    "a duplicate of stderr": _duplicate,
    "a stream that copies": _teed,
    "on another thread": _in_a_thread,
    "rich": _rich,
    "tqdm.contrib.logging": _tqdm,
    "tqdm.write": lambda: _on_root(TqdmWrite()),
}


def work(kind: str, before: bool, address: str | None) -> None:
    """Set up the console before or after joining, and log once."""
    logging.getLogger().setLevel(logging.INFO)
    after = KINDS[kind]() if before else None
    if address is not None:
        install(address)
    if not before:
        after = KINDS[kind]()
    _say("once")
    if after is not None:
        after()


def uncaptured(stderr: str | None, address: str) -> None:
    """Log to the console in a worker that is not captured."""
    if stderr is not None:
        os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    logging.getLogger().setLevel(logging.INFO)
    _on_root(logging.StreamHandler())
    install(address, capture=False)
    _say("once")


def leave_and_log(address: str) -> None:
    """Install and uninstall; the console must be as it was before."""
    logging.getLogger().setLevel(logging.INFO)
    _on_root(logging.StreamHandler(sys.stdout))
    _on_root(Printing())
    before = logging.Handler.handle, logging.Handler.handleError, sys.stdout.write, logging.getLogger().addHandler
    install(address)
    _say("joined")
    uninstall()
    assert (logging.Handler.handle, logging.Handler.handleError, sys.stdout.write, logging.getLogger().addHandler) == before
    assert not [handler for handler in logging.getLogger().handlers if handler.filters]
    _say("left")


def outlive(stderr: str, joined: Any, address: str) -> None:
    """Continue to log after the client is gone."""
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    logging.getLogger().setLevel(logging.INFO)
    _on_root(logging.StreamHandler())
    install(address)
    _say("joined")
    joined.set()
    member = this_process.current()
    assert member is not None
    stream = member.stream
    assert stream is not None
    until(lambda: stream.client_gone and member._capture is None)
    _say("alone")
    _say("and warned", logging.WARNING)


class Redacting(logging.Filter):
    """Changes a record in place."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record."""
        record.msg = record.msg.replace("secret", "***")
        return True


class Copying(logging.Filter):
    """Changes a copy of a record, as Python 3.12 allows."""

    def filter(self, record: logging.LogRecord) -> Any:
        """Return the copy."""
        copy = logging.makeLogRecord(vars(record))
        copy.msg = copy.msg.replace("secret", "***")
        return copy


class Silent(logging.Handler):
    """A handler that writes nothing to the console."""

    stream = None

    def emit(self, record: logging.LogRecord) -> None:
        """Show nothing."""


class Dropping(logging.Filter):
    """Drops records with "noise", and counts its calls."""

    asked = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record passes."""
        self.asked += 1
        return "noise" not in record.msg


def be_filtered(handlers: list[str], later: bool, address: str) -> None:
    """Log through handlers. Each is given as "class filter"; an empty class means a StreamHandler."""
    logging.getLogger().setLevel(logging.INFO)
    if later:
        install(address)
    made: list[Any] = []
    for name in handlers:
        kind, _, filtered = name.partition(" ")
        handler: Any = globals()[kind]() if kind else logging.StreamHandler()
        if kind == "Printing":
            handler.stream = sys.stdout
        if filtered:
            made.append(globals()[filtered]())
            handler.addFilter(made[-1])
        _on_root(handler)
    if not later:
        install(address)
    for text in ("a secret", "noise", "a word"):
        _say(text)
    assert all(each.asked == 3 for each in made if isinstance(each, Dropping))


def break_down(address: str) -> None:
    """Log through a broken handler. The error message of logging must be shown, even where the handler's own output is not."""

    class Broken(Printing):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                print("half a record")
                raise RuntimeError("broken")
            except RuntimeError:
                self.handleError(record)

    install(address)
    logging.getLogger().setLevel(logging.INFO)
    _on_root(Broken())
    _say("once")


def log_within(address: str) -> None:
    """Log through a handler that logs to a logger that is not forwarded, and keeps a context in which to print later."""
    audit = logging.getLogger("audit")
    audit.addHandler(logging.StreamHandler())
    audit.propagate = False

    class Auditing(Printing):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            audit.warning("audited")
            import contextvars

            self.context = contextvars.copy_context()

    install(address)
    logging.getLogger().setLevel(logging.INFO)
    handler = Auditing()
    _on_root(handler)
    _say("once")
    handler.context.run(print, "printed later")


def log_through_a_proxy(address: str) -> None:
    """Log and print through a wrapper that sets attributes of the stream behind it."""
    vars(sys)["stdout"] = Forwarding(sys.stdout)
    install(address)
    logging.getLogger().setLevel(logging.INFO)
    _on_root(Printing())
    for text in ("once", "twice"):
        _say(text)
        print("printed", text)


def fork_and_log(address: str) -> None:
    """Fork a child, which joins with its first record."""
    logging.getLogger().setLevel(logging.INFO)
    _named()
    install(address)
    _say("parent")
    pid = os.fork()
    if not pid:
        _say("child")
        uninstall()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def hand_on(address: str) -> None:
    """Handle two records of another process: one in a handler, as a queue listener does, one in a logger of this process."""
    logging.getLogger().setLevel(logging.INFO)
    console = logging.StreamHandler()
    _on_root(console)
    install(address)
    for text in ("to a handler", "to a logger"):
        record = logging.makeLogRecord({"name": "app", "levelno": 20, "msg": text, "process": os.getpid() + 1})
        if "logger" in text:
            app.handle(record)
        else:
            console.handle(record)


if __name__ == "__main__":
    work(sys.argv[1], True, None)
