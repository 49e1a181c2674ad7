"""LogClient: one thread that receives, orders, groups and shows the records of all procs, and keeps the flush ledger.

::

    procs    -> sockets, pipes -> Reception -> items -> Show -> files, groups, handlers
    anyone   -> commands queue ->  LogClient thread  -> orders, flush sentinels -> procs

Any thread may call the public methods. Only the client's thread touches sources, ledger, groups and handlers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from concurrent.futures import Future
from functools import partial
from logging.handlers import QueueListener
from types import TracebackType
from typing import Any, Final, TypeVar

from .. import settings
from ..dispatch.dispatcher import KEEP, Dispatcher
from ..dispatch.sink import Sink
from ..dispatch.sinks import Sinks
from ..errors import BusyError, ClosedError, FlushTimeout
from ..output.console import ConsoleHandler
from ..output.named_handlers import ShownBy, check_handlers
from ..output.rank_files import RankFiles
from ..protocol.messages import Command, Hello, Welcome
from ..system import at_exit, live_clients, unpatched
from ..system.fd_capture import diagnose
from ..system.shielded import run_shielded
from ..system.waits import Awaited, check_timeout, ended, finished, monotonic
from ..transport.listener import Listener, NewConnection
from ..transport.run_directory import RunDir
from ..worker.journal_queue import JournalQueue
from ..worker.record_stream import internal_threads
from .flush_ledger import explain_missing
from .loop import ClientLoop
from .mailbox import Mailbox
from .peer import Chosen, Peer
from .pending_commands import Answers
from .receipt import FlushReceipt
from .registry import Registry
from .relayed_peers import peer_of
from .relays import Upstream
from .stats import Stats
from .switches import SWITCH_SEC, Switched

T = TypeVar("T")

ANSWER_SEC: Final = 10.0
"""Seconds in which the client's thread answers; it does so in a tick, unless a handler blocks it."""

_MARGIN_SEC: Final = 0.25
_GRACE_SEC: Final = 5.0
_BLOCKED_SEC: Final = 1.0
_LOOK_SEC: Final = 0.05
_COUNT_AGAIN_SEC: Final = 0.01
_MAX_COUNTS: Final = 50


