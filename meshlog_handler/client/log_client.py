"""LogClient: one thread that receives, groups and shows the records of all workers, and sends commands and flushes.

::

    workers    -> sockets, pipes -> Reactor           -> items -> Dispatcher -> files, groups, handlers
    any thread -> Mailbox        -> LogClient thread  -> commands, flush sentinels -> workers

Any thread may call the public methods. Only the client's thread uses peers, pending flushes, groups and handlers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeVar

from .. import settings
from ..dispatch.dispatcher import KEEP, Dispatcher
from ..dispatch.sink import Sink
from ..errors import BusyError, ClosedError, FlushTimeout
from ..insight.report import Insight, insight_of
from ..insight.stacks import Stacks
from ..output.named_handlers import ShownBy
from ..output.rank_files import RankFiles
from ..protocol.messages import Command, Hello, Welcome
from ..system import at_exit, live_clients, unpatched
from ..system.diagnostics import diagnose
from ..system.interpreters import check_interpreter
from ..system.mailbox import Mailbox
from ..system.shielded import run_shielded, run_whole
from ..system.waits import Awaited, check_timeout, ended, finished, monotonic
from ..transport.channel import HANDSHAKE_SEC
from ..transport.listener import Listener, NewConnection
from ..transport.run_directory import RunDir
from ..worker.record_stream import internal_threads
from .acknowledgements import UNANSWERED, Answers
from .flushes import explain_missing
from .insights import INSIGHT_SEC, Findings, observe
from .listening import Listening
from .loop import ClientLoop
from .peer import Chosen, Peer
from .queue_peer import CLIENT_NAME, QueuePeer
from .queue_reader import QueueReader, end_readers
from .receipt import FlushReceipt
from .registry import Registry
from .relayed_peers import peer_of
from .relays import Upstream
from .stack_collector import StackCollector
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


class LogClient(Listening):
    """Shows the logs of many processes in this one.

    Parameters
    ----------
    *handlers : logging.Handler
        The handlers that show the records, called on the client's thread. None: the console. A queue may come before them,
        as in ``QueueListener(queue, *handlers)``.
    aggregate_window_sec : float or None
        Seconds in which similar lines become one. None: ``MESHLOG_AGGREGATE_WINDOW_SEC``, else each line is shown at once.
    respect_handler_level : bool
        Whether a handler gets only records of at least its level.
    log_dir : str or None
        Directory for a complete file per rank and stream, and for the journals.
    never, hide : sequence of str
        Regular expressions: lines that are never grouped, and lines that are not shown (they are in the files).
    queue : queue or None
        A queue of the program to read (see `listen`). None: `client.queue` is a `JournalQueue`.
    upstream : Upstream or None
        The connection to the upstream client, if this client is the client of a relay (see `LogRelay`).

    Notes
    -----
    A forked child inherits an inert copy: the copy owns neither thread nor sockets, and its `stop` does nothing.
    It is a `logging.handlers.QueueListener`: records that are put into its `queue` are shown, so a `QueueHandler` in any
    process can use it, as in the logging cookbook. A subclass may override `handle`, `prepare`, and, if it is given a
    queue, `dequeue` and `enqueue_sentinel`. The design follows Monarch's ``LogClientActor``.
    """

    def __init__(
        self,
        *handlers: Any,
        queue: Any = None,
        aggregate_window_sec: float | None = None,
        respect_handler_level: bool = True,
        log_dir: str | os.PathLike[str] | None = None,
        never: Sequence[str] = (),
        hide: Sequence[str] = (),
        upstream: Upstream | None = None,
    ) -> None:
        window = settings.check_window(aggregate_window_sec) or settings.aggregate_window_sec()
        super().__init__(handlers, queue, respect_handler_level, window)
        self._log_dir = settings.check_directory(log_dir)
        self._patterns = {"never": tuple(never), "hide": tuple(hide)}
        self._max_line = settings.max_line_size()
        self._pid = os.getpid()
        self._running = False
        self._ended = False  # whether the thread has ended
        self.own_token = os.urandom(8).hex()
        self._upstream = upstream
        self.registry = Registry(self.own_token)
        self.stack_collector = StackCollector(self)

    # -- start and stop --------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the client is started and not stopped, in this process, and its thread is alive."""
        # Not `Thread.is_alive`: up to Python 3.12, a call that Ctrl-C interrupts marks the thread as ended.
        return self._running and self._pid == os.getpid() and not self._ended

    @property
    def shows(self) -> bool:
        """Whether the client shows records. The client of a relay passes them on."""
        return self._upstream is None

    def start(self) -> LogClient:  # type: ignore[override]  # returns itself, where QueueListener returns None
        """Open the listener and start the thread. A second call does nothing.

        Raises
        ------
        OSError
            If no private directory can be made, or `log_dir` cannot be written.
        SettingError
            If this is an interpreter of `InterpreterPoolExecutor`.
        """
        if self.running:
            return self
        check_interpreter("a LogClient")
        unpatched.use()
        if self.sinks.default is None and not self.sinks.routed:
            # On this thread: it may hold the lock of `logging` (`logging.config` calls a factory), and a new handler needs it.
            self._default_sink()
        try:
            run_shielded(self._start)
            return self
        except BaseException:
            self.stop()  # it does nothing unless the client runs: then Ctrl-C was the cause, not a failed start
            raise

    def _start(self) -> None:
        self._pid = os.getpid()
        files = None
        if self._log_dir is not None:
            os.makedirs(self._log_dir, exist_ok=True)
            files = RankFiles(self._log_dir, report=diagnose)
        with contextlib.ExitStack() as undo:  # a start that fails or is interrupted leaves nothing behind
            self._rundir = RunDir()
            undo.callback(self._rundir.remove)
            undo.callback(self.registry.release_journals)
            self.registry.keep_journals_in(self._log_dir or self._rundir.path, shared=self._log_dir is not None)
            self._listener = Listener(
                self._rundir.path, identify=self.registry.identify, claim=self._claim, admit=self._admit, joined=self._joined
            )
            undo.callback(self._listener.close)
            self._mailbox = Mailbox("the client's thread", "LogClient")
            undo.callback(self._mailbox.close)
            handle = self._give if self._overridden else None
            dispatcher = Dispatcher(self.sinks, files, **self._patterns, digests=self._upstream is not None, handle=handle)
            self._core = ClientLoop(
                self._mailbox,
                dispatcher=dispatcher,
                registry=self.registry,
                listener=self._listener,
                own_token=self.own_token,
                keep_journals=self._log_dir is not None,
                post=self._post,
                upstream=self._upstream,
            )
            undo.callback(self._core.reactor.close)
            self.stack_collector.attach(self._core.reactor, self._core.commands)
            self.journal_queue.open(str(self._listener.address), self.own_token)
            undo.callback(self.journal_queue.close)
            undo.callback(self._disown)
            self._running, self._ended = True, False
            live_clients.add(self)
            at_exit.stop_at_exit(self, self.stop)
            # Without a name, the thread would use up a number of the program's Thread-N names.
            thread = threading.Thread(target=self._monitor, name=CLIENT_NAME, daemon=True)
            self._thread = thread
            thread.start()
            undo.pop_all()
        self._start_readers()

    def _read(self, reader: QueueReader) -> None:
        peer = QueuePeer(reader, self.own_token)
        self._post(partial(self._core.add_queue, peer))
        wake = partial(self._core.queues.look_at, peer)
        reader.start(lambda: self._post(wake), lambda: self._core.progress, self._show_here)

    def _disown(self) -> None:
        self._running = False
        self._thread = None
        live_clients.discard(self)
        at_exit.forget(self)

    def stop(self, timeout: float = 10.0) -> None:
        """Show all records that were logged before the call, release the workers, and end.

        A second call, or a call in a forked child, does nothing. Workers that continue to run show later records by their own
        handlers, and write to their own stdout and stderr.

        Parameters
        ----------
        timeout : float
            Seconds without progress. A slow handler that makes progress is waited for, as in `QueueListener`. After that time,
            the records of workers that do not answer are read from their journals. If a handler blocks, it is named, with the
            number of records that were not shown.
        """
        interrupts: list[BaseException] = []
        try:
            self._stop_shielded(timeout, interrupts)
        except BaseException as interrupt:
            interrupts.append(interrupt)
            self._stop_shielded(timeout, interrupts)  # if the first call was interrupted before it began
            raise

    def _stop_shielded(self, timeout: float, interrupts: list[BaseException]) -> None:
        thread = self._thread
        if self.running and thread is not None and threading.current_thread() is not thread:
            run_shielded(partial(self._stop, thread, timeout, interrupts), interrupts.append)

    def _stop(self, thread: threading.Thread, timeout: float, interrupts: Sequence[BaseException]) -> None:
        end_readers(self._readers, timeout / 2, interrupts)  # then no time is left for workers only if both do not answer
        self._readers.clear()
        self.journal_queue.close()  # records that are put into it from now on are shown at once
        try:
            with contextlib.suppress(ClosedError):  # the thread has already ended
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
            elif asked or self._core.dispatcher.busy is not None:
                self._end_at_once(thread)
                return
            else:
                with contextlib.suppress(ClosedError):  # it has ended since
                    self._post(self._core.reactor.stop_waiting_for_silent)
                asked, since, timeout = True, now, _GRACE_SEC

    def _end_at_once(self, thread: threading.Thread, why: str = "") -> None:
        """Show nothing more, and report it. If a handler blocks the thread, close what other processes wait for or can see."""
        core = self._core
        why = why or core.busy() or "the client's thread does not end"
        core.dispatcher.abandoned = True
        try:
            waiting = f"{self._count_waiting():,} records were not shown"
        except Exception as failure:  # the thread has continued since, or a journal cannot be read
            waiting = f"the records that it has not shown are lost and cannot be counted ({type(failure).__name__}: {failure})"
        finally:
            core.dispatcher.counted.set()
        diagnose(f"the client is stopped without an orderly end, and {waiting}: {why}")
        with contextlib.suppress(ClosedError):  # the thread has already ended
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

    def enqueue_sentinel(self) -> None:
        """Put the sentinel into a queue that was given to this client; otherwise, ask the thread to end."""
        if self._reads_queue:
            self.queue.put(None)
        else:
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
        """Return a copy of this process's environment, with the settings that a subprocess needs to join."""
        return {**os.environ, settings.ADDRESS: self.address}

    # -- requests from other threads -------------------------------------------------------------------------------

    def flush(self, timeout: float | None = 10.0, chosen: Chosen | None = None) -> FlushReceipt:
        """Wait until everything that was logged and printed before this call is shown.

        Of a queue of the program, this is what this process has put, and what others have written: see `listen`.

        Parameters
        ----------
        timeout : float or None
            Seconds; None is unlimited.
        chosen : callable or None
            Which workers to flush; None: all.

        Raises
        ------
        FlushTimeout
            If ranks did not answer in time, or a handler of this client blocks. Its receipt has the details.
        ClosedError
            If the client does not run, or one of its handlers makes the call.
        """
        began = monotonic()
        future = self.flush_soon(timeout, chosen)
        # The client's thread applies the timeout. If a handler blocks that thread, this one does.
        if finished(future, None if timeout is None else timeout + _MARGIN_SEC):
            receipt = future.result()
        else:
            receipt = self._core.unanswered(future, chosen, monotonic() - began)
        if receipt.missing or receipt.busy:
            raise FlushTimeout(explain_missing(receipt), receipt)
        return receipt

    def flush_soon(self, timeout: float | None = 10.0, chosen: Chosen | None = None) -> Future[FlushReceipt]:
        """Start a flush; the future gets its receipt, also when ranks are missing. Never blocks."""
        if threading.current_thread() is self._thread:
            raise ClosedError("flush failed: a handler of this client called it and would wait for itself. Use another thread.")
        future: Future[FlushReceipt] = Awaited()
        future.set_running_or_notify_cancel()  # a caller that stops waiting (asyncio cancels the future) does not end the flush
        seconds = check_timeout(timeout)
        begin = partial(self._core.flush, future, float("inf") if seconds is None else seconds, chosen)
        self._post(begin, future, gives=False)
        return future

    def show_ended(self, seconds: float) -> None:
        """Wait until all records of ended workers are shown, at most `seconds` without progress."""
        if not self.running or threading.current_thread() is self._thread:
            return
        if all(peer.pid == self._pid for peer in tuple(self._core.reactor.peers)):
            return
        future: Future[FlushReceipt] = Awaited()
        future.set_running_or_notify_cancel()
        with contextlib.suppress(ClosedError):  # the thread has ended since
            self._post(partial(self._core.flush_ended, future), future, gives=False)
            progress = None
            while not finished(future, seconds) and progress != self._core.progress:
                progress = self._core.progress

    def next_request(self) -> int:
        """Return the request number for a command."""
        return self._core.commands.number()

    def send_command_soon(self, command: Command, chosen: Chosen | None) -> Future[Answers]:
        """Send a command to workers (None: all but the client's own process); the future gets their answers. Never blocks."""
        future: Future[Answers] = Awaited()
        future.set_running_or_notify_cancel()  # as above
        self._post(lambda: self._core.command(command, future, chosen), future, gives=False)
        return future

    def commit_soon(
        self, command: Command, chosen: Chosen, prepared: Set[Hashable], defaults: tuple[str, Command] | None
    ) -> Future[Answers] | None:
        """End a transaction (see `ClientLoop.commit`); None if workers have joined that are not `prepared`."""
        future: Future[Answers] = Awaited()
        future.set_running_or_notify_cancel()  # as above
        return future if self.ask(lambda: self._core.commit(command, future, chosen, prepared, defaults)) else None

    def give_up(self, request: int) -> None:
        """Stop waiting for the missing answers to a command."""
        self._post(lambda: self._core.commands.give_up(request, UNANSWERED))

    def set_window(self, window: float | None) -> None:
        """Group records logged from now on within `window` seconds; return when all earlier records are shown."""
        self.switch(settings.check_window(window))

    def set_handlers(self, handlers: Sequence[ShownBy], respect_handler_level: bool = True) -> None:
        """Replace the handlers for records logged from now on; return when all earlier records are shown."""
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
        """Change what is shown of the records that workers log from now on (see `Switches.begin`).

        Returns when all earlier records are shown under the old settings. Without `wait`, or on the client's own thread,
        it returns at once. Waits `seconds` (None: 5) for workers that do not answer; they switch when they reach the sentinel.

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
                self.ask(lambda: None, _BLOCKED_SEC)  # raises if the client's thread is blocked, and not the workers

    def add_sink(self, sink: Sink) -> None:
        """Show records by the handlers of a `MeshHandler` of this process as well (none: by the console). Never blocks."""
        if not sink.handlers:
            sink.handlers = (self._make_console(),)
        sink.keeps_files = self._log_dir is not None
        self.sinks.add(sink)

    def set_streaming(self, streaming: bool, chosen: Chosen | None = None) -> None:
        """Show or suppress what workers log and print from now on; files have it in both cases.

        Without `chosen`, it also applies to workers that join later.
        """
        self.switch(streaming=streaming, chosen=chosen)

    def set_default(self, mesh: str, command: Command) -> None:
        """Add a command to the defaults for workers that join `mesh` later, here or downstream."""
        self.registry.set_default(mesh, command)
        self._post(lambda: self._core.relays.set_default(mesh, command))

    def ranks(self, mesh: str) -> tuple[int, ...]:
        """Return the live ranks that have joined with a mesh token ("": without one)."""
        return self.ask(lambda: self._core.ranks(mesh))

    def stats(self) -> Stats:
        """Return exact counters per rank."""
        if not self.running:
            return self._core.stats() if hasattr(self, "_core") else Stats({}, 0, 0)
        return self.ask(self.stats_now)

    def stacks(self, ranks: Iterable[int] | None = None, timeout: float | None = 5.0) -> Stacks:
        """Return the Python stacks of all threads of these ranks (None: all), merged. Any thread may call it.

        Ranks that do not answer within `timeout` seconds (None: no limit) are in `unanswered`, with what the kernel reports.
        Raises `SettingError`, `ClosedError`, and `BusyError` if a handler blocks the client's thread.
        """
        return self.stack_collector.stacks(ranks, timeout)

    def stats_now(self) -> Stats:
        """Return the counters. Client thread only."""
        return self._core.stats()

    def insight(self, timeout: float = INSIGHT_SEC, ranks: Iterable[int] | None = None) -> Insight:
        """Return which ranks are silent, behind, different or failed, from what they have logged and printed so far.

        `ranks` are the ranks to compare with each other (None: all). The call waits up to `timeout` seconds for relays; of the
        ranks of a relay that does not answer, only the counters are known. After `stop`, it returns what was known then.
        """
        return insight_of(observe(self._core.insights, self.ask, timeout) if hasattr(self, "_core") else (), ranks)

    def observe_soon(self, future: Future[Findings]) -> None:
        """Let `future` get what is known about the ranks."""
        self._post(lambda: self._core.insights.ask(future))

    def adopt(self, pid: int, rank: int, local_rank: int, pipes: Mapping[str, int], mesh: str) -> Peer:
        """Register a process that was started with its output redirected into pipes; return its peer.

        Parameters
        ----------
        pid, rank, local_rank : int
            If the process also joins by itself under this rank, its records are shown as well.
        pipes : mapping of str to int
            Non-blocking read ends by "stdout" and "stderr". The client owns them from here on.
        mesh : str
            The mesh token for `report_exit`, which the caller must call when the process has ended.
        """
        return run_whole(lambda: self._adopt(pid, rank, local_rank, pipes, mesh))  # Ctrl-C leaves the pipes with their owner

    def _adopt(self, pid: int, rank: int, local_rank: int, pipes: Mapping[str, int], mesh: str) -> Peer:
        hello = Hello(pid, socket.gethostname(), rank, local_rank, mesh, tuple(pipes), False, time.time())
        self.registry.joined(mesh, rank)
        peer = Peer(
            None,
            hello,
            rank=rank,
            journal="",
            pipes=pipes,
            coords=self.registry.coords(hello, rank),
            max_line=self._max_line,
            process=pid,
            client=self.own_token,
        )
        self._post(lambda: self._core.add(peer, Welcome(rank, "", ())))
        return peer

    def refuse_commands(self) -> None:
        """Refuse further ``output_only`` connections (see `execute`). Programs that these commands run may still join.

        Returns when pending connections have joined or were refused.
        """
        self.registry.refuses_commands = True
        settled: Future[None] = Awaited()
        self._post(lambda: self._listener.when_settled(lambda: settled.set_result(None)))
        finished(settled, HANDSHAKE_SEC)

    def report_exit(self, mesh: str, rank: int, exitcode: int) -> None:
        """Report the exit code of a worker, where the client cannot get it from the kernel. Any thread may call it."""
        with contextlib.suppress(ClosedError):  # the client has ended
            self._post(lambda: self._core.note_exit(mesh, rank, exitcode))

    def ask(self, fn: Callable[[], T], timeout: float | None = ANSWER_SEC) -> T:
        """Run `fn` on the client's thread, and return its result.

        Raises
        ------
        BusyError
            After `timeout` seconds, if a handler blocks the thread. If `fn` has not begun by then, it is not run.
        """
        future = self.on_thread(fn)
        if not finished(future, timeout):
            future.cancel()
            if not future.done() or future.cancelled():
                busy = self._core.busy() or "the client's thread is busy"
                raise BusyError(f"the client gave no answer within {timeout:g} s: {busy}. Check whether a handler blocks.")
        return future.result()

    def on_thread(self, fn: Callable[[], T]) -> Future[T]:
        """Run `fn` on the client's thread. Never blocks (compare `ask`)."""
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
            # Runs in reverse order. Each callback runs even if another one raises.
            with contextlib.ExitStack() as end:
                end.callback(setattr, self, "_ended", True)
                end.callback(internal_threads.discard, threading.get_ident())
                end.enter_context(self._core.gate)
                end.callback(self._core.hang_up)
                end.callback(self._rundir.remove)
                end.callback(self.registry.release_journals)
                end.callback(self._mailbox.close)
                if self.console is not None:
                    # Not `close`: the thread that stops the client may hold the lock of `logging`.
                    end.callback(self.console.finish)

    def _claim(self, granted: Callable[[int], None]) -> Callable[[], object]:
        """Ask the upstream client for a rank; `granted` is called with it on the client's thread."""
        assert self.registry.claim is not None  # else `identify` returns False
        return self.registry.claim(lambda rank: self._post(lambda: granted(rank)))

    def _admit(self, connection: NewConnection) -> Welcome:
        """Return the reply to a new connection. Client thread only."""
        try:
            self._rundir.restore()
            if self._log_dir is not None:
                os.makedirs(self._log_dir, exist_ok=True)
        except OSError as failure:
            diagnose(f"the directory of the journals was removed and cannot be created again: {failure}")
        return self.registry.admit(connection)

    def _joined(self, connection: NewConnection, welcome: Welcome) -> None:
        """Add a peer, which sends it the reply. Client thread only."""
        peer = peer_of(
            connection, welcome, self.registry.coords(connection.hello, welcome.rank), self._max_line, self.own_token
        )
        self._core.add(peer, welcome)

    def forget(self) -> None:
        """In a forked child: close the copies of the parent's descriptors."""
        self._running = False
        self._thread = None
        self._core.forget()
        self._mailbox.forget()
        self._rundir.forget()
        self.registry.forget()
