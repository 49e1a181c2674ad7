"""MeshHandler: the `logging.Handler` that forwards records to the client. The hot path of every logging call.

::

    logger.info(...) -> MeshHandler.handle -> journal    (LogForwarder ships it)
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from . import settings
from .dispatch.copyable_handler import NAMED_HANDLERS, CopyableHandler
from .dispatch.sink import Sink
from .dispatch.sinks import Route
from .errors import ConnectError, SettingError
from .output.named_handlers import resolve, rotating_files
from .protocol.encode import GET_MESSAGE, encode_known, texts_of, with_texts
from .protocol.entries import MARK
from .protocol.record import PLAIN_SIZE, MeshRecord
from .protocol.shapes import message_key, schema_key
from .system import at_exit
from .system.diagnostics import diagnose
from .system.interpreters import check_interpreter
from .system.lazy_imports import importing
from .system.shielded import run_whole
from .worker import record_stream as streams
from .worker import this_process
from .worker.member import JoinOptions, launched_options
from .worker.record_stream import RecordStream, check_on_full, is_own

if TYPE_CHECKING:  # most workers need no more
    from .client.log_client import LogClient
    from .worker import job_member


class MeshHandler(CopyableHandler):
    """Forwards records to the client, which shows them. The client may be this process itself.

    In a ``logging.config`` configuration, the first process that applies it becomes the client, and its `handlers` show the
    records of all processes. Processes that it starts, by any start method, find the client and forward to it.

    Parameters
    ----------
    level : int or str
        The level of this handler, as for every handler.
    handlers : str, logging.Handler, or iterable of them
        The handlers that show the records in the client: names of handlers of the same configuration, in any order, or
        handlers. If empty, records are shown on the console.
    aggregate_window_sec : float or None
        Seconds in which similar lines become one. None shows each line at once.
    respect_handler_level : bool
        Whether each of the client's handlers gets only records at or above its level.
    address : str or None
        The address of a running client. None reads ``MESHLOG_ADDRESS``; if that is not set, this process becomes the client.
    on_full : {"block", "drop"}
        What a logging call does when the journal is full. "block" waits while the client makes progress; after 10 seconds
        without progress the record is counted as dropped. "drop" drops at once.
    log_dir : str or None
        The directory in which the client keeps a complete file per rank.
    job : str or None
        The name of a job. Processes of this user and machine that use the same name share one client, whatever process starts
        them: workers that each apply a configuration, for example. The first one shows the records of all. When it ends, or is
        killed, another one continues with its own handlers. None: ``MESHLOG_JOB``.

    Notes
    -----
    A configuration may have several. Each record is shown by the `handlers` of the MeshHandler that accepted it, in every
    process that applies the configuration or was forked from one that did.

    In the client's process, and while `aggregate_window_sec` is None, the handlers get records on the thread that logs
    them, as in plain logging. In other processes this applies once the client has ended or cannot be reached.

    A formatter set on a MeshHandler is used for those `handlers` that have no formatter. Filters of the MeshHandler, and
    filters, custom formatters and overridden `handle` and `format` methods of the `handlers`, are called in the process and on
    the thread that logs: they may use the current request or task.

    A forked child may set formatters, levels and filters of the `handlers` for its own records, before it logs the first one.
    Later changes may be ignored.

    A copy (`copy.copy`, `copy.deepcopy`) shows its records by the same handlers. A handler that is pickled and loaded in
    another process joins the client there, and its records are shown by the same handlers. Copies have the name, and what a
    subclass has added. The pickle contains the client's address, and so its key.

    A subclass may override `filter`, `emit` and `handle`, as that of any handler; `super().emit(record)` forwards the record.

    Any thread may log. `flush` never waits. `close`, which `logging.shutdown` and `logging.config` call, waits until the
    records of exited processes are shown: they are shown by the configuration that they were logged under, even if
    `os._exit` follows. After a fork, the child joins as a separate process with its first record.
    """

    forwards = True
    """A configuration sent by the client does not remove this handler from the root logger."""

    _overridden = False
    """Whether a subclass overrides `filter` or `emit`, which are then called for every record."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._overridden = cls.filter is not MeshHandler.filter or cls.emit is not MeshHandler.emit

    def __init__(
        self,
        level: int | str = logging.NOTSET,
        *,
        handlers: Iterable[str | logging.Handler] | str | logging.Handler = (),
        aggregate_window_sec: float | None = None,
        respect_handler_level: bool = True,
        address: str | None = None,
        on_full: str = "block",
        log_dir: str | None = None,
        job: str | None = None,
    ) -> None:
        check_interpreter("a MeshHandler")
        # Arguments are checked first: `logging` closes every handler at exit, also one whose creation has failed.
        self._on_full = check_on_full(on_full)
        self.record_stream: RecordStream | None = None
        self.route = None
        window = settings.check_window(aggregate_window_sec) or settings.aggregate_window_sec()
        shown_by = resolve([handlers] if isinstance(handlers, (str, logging.Handler)) else handlers)
        address, job = settings.check_address(address), settings.check_job(job) if address is None or job is not None else None
        if address is not None and job is not None:
            raise SettingError(f"address and job={job!r} cannot be used together. Give the address of a client, or a job.")
        log_dir = settings.check_directory(log_dir)
        respect_handler_level = settings.check_flag(respect_handler_level, "respect_handler_level")
        self._of_job = job is not None
        self._show: job_member.Show | None = None
        self._replaced: tuple[logging.Logger, list[logging.Handler], list[tuple[logging.FileHandler, str]]] | None = None
        self.sink = None
        run_whole(partial(super().__init__, level))  # otherwise, Ctrl-C can leave the lock of `logging` locked
        # With only an address, this handler neither selects the client's handlers nor shows records itself.
        self.sink = Sink(shown_by, respect_handler_level, window) if shown_by or address is None else None
        self.made = next(_ordinals) if self.sink is not None else 0
        self._ordinal = f"#{self.made}" if self.sink is not None else None
        make_sink = partial(Sink, (), respect_handler_level, window)
        if job is None:
            run_whole(partial(self._start, address, log_dir, make_sink))
        else:
            run_whole(partial(self._start_in_job, job, log_dir))
        _tell_made(self)

    @classmethod
    def wrap(cls, logger: logging.Logger | str | None = None, **options: Any) -> MeshHandler:
        """Put a MeshHandler in the place of a logger's handlers, which then show the records of all processes.

        Parameters
        ----------
        logger : logging.Logger or str or None
            The logger, or its name; None is the root logger. If its handlers are MeshHandlers already, nothing changes. If it
            has no handlers, records are shown on the console.
        **options
            Other arguments of MeshHandler, such as `aggregate_window_sec`.

        Returns
        -------
        MeshHandler
            The handler that the logger has now. Its method `unwrap` undoes the call.
        """
        logger = logger if isinstance(logger, logging.Logger) else logging.getLogger(logger)
        theirs = [handler for handler in logger.handlers if not isinstance(handler, MeshHandler)]
        ours = [handler for handler in logger.handlers if isinstance(handler, MeshHandler)]
        if ours and not theirs:
            return ours[0]
        made = cls(handlers=theirs, **options)
        made._replaced = (
            logger,
            theirs,
            [(handler, handler.mode) for handler in theirs if isinstance(handler, logging.FileHandler)],
        )
        logger.handlers = [made, *ours]  # a new list: another thread may iterate over the old one
        return made

    def unwrap(self) -> None:
        """Undo `wrap`: the logger has its handlers again, and this handler is closed. A second call does nothing."""
        if self._replaced is not None:
            logger, theirs, modes = self._replaced
            run_whole(lambda: self._put_back(logger, theirs))
            self.close()
            for handler, mode in modes:
                if handler.stream is not None:  # else opening it would empty the file
                    handler.mode = mode
            self._replaced = None  # last: after Ctrl-C, a second call repeats it

    def _put_back(self, logger: logging.Logger, theirs: list[logging.Handler]) -> None:
        logger.handlers = [*theirs, *(handler for handler in logger.handlers if handler is not self and handler not in theirs)]

    def _client_address(self) -> str | None:
        """Return the address of the client that a copy in another process joins."""
        member, client = this_process.current(), _own_client
        return member.options.address if member is not None else client.address if client is not None else None

    def _begin_as_copy(
        self, level: int, on_full: streams.OnFull, client: tuple[str | None, Route], sink: Sink | None, ordinal: str | None
    ) -> None:
        """Take the place of `__init__`. With a sink, the copy shows as the original does; without one, it joins the client."""
        run_whole(partial(super().__init__, level))
        self._on_full, self.record_stream, self._replaced = on_full, None, None
        self.sink, self._ordinal = sink, ordinal
        self.made, self._show = 0, None  # the original takes part in its job
        self._of_job = True  # a route by name, which is valid with and without a job
        address, self.route = (None, None) if sink is not None else client
        if sink is None:
            run_whole(partial(self._start, address, None, partial(Sink, (), True, settings.aggregate_window_sec())))
        _tell_made(self)

    def _start(self, address: str | None, log_dir: str | None, make_sink: Callable[[], Sink]) -> None:
        """Find the client and join it, or become it."""
        member = this_process.current()
        address = address or os.environ.get(settings.ADDRESS) or None
        if _own_client is None or not _own_client.running or address not in (None, _own_client.address):
            if member is not None and address in (None, member.options.address):
                return
            if address is not None:
                try:
                    this_process.join(launched_options(address, on_full=self._on_full))
                    return
                except ConnectError as failure:
                    with importing():
                        from .transport.run_directory import has_ended, is_of_this_process

                    # No fault: the process has called `os.exec`, or has outlived the one that started it.
                    if not (is_of_this_process(address) or has_ended(address)):
                        diagnose(
                            f"{settings.ADDRESS} names a client that is gone, so this process shows its own logs: {failure}"
                        )
        if self.sink is None:
            self.sink = make_sink()
        try:
            client = _become_client(self.sink, log_dir)
            if self._ordinal is not None:
                client.sinks.name(self.sink, self._ordinal)
            this_process.join(JoinOptions(client.address, on_full=self._on_full, mesh=client.own_token))
        except (OSError, RuntimeError) as failure:  # no private directory, or no thread can be started
            diagnose(f"no other process can join this one, so it shows only its own logs, each line at once: {failure}")
            self.sink.direct = True

    def _start_in_job(self, job: str, log_dir: str | None) -> None:
        """Take part in a job: become its client, or join it."""
        assert self.sink is not None  # it has no address
        _job_handlers.add(self)
        client = _own_client
        if client is not None and client.running and client.job == job:
            client.add_sink(self.sink)
            self.name_sink(client)
            return
        with importing():
            from .worker import job_member

        try:
            member = job_member.of(job)
            options = launched_options("", on_full=self._on_full)
            self._show = partial(_show_job, job, log_dir)
            if not member.enter(self._show, options, begins_again=True):
                diagnose(f"the process that should display job {job!r} is not responding, so this one shows its own logs")
        except (OSError, RuntimeError) as failure:  # no private directory, or no thread can be started
            diagnose(
                f"this process cannot take part in job {job!r}, so it shows only its own logs, each line at once: {failure}"
            )
            self.sink.direct = True

    def name_sink(self, client: LogClient) -> None:
        """Let other processes find the sink."""
        if self.sink is not None and self._ordinal is not None:
            client.sinks.name(self.sink, self._ordinal)
            if self.name:
                client.sinks.name(self.sink, self.name)

    def set_name(self, name: str | None) -> None:
        """Set the name by which other processes that apply the same configuration refer to this handler."""
        super().set_name(name)  # type: ignore[arg-type]  # typeshed: logging accepts None
        self.route = self.record_stream = None
        client = _own_client
        if name and self.sink is not None and self.sink.number and client is not None:
            client.sinks.name(self.sink, name)

    name = property(logging.Handler.get_name, set_name)

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        """Use a formatter for those handlers that have none."""
        super().setFormatter(fmt)
        self.record_stream = None  # leave the fast path: formatters of the program are called in this process
        if self.sink is not None:
            self.sink.set_formatter(fmt)

    def handle(self, record: logging.LogRecord) -> Any:
        """Forward the record if it passes the filters.

        It never raises an `Exception`, takes no lock, and waits for the client only if the journal is full (see `on_full`).
        """
        if self.filters or self._overridden:
            passed = self.filter(record)
            if not passed:
                return passed
            if isinstance(passed, logging.LogRecord):
                record = passed
            if type(self).emit is not MeshHandler.emit:
                with self.lock or contextlib.nullcontext():  # as in plain logging
                    self.emit(record)
                return True
        sink, stream = self.sink, self.record_stream
        if sink is not None and sink.direct and type(record) is not MeshRecord:
            sink.show_here(record)
            if sink.keeps_files:
                self._forward(record, (sink.number, ()))  # for the files only
            return True
        if stream is not None:
            written = False
            try:
                data = pack = None
                fields = record.__dict__
                args: Any = record.args
                schemas, write, mark = stream.appender
                if (
                    len(fields) == PLAIN_SIZE
                    and args.__class__ is tuple
                    and record.msg.__class__ is str
                    and type(record).getMessage is GET_MESSAGE
                ):
                    pack = schemas.get((schema_key(fields), (type(record), *map(type, args)), self.route))
                    if pack is None and not args:  # an f-string makes a new message at each call
                        args = (record.msg,)
                        pack = schemas.get((message_key(fields), type(record), args[0].__class__, self.route))
                    if pack is not None:
                        data = pack(record.created, record.msecs, record.relativeCreated, *args)
                if pack is None:
                    data = encode_known(record, schemas, self.route, streams.internal_threads)
                if data is not None:
                    write(data)
                    written = True
                    mark(MARK)
                    if stream.idle:
                        stream.wake()
                    return True
            except Exception as failure:
                # A new schema, a full segment or an odd value: the slow path takes any record. After the write, only the
                # commit byte can fail: a full segment has no room for it, and needs none.
                if written:
                    return True
                texts = texts_of(failure, data, schemas if data is not None else None)
                if texts:
                    record = with_texts(record, texts)
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Show or forward any record: the slow path of `handle`."""
        try:
            if isinstance(record, MeshRecord):
                return  # it was forwarded already, and a handler of the client passed it to a logger here
            sink = self.sink
            if is_own(record):  # even without a stream: records that the client's own handlers log are not forwarded
                if sink is not None:
                    sink.show_of_handler(record)
                return
            if sink is None and self.formatter is not None:
                record = self._formatted(record)
            if sink is not None and sink.direct:
                sink.show_here(record)
                if sink.keeps_files:
                    self._forward(record, (sink.number, ()))
            elif not self._forward(record, self.route):
                if sink is not None:
                    sink.show_here(record)
                elif not streams.show_late(record) and record.levelno >= logging.WARNING and settings.forwarding_enabled():
                    diagnose(f"{record.levelname} {record.name}: {record.getMessage()}")
        except Exception:
            self.handleError(record)

    def _forward(self, record: logging.LogRecord, route: Route) -> bool:
        """Append the record to this process's stream; return False if no stream accepts it."""
        stream, sink = self.record_stream, self.sink
        if stream is None or stream.client_gone or stream.ended or stream.pid != os.getpid():
            self.record_stream = None
            if stream is not None and this_process.postpone(lambda: MeshHandler.emit(self, record)):
                return True
            member = this_process.current() or this_process.rejoin(quiet=sink is not None)
            stream = member.stream if member is not None else None
            if stream is None or (stream.client_gone and sink is not None):
                return False
            if member is not None and sink is not None and sink.window is None and not sink.direct:
                member.shows_before_end = True
        if sink is not None and route is None:
            # The client's process and its forked children know the sink's number; other processes only know its name. So does
            # the next client of a job.
            route = self.route = (0 if self._of_job else sink.number) or self.name or self._ordinal
        if sink is not None and not isinstance(route, tuple) and sink.is_particular(record):  # else the handlers got it already
            self.record_stream = None  # a handler may have been changed since
            accepted, texts = sink.prepared(record, this_process.info())
            return not accepted or _append(stream, record, (route, accepted), texts)
        if (self.formatter is None) if sink is None else not sink.needed:
            self.record_stream = stream  # take the fast path from now on
        return _append(stream, record, route)

    def _formatted(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a copy whose message is the formatter's text. Used if this handler has no sink to pass the formatter to."""
        made = copy.copy(record)
        text = self.format(made)
        vars(made).update(msg=text, message=text, args=(), exc_info=None, exc_text=None, stack_info=None)
        return made

    def flush(self) -> None:
        """Return at once: every logged record is in the journal already."""

    def close(self) -> None:
        """Remove the handler from logging's registry. The process does not leave the client: other loggers may use it.

        In the client's process, it waits until the records of exited processes are shown, unless nothing is shown for one
        second: `logging.config` calls it while holding logging's lock, which a handler of the client may wait for.
        """
        if NAMED_HANDLERS.get(self.name) is not self:
            vars(self)["_name"] = None  # `logging` would remove the original, whose name this copy has
        run_whole(super().close)
        if self._show is not None and not _shuts_down():
            from .worker import job_member  # loaded already: `logging` may hold its lock, with which nothing is imported

            job_member.retire(self._show)
            _job_handlers.discard(self)
        client = _own_client
        if self.sink is not None and self.sink.number and client is not None:
            self.sink.stay_open()
            client.show_ended(_CLOSE_SEC)
            run_whole(partial(client.sinks.retire, self.sink))


def _append(stream: RecordStream, record: logging.LogRecord, route: object, texts: object = ()) -> bool:
    """Append a record to a stream or, if it has ended meanwhile, to the one that takes its place."""
    if stream.append(record, route, texts):
        return True
    member = this_process.current() or this_process.rejoin(quiet=True)
    following = None if member is None else member.stream
    return following is not None and following is not stream and following.append(record, route, texts)


_CLOSE_SEC: Final = 1.0

_ordinals: Final = itertools.count(1)


def _stop(client: LogClient) -> None:
    """Stop the client at exit, and remove its address from the environment of processes that are started later."""
    if client.running and os.environ.get(settings.ADDRESS) == client.address:
        del os.environ[settings.ADDRESS]
    conflicts = sys.modules.get(f"{__package__}.worker.rotation_conflicts")  # nothing is imported at exit
    if conflicts is not None:
        conflicts.leave()
    member = this_process.current()
    client.stop()
    if member is not None:
        member.wait_ended()


when_made: Final[list[Callable[[], object]]] = []
"""Called after each MeshHandler that is made."""


living: Final[weakref.WeakValueDictionary[int, MeshHandler]] = weakref.WeakValueDictionary()
"""All MeshHandlers. `logging` forgets those that existed before `dictConfig`, also if loggers keep them."""


def _tell_made(made: MeshHandler) -> None:
    living[id(made)] = made
    for call in when_made:
        call()


_own_client: LogClient | None = None

_job_handlers: Final[weakref.WeakSet[MeshHandler]] = weakref.WeakSet()


def _shuts_down() -> bool:
    """Return whether `logging.shutdown` calls, and not `logging.config`: at exit, this process may show what others leave."""
    frame, found = sys._getframe(1), False
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if module == "logging.config":
            return False
        found = found or (module == "logging" and frame.f_code.co_name == "shutdown")
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return found


def _show_job(job: str, log_dir: str | None, *, exits: bool) -> str:
    """Start the client of a job in this process, with the handlers of its MeshHandlers (see `LogClient.start_showing`)."""
    global _own_client
    handlers = sorted(_job_handlers, key=lambda each: each.made)
    if not handlers:  # they were closed meanwhile
        return ""
    with importing():
        from .client.log_client import LogClient

    if _own_client is not None:
        _own_client.cut_off()
    client = LogClient(log_dir=log_dir, job=job)
    for handler in handlers:
        if handler.sink is not None:
            client.add_sink(handler.sink)
            handler.name_sink(client)
    address = client.start_showing(exits=exits)
    if exits:
        return address
    os.environ[settings.ADDRESS] = address
    at_exit.stop_at_exit(client, partial(_stop, client))
    _own_client = client
    return address


def _become_client(sink: Sink, log_dir: str | None) -> LogClient:
    """Make this process the client, unless it is one already, and add `sink` to it."""
    global _own_client
    with importing():
        from .client.log_client import LogClient
        from .worker import rotation_conflicts

    client = _own_client
    if client is not None and client.running:
        client.add_sink(sink)
        return client
    client = LogClient(log_dir=log_dir, job="")
    client.add_sink(sink)
    rotation_conflicts.check(rotating_files(sink.handlers))
    client.start()
    os.environ[settings.ADDRESS] = client.address
    at_exit.stop_at_exit(client, partial(_stop, client))
    _own_client = client
    return client