class LogClient(QueueListener):
    """Shows the logs of many processes in this one.

    Parameters
    ----------
    *handlers : logging.Handler
        What shows the records, called on the client's thread. None: the console.
    aggregate_window_sec : float or None
        Seconds in which similar lines become one. None: ``MESHLOG_AGGREGATE_WINDOW_SEC``, else each is shown at once.
    respect_handler_level : bool
        Whether a handler gets only records of its own level and above.
    log_dir : str or None
        Directory for a complete file per rank and stream, and for the journals.
    never, hide : sequence of str
        Regular expressions: lines that are never grouped, and lines that are not shown (files have them).
    above : Above or None
        The way up, of a client that is a relay's (see `LogRelay`).

    Notes
    -----
    A forked child inherits an inert copy: it owns neither thread nor sockets, and `stop` does nothing there.
    Whatever puts records into `queue` has them shown: a `logging.handlers.QueueHandler` of any process, as in the logging
    cookbook. The design is that of Monarch's ``LogClientActor``; the thread that of `logging.handlers.QueueListener`.
    """

    queue: JournalQueue

    def __init__(
        self,
        *handlers: ShownBy,
        aggregate_window_sec: float | None = None,
        respect_handler_level: bool = True,
        log_dir: str | os.PathLike[str] | None = None,
        never: Sequence[str] = (),
        hide: Sequence[str] = (),
        upstream: Upstream | None = None,
    ) -> None:
        super().__init__(JournalQueue(self._show_here), respect_handler_level=respect_handler_level)
        self._window = settings.check_window(aggregate_window_sec) or settings.aggregate_window_sec()
        self._log_dir = settings.check_directory(log_dir)
        self._options = (tuple(never), tuple(hide))
        self._max_line = settings.max_line_size()
        self.sinks = Sinks(Sink(check_handlers(handlers), respect_handler_level, self._window) if handlers else None)
        self.console: ConsoleHandler | None = None  # made here, where no handlers are given
        self._pid = os.getpid()
        self._running = False
        self._ended = False  # the thread
        self.own_token = os.urandom(8).hex()
        self._upstream = upstream
        self.registry = Registry(self.own_token)

    # -- life ------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the client was started and not stopped, in this process, and its thread lives."""
        # Not `Thread.is_alive`: up to Python 3.12, one that Ctrl-C interrupts takes the thread for ended from then on.
        return self._running and self._pid == os.getpid() and not self._ended

    @property
    def shows(self) -> bool:
        """Whether it shows what it gets; a relay's passes it on."""
        return self._upstream is None

    def start(self) -> LogClient:  # type: ignore[override]  # returns itself, where QueueListener returns None
        """Open the door and start the thread. Starting twice is the same as once.

        Raises
        ------
        OSError
            If no private directory can be made, or `log_dir` cannot be written.
        """
        if self.running:
            return self
        unpatched.use()
        if self.sinks.default is None and not self.sinks.routed:
            # On this thread: it may hold logging's lock, which a new handler needs (`logging.config` calls a factory).
            self.sinks.default = Sink((self._make_console(),), self.respect_handler_level, self._window)
        try:
            run_shielded(self._start)
            return self
        except BaseException:
            self.stop()  # if it runs: then it is no error of the start's own, but Ctrl-C
            raise

    def _start(self) -> None:
        self._pid = os.getpid()
        files = None
        if self._log_dir is not None:
            os.makedirs(self._log_dir, exist_ok=True)
            files = RankFiles(self._log_dir, report=diagnose)
        with contextlib.ExitStack() as undo:  # of a start that fails, or is interrupted, nothing stays
            self._rundir = RunDir()
            undo.callback(self._rundir.remove)
            undo.callback(self.registry.release_journals)
            self.registry.keep_journals_in(self._log_dir or self._rundir.path, shared=self._log_dir is not None)
            self._listener = Listener(self._rundir.path, self._admit, self._joined)
            undo.callback(self._listener.close)
            self._mailbox = Mailbox(queue.SimpleQueue())
            undo.callback(self._mailbox.close)
            show = Dispatcher(self.sinks, files, *self._options, digests=self._upstream is not None)
            self._core = ClientLoop(
                self._mailbox,
                show,
                self.registry,
                self._listener,
                self.own_token,
                self._log_dir is not None,
                self._post,
                self._upstream,
            )
            undo.callback(self._core.reactor.close)
            self.queue.open(str(self._listener.address), self.own_token)
            undo.callback(self.queue.close)
            undo.callback(self._disown)
            self._running, self._ended = True, False
            live_clients.add(self)
            at_exit.stop_at_exit(self, self.stop)
            # A thread without a name would use up one of the program's own Thread-N.
            thread = threading.Thread(target=self._monitor, name="meshlog-client", daemon=True)
            self._thread = thread
            thread.start()
            undo.pop_all()

    def _disown(self) -> None:
        self._running = False
        self._thread = None
        live_clients.discard(self)
        at_exit.forget(self)

    def stop(self, timeout: float = 10.0) -> None:
        """Show what was logged before, let the procs go on by themselves, and end.

        Stopping twice, or in a forked child, does nothing.
        Procs that live on show what they log later by their own handlers, and write to their own stdout and stderr.

        Parameters
        ----------
        timeout : float
            Seconds without progress: handlers that are slow, but go on, are waited for as a `QueueListener` waits. After
            that, what procs that do not answer have logged is read from their journals; where a handler blocks, it is
            named, with the number of records that were not shown.
        """
        interrupts: list[BaseException] = []
        try:
            self._stop_apart(timeout, interrupts)
        except BaseException as interrupt:
            interrupts.append(interrupt)
            self._stop_apart(timeout, interrupts)  # if that had not begun
            raise

    def _stop_apart(self, timeout: float, interrupts: list[BaseException]) -> None:
        thread = self._thread
        if self.running and thread is not None and threading.current_thread() is not thread:
            run_shielded(partial(self._stop, thread, timeout, interrupts), interrupts.append)

    def _stop(self, thread: threading.Thread, timeout: float, interrupts: Sequence[BaseException]) -> None:
        self.queue.close()  # what is put from now on is shown at once
        try:
            with contextlib.suppress(ClosedError):  # the thread has ended by itself
                self._post(self._core.release)
            self._wait_for_end(thread, timeout, interrupts)
        finally:
            self._disown()

    def _wait_for_end(self, thread: threading.Thread, timeout: float, interrupts: Sequence[BaseException]) -> None:
        progress, since, asked = self._core.progress, monotonic(), False
        while not ended(thread, _LOOK_SEC):
            now, before, progress = monotonic(), progress, self._core.progress
            if interrupts:  # Ctrl-C: no more waiting
                self._end_at_once(thread, f"interrupted by {type(interrupts[0]).__name__}")
                return
            if progress != before:
                since = now
            elif now - since < timeout:
                continue
            elif asked or self._core.show.busy is not None:
                self._end_at_once(thread)
                return
            else:
                with contextlib.suppress(ClosedError):  # it has just ended
                    self._post(self._core.reactor.do_without_silent)
                asked, since, timeout = True, now, _GRACE_SEC

    def _end_at_once(self, thread: threading.Thread, why: str = "") -> None:
        """Show nothing more, and say so. A thread that is left in a handler loses what other processes wait for or can see."""
        core = self._core
        why = why or core.busy() or "the client's thread does not end"
        core.show.abandoned = True
        try:
            waiting = f"{self._count_waiting():,} records were not shown"
        except Exception as failure:  # the thread has moved on meanwhile, or a journal cannot be read
            waiting = f"what it has not shown is lost, and cannot be counted ({type(failure).__name__}: {failure})"
        finally:
            core.show.counted.set()
        diagnose(f"the client is stopped without an orderly end, and {waiting}: {why}")
        with contextlib.suppress(ClosedError):  # the thread has ended by itself
            self._post(self._end)
        if not ended(thread, _BLOCKED_SEC):
            core.reactor.disconnect()
            self._rundir.remove()
            self.registry.release_journals()

    def _count_waiting(self) -> int:
        """Count until two counts are equal: the thread may be about to enter a handler, or to wait for the count."""
        counts = [self._core.waiting]
        for _ in range(_MAX_COUNTS):
            time.sleep(_COUNT_AGAIN_SEC)
            counts.append(self._core.waiting)
            if counts[-2] == counts[-1]:
                break
        return counts[-1]

    def _show_here(self, record: logging.LogRecord) -> None:
        """Show what is put into the queue while the client does not run."""
        if self.sinks.default is None:
            self.sinks.default = Sink((self._make_console(),), self.respect_handler_level, self._window)
        self.sinks.default.show_here(record)

    def enqueue_sentinel(self) -> None:
        """Ask the thread to end. Called by `QueueListener.stop`, which `stop` takes the place of."""
        self._post(self._end)

    def __enter__(self) -> LogClient:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What a worker needs to join: the path of the socket and the key. Keep it out of command lines and logs."""
        self._check_running()
        return str(self._listener.address)

    def environ(self) -> dict[str, str]:
        """Return a copy of this process's environment, with what a subprocess needs to join."""
        return {**os.environ, settings.ADDRESS: self.address}

    # -- what others ask -------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = 10.0, chosen: Chosen | None = None) -> FlushReceipt:
        """Wait until everything logged and printed before this call has been shown.

        Parameters
        ----------
        timeout : float or None
            Seconds; None waits for as long as it takes.
        chosen : callable or None
            Which procs to flush; None: all.

        Raises
        ------
        FlushTimeout
            If ranks did not answer in time, or a handler of this client blocks; the receipt on it says which.
        ClosedError
            If the client does not run, or the call comes from one of its own handlers.
        """
        began = monotonic()
        future = self.flush_soon(timeout, chosen)
        # The client's thread keeps the time, unless a handler holds it up: then this one does.
        if finished(future, None if timeout is None else timeout + _MARGIN_SEC):
            receipt = future.result()
        else:
            receipt = self._core.unanswered(future, chosen, monotonic() - began)
        if receipt.missing or receipt.busy:
            raise FlushTimeout(explain_missing(receipt), receipt)
        return receipt

    def flush_soon(self, timeout: float | None = 10.0, chosen: Chosen | None = None) -> Future[FlushReceipt]:
        """Begin a flush; the future gets its receipt, also when ranks are missing. Never blocks."""
        if threading.current_thread() is self._thread:
            raise ClosedError("flush was called by a handler of this client, and would wait for itself: use another thread.")
        future: Future[FlushReceipt] = Awaited()
        future.set_running_or_notify_cancel()  # whoever stops waiting (asyncio cancels what it waits for) does not end it
        seconds = check_timeout(timeout)
        begin = partial(self._core.flush, future, float("inf") if seconds is None else seconds, chosen)
        self._post(begin, future, gives=False)
        return future

    def show_ended(self, seconds: float) -> None:
        """Wait until all is shown that procs logged which have ended by now; no longer than `seconds` without progress."""
        if not self.running or threading.current_thread() is self._thread:
            return
        if all(peer.pid == self._pid for peer in tuple(self._core.reactor.peers)):
            return
        future: Future[FlushReceipt] = Awaited()
        future.set_running_or_notify_cancel()
        with contextlib.suppress(ClosedError):  # the thread has just ended
            self._post(partial(self._core.flush_ended, future), future, gives=False)
            progress = None
            while not finished(future, seconds) and progress != self._core.progress:
                progress = self._core.progress

    def next_request(self) -> int:
        """Return a number for an order."""
        return self._core.commands.number()

    def send_command_soon(self, command: Command, chosen: Chosen | None) -> Future[Answers]:
        """Give an order to procs (None: all but the client's own); the future gets their answers. Never blocks."""
        future: Future[Answers] = Awaited()
        future.set_running_or_notify_cancel()  # as above
        self._post(lambda: self._core.command(command, future, chosen), future, gives=False)
        return future

    def commit_soon(
        self, command: Command, chosen: Chosen, prepared: Set[Hashable], defaults: tuple[str, Command] | None
    ) -> Future[Answers] | None:
        """End a transaction (see `ClientLoop.commit`); None if procs have joined that are not `prepared`."""
        future: Future[Answers] = Awaited()
        future.set_running_or_notify_cancel()  # as above
        return future if self.ask(lambda: self._core.commit(command, future, chosen, prepared, defaults)) else None

    def give_up(self, request: int) -> None:
        """Wait no longer for those who have not answered an order."""
        self._post(lambda: self._core.commands.give_up(request))

    def set_window(self, window: float | None) -> None:
        """Group within `window` seconds what is logged from now on; returns when what was logged before has been shown."""
        self.switch(settings.check_window(window))

    def set_handlers(self, handlers: Sequence[ShownBy], respect_handler_level: bool = True) -> None:
        """Show by other handlers what is logged from now on; returns when what was logged before has been shown."""
        self.switch(default=Sink(handlers, respect_handler_level))

    def switch(
        self,
        window: float | None = KEEP,
        *,
        streaming: bool | None = None,
        chosen: Chosen | None = None,
        mesh: str | None = None,
        default: Sink | None = None,
        wait: bool = True,
        seconds: float | None = None,
    ) -> None:
        """Change what is shown of what procs log from now on (see `Switches.begin`).

        Returns when all that was logged before has been shown as before, or at once: without `wait`, and on the client's own
        thread. Silent procs are waited for `seconds` (None: 5); they switch when they come to it.

        Raises
        ------
        BusyError
            If a handler blocks the client's thread.
        """
        if window != KEEP:
            self._window = window
        future: Switched = Awaited()
        future.set_running_or_notify_cancel()
        begin = partial(self._core.switches.begin, future, window, streaming, chosen, mesh, default)
        if threading.current_thread() is self._thread:
            begin()
        elif not wait:
            self._post(begin)
        else:
            self.ask(begin, *(() if seconds is None else (seconds,)))
            if not finished(future, SWITCH_SEC if seconds is None else seconds):
                self.ask(lambda: None, _BLOCKED_SEC)  # raises what holds up the client, if it is not the procs

    def add_sink(self, sink: Sink) -> None:
        """Show by the handlers of a `MeshHandler` of this process, too; where it has none, on the console. Never blocks."""
        if not sink.handlers:
            sink.handlers = (self._make_console(),)
        sink.keeps_files = self._log_dir is not None
        self.sinks.add(sink)

    def _make_console(self) -> ConsoleHandler:
        """Return the console's handler: one for all sinks, so that progress bars know of each other's lines."""
        if self.console is None:
            self.console = ConsoleHandler()
        return self.console

    def set_streaming(self, streaming: bool, chosen: Chosen | None = None) -> None:
        """Show, or do not show, what procs log and print from now on; files have it all the same.

        Without `chosen` also for procs that join later.
        """
        self.switch(streaming=streaming, chosen=chosen)

    def set_default(self, mesh: str, command: Command) -> None:
        """Let an order hold for procs of `mesh` that join later, here or below a relay."""
        self.registry.set_default(mesh, command)
        self._post(lambda: self._core.relays.set_default(mesh, command))

    def ranks(self, mesh: str) -> tuple[int, ...]:
        """Return the ranks that have joined under a mesh's token ("": under none), and live."""
        return self.ask(lambda: self._core.ranks(mesh))

    def stats(self) -> Stats:
        """Return exact counters per rank."""
        if not self.running:
            return self._core.stats() if hasattr(self, "_core") else Stats({}, 0, 0)
        return self.ask(self.stats_now)

    def stats_now(self) -> Stats:
        """Return the same on the client's own thread."""
        return self._core.stats()

    def adopt(self, pid: int, rank: int, local_rank: int, pipes: Mapping[str, int], mesh: str) -> Peer:
        """Take in a process that was started with its output led into pipes; return what the client's thread knows it by.

        Parameters
        ----------
        pid, rank, local_rank : int
            Should it join by itself, under this rank, its records come as well.
        pipes : mapping of str to int
            Read ends, which do not block, by "stdout" and "stderr". They are the client's from here on.
        mesh : str
            The token under which `report_exit`, to be called when it has ended, speaks of it.
        """
        hello = Hello(pid, socket.gethostname(), rank, local_rank, mesh, tuple(pipes), False, time.time())
        self.registry.joined(mesh, rank)
        peer = Peer(None, hello, rank, "", pipes, self.registry.coords(hello, rank), self._max_line, pid)
        self._post(lambda: self._core.add(peer, Welcome(rank, "", ())))
        return peer

    def refuse_commands(self) -> None:
        """Let no more commands of a launcher join, which `execute` leads here; what these run may join as long as they live.

        Returns when those on the way have joined, or were refused.
        """
        self.registry.refuses_commands = True
        self._listener.settle()
        self.ask(lambda: None)

    def report_exit(self, mesh: str, rank: int, exitcode: int) -> None:
        """Tell how a proc ended, where the client cannot ask the kernel. Any thread."""
        with contextlib.suppress(ClosedError):  # nobody is left to tell
            self._post(lambda: self._core.note_exit(mesh, rank, exitcode))

    def ask(self, fn: Callable[[], T], timeout: float | None = ANSWER_SEC) -> T:
        """Run `fn` on the client's thread, and return what it returns.

        Raises
        ------
        BusyError
            After `timeout` seconds, where a handler blocks the thread. If `fn` has not begun by then, it is not run.
        """
        future = self.on_thread(fn)
        if not finished(future, timeout):
            future.cancel()
            if not future.done() or future.cancelled():
                busy = self._core.busy() or "the client's thread is busy"
                raise BusyError(f"the client gave no answer within {timeout:g} s: {busy}. Does a handler wait for something?")
        return future.result()

    def on_thread(self, fn: Callable[[], T]) -> Future[T]:
        """Run `fn` on the client's thread. Never blocks: see `ask`."""
        future: Future[T] = Awaited()
        if threading.current_thread() is self._thread:
            future.set_result(fn())
        else:
            self._post(fn, future)
        return future

    def _end(self) -> None:
        self._core.end()

    def _check_running(self) -> None:
        if not self.running:
            raise ClosedError("this LogClient does not run in this process: call start(), or use it in a with statement.")

    def _post(self, fn: Callable[[], Any], future: Future[Any] | None = None, *, gives: bool = True) -> None:
        if self._pid != os.getpid() or self._thread is None:
            self._check_running()
            raise ClosedError("this LogClient was stopped.")
        self._mailbox.put(fn, future, gives=gives)

    def _monitor(self) -> None:
        internal_threads.add(threading.get_ident())
        try:
            self._core.run()
        finally:
            # Last in, first out, and each whatever the others raise.
            with contextlib.ExitStack() as end:
                end.callback(setattr, self, "_ended", True)
                end.callback(internal_threads.discard, threading.get_ident())
                end.enter_context(self._core.gate)
                end.callback(self._core.hang_up)
                end.callback(self._rundir.remove)
                end.callback(self.registry.release_journals)
                end.callback(self._mailbox.close)
                if self.console is not None:
                    end.callback(self.console.close)

    def _admit(self, connection: NewConnection) -> Welcome:
        """Return what to tell a newcomer. On a thread of the door."""
        try:
            self._rundir.restore()
            if self._log_dir is not None:
                os.makedirs(self._log_dir, exist_ok=True)
        except OSError as failure:
            diagnose(f"the directory of the journals was removed, and cannot be made again: {failure}")
        return self.registry.admit(connection)

    def _joined(self, connection: NewConnection, welcome: Welcome) -> None:
        """Begin with a proc. On a thread of the door; the client's thread sends the answer once it knows the proc."""
        peer = peer_of(connection, welcome, self.registry.coords(connection.hello, welcome.rank), self._max_line)
        self._post(lambda: self._core.add(peer, welcome))

    def forget(self) -> None:
        """In a forked child: close copies of what is the parent's."""
        self._running = False
        self._thread = None
        self._core.forget()
        self._mailbox.forget()
        self._rundir.forget()
        self.registry.forget()
