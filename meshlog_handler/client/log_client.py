"""LogClient: one thread that receives, groups and shows the records of all workers, and sends commands and flushes.

::

    workers    -> sockets, pipes -> Reactor           -> items -> Dispatcher -> files, groups, handlers
    any thread -> Mailbox        -> LogClient thread  -> commands, flush sentinels -> workers

Any thread may call the public methods. Only the client's thread uses peers, pending flushes, groups and handlers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from .. import settings
from ..dispatch.dispatcher import Dispatcher
from ..errors import ClosedError, SettingError
from ..output.console import flushing_threads
from ..output.rank_files import RankFiles
from ..protocol.messages import Welcome
from ..protocol.relay_messages import PassedReceived, RankGranted
from ..system import at_exit, live_clients, unpatched
from ..system.c_library import prepare_thread_ends
from ..system.descriptors import never_freed
from ..system.diagnostics import diagnose
from ..system.error_reports import ErrorReports
from ..system.interpreters import check_interpreter
from ..system.lazy_imports import importing
from ..system.mailbox import Mailbox
from ..system.shielded import run_shielded
from ..system.waits import check_timeout, monotonic
from ..transport.listener import Listener, NewConnection
from ..transport.run_directory import RunDir
from ..transport.runs import FILE, description
from ..worker import job_member
from ..worker.job_member import JobMember
from ..worker.member import launched_options
from ..worker.record_stream import internal_threads
from .health.stack_collector import StackCollector
from .jobs.handover import Handover
from .jobs.marking_dispatcher import MarkingDispatcher
from .jobs.succession import Leftover, Succession
from .loop import ClientLoop
from .new_peers import ended_peer, peer_of
from .observers.answers import answer
from .observers.observers import Observers
from .peers.peer import Peer
from .peers.registry import Registry
from .peers.tail import last_records
from .queues.listening import no_queue
from .queues.queue_peer import CLIENT_NAME, QueuePeer
from .queues.queue_reader import QueueReader, end_readers
from .requests import Requests
from .stopping import GRACE_SEC, stopped

if TYPE_CHECKING:
    from .health.hang_watch import HangWatch, OnHang
    from .relay.uplink import Uplink

_START_LOOK_SEC: Final = 0.002
_HANDLER_SEC: Final = 1.0  # for a handler, before another client shows what it has not noted as shown


class LogClient(Requests):
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
        Regular expressions: lines that are never grouped, and lines that are not shown (they are in the files). Those of
        ``MESHLOG_NEVER`` and ``MESHLOG_HIDE`` are added.
    queue : queue or None
        A queue of the program to read (see `listen`). None: `client.queue` is a `JournalQueue`.
    hang_after : float or None
        Seconds without progress of any rank after which a job counts as hung: then it is shown once where the ranks are,
        since when, their last lines, and the merged stacks. None: nothing is watched.
    on_hang : callable or None
        Called with the `Hang` after it was shown, on a thread of this package.
    progress_from : {"output", "cpu"}
        What counts as progress: records and printed lines, or processor time of ranks and their children, too.
    upstream : Uplink or None
        The connection to the upstream client, if this client is the client of a relay (see `LogRelay`).
    job : str or None
        The name of a job. Of all processes of this user and machine that use it, one shows the records of all, by its own
        handlers. In the others, `start` joins that client, `running` is False, and `address` is the address of that client,
        until one of them takes over. None: ``MESHLOG_JOB``; "": no job.

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
        hang_after: float | None = None,
        on_hang: OnHang | None = None,
        progress_from: str = "output",
        upstream: Uplink | None = None,
        job: str | None = None,
    ) -> None:
        window = settings.check_window(aggregate_window_sec) or settings.aggregate_window_sec()
        self._job: str | None = None
        super().__init__(handlers, queue, settings.check_flag(respect_handler_level, "respect_handler_level"), window)
        self._log_dir = settings.check_directory(log_dir)
        env = os.environ if upstream is None else {}  # a relay passes everything on
        self._patterns = {
            "never": settings.patterns(settings.NEVER, never, env),
            "hide": settings.patterns(settings.HIDE, hide, env),
        }
        self._rotation, self._first_level = settings.rotation(), settings.first_level()
        self._max_line = settings.max_line_size()
        self._pid = os.getpid()
        self._running = False
        self._ended = False  # whether the thread has ended
        self.own_token = os.urandom(8).hex() if upstream is None else upstream.directory.token
        self._hang_after = settings.check_hang_after(hang_after)
        settings.check_on_hang(on_hang, self._hang_after)
        self._on_hang, self._progress_from = on_hang, settings.check_progress_from(progress_from, self._hang_after)
        self._hang_watch: HangWatch | None = None
        self._upstream = upstream
        if job is None and self._reads_queue:
            job = ""  # MESHLOG_JOB is for clients that no queue belongs to
        self._job = settings.check_job(job) if job != "" and upstream is None else None
        if self._job is not None and self._reads_queue:
            raise SettingError(no_queue(self._job))
        self.sinks.never_direct = self._job is not None  # also before the start: an earlier client's files are looked at first
        self._member: JobMember | None = None
        self._starter: threading.Thread | None = None
        self._exits = False  # whether the process exits: then it may still show what others leave
        self._succession: Succession | None = None
        self.registry = Registry(self.own_token)
        self.registry.job = self._job or ""
        self.stack_collector = StackCollector(self)
        self.error_reports = ErrorReports()

    # -- start and stop --------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the client is started and not stopped, in this process, and its thread is alive."""
        # Not `Thread.is_alive`: up to Python 3.12, a call that Ctrl-C interrupts marks the thread as ended.
        return self._running and self._pid == os.getpid() and not self._ended

    @property
    def job(self) -> str | None:
        """The name of the job, or None."""
        return self._job

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
        if self._job is None:
            self.start_showing()
            return self
        if self.running or self._member is not None:
            return self
        check_interpreter("a LogClient")
        self._member = job_member.of(self._job)
        if not self._member.enter(self.start_showing, launched_options("")):
            diagnose(f"the process that should display job {self._job!r} is not responding, so its records are not shown")
        return self

    def start_showing(self, *, exits: bool = False) -> str:
        """Do what `start` does, and return the address. The client of a job starts where the job is shown (see `JobMember`).

        If this process `exits`, no thread can be started any more: show what is left on this thread, and return "".
        """
        if self.running:
            return self.address
        check_interpreter("a LogClient")
        unpatched.use()
        prepare_thread_ends()
        if self.sinks.default is None and not self.sinks.routed:
            # On this thread: it may hold the lock of `logging` (`logging.config` calls a factory), and a new handler needs it.
            self._default_sink()
        self._starter = threading.current_thread()
        try:
            run_shielded(self._show_left if exits else self._start)
            return "" if exits else self.address
        except BaseException:
            self.stop()  # it does nothing unless the client runs: then Ctrl-C was the cause, not a failed start
            raise
        finally:
            self._starter = None

    def _show_left(self) -> None:
        """Show on this thread what other clients of the job have left, and end."""
        self._start(partial(setattr, self, "_thread", threading.current_thread()))
        try:
            self._loop.release()
            self._monitor()
        finally:
            self._disown()

    def _start(self, start_thread: Callable[[], object] | None = None) -> None:
        self._pid = os.getpid()
        files = None
        if self._log_dir is not None:
            settings.make_directory(self._log_dir)
            files = self._make_files(self._log_dir)
        with contextlib.ExitStack() as undo:  # a start that fails or is interrupted leaves nothing behind
            self._rundir = RunDir(self._job or "") if self._upstream is None else self._upstream.directory
            # In the directory of a relay may be journals that its next replacement reads.
            undo.callback(self._rundir.remove if self._upstream is None else self._rundir.forget)
            undo.callback(self.registry.release_journals)
            keep_journals = self._log_dir is not None and self._job is None  # a job has them where its next client finds them
            journals = self._log_dir if keep_journals and self._log_dir is not None else self._rundir.path
            self.registry.keep_journals_in(journals, shared=keep_journals)
            if self._job is not None:
                self._succession = Succession(self._job, self._rundir.path, self.error_reports.tell)
                undo.callback(self._end_job)
                self.sinks.reopen()
            self._listener = Listener(
                self._rundir.path,
                key=self._rundir.key,
                identify=self.registry.identify,
                claim=self._claim,
                admit=self._admit,
                joined=self._joined,
                tell=self.error_reports.tell,
            )
            undo.callback(self._listener.close)
            self._mailbox = Mailbox("the client's thread", self.title)
            undo.callback(self._mailbox.close)
            since = time.time()
            if self.shows and settings.observe():
                self._rundir.write(FILE, description(str(self._listener.address), since))
            dispatcher = self._make_dispatcher(files)
            self._loop = ClientLoop(
                self._mailbox,
                dispatcher=dispatcher,
                registry=self.registry,
                listener=self._listener,
                own_token=self.own_token,
                keep_journals=keep_journals,
                post=self._post,
                upstream=self._upstream,
                observers=Observers(
                    dispatcher, partial(answer, self, since), self._post, self._latest, reports=self.error_reports
                ),
                handover=partial(Handover, succession=self._succession, adopt=self._adopt_leftover),
                error_reports=self.error_reports,
            )
            undo.callback(self._loop.reactor.close)
            self.stack_collector.attach(self._loop.reactor, self._loop.commands)
            self.journal_queue.open(str(self._listener.address), self.own_token)
            undo.callback(self.journal_queue.close)
            undo.callback(self._disown)
            self._running, self._ended = True, False
            live_clients.add(self)
            at_exit.stop_at_exit(self, self._stop_at_exit)
            (start_thread or self._start_thread)()
            undo.pop_all()
        if start_thread is not None:
            return
        self._start_readers()
        if self._hang_after is not None:
            with importing():
                from .health.hang_watch import HangWatch

            unpatched.use()  # in that module, too
            source, show = self._progress_from, self._show_hang
            self._hang_watch = HangWatch(self, self._hang_after, show=show, on_hang=self._on_hang, progress_from=source)
            self._hang_watch.start()

    def _make_files(self, directory: str) -> RankFiles:
        return RankFiles(directory, report=diagnose, rotation=self._rotation)

    def _make_dispatcher(self, files: RankFiles | None) -> Dispatcher:
        kind: Callable[..., Dispatcher] = Dispatcher
        if self._succession is not None:
            kind = partial(MarkingDispatcher, files_shown=self._succession.files)
        return kind(
            self.sinks,
            files,
            **self._patterns,
            digests=self._upstream is not None,
            first_level=self._first_level,
            handle=self._give if self._overridden else None,
        )

    def _start_thread(self) -> None:
        # Without a name, the thread would use up a number of the program's Thread-N names.
        self._thread = thread = threading.Thread(target=self._monitor, name=CLIENT_NAME, daemon=True)
        thread.start()

    def _show_hang(self, text: str) -> None:
        with contextlib.suppress(ClosedError):  # the client was stopped meanwhile
            self._post(partial(self._loop.dispatcher.log, logging.ERROR, text, None, os.getpid()))

    def _read(self, reader: QueueReader) -> None:
        peer = QueuePeer(reader, self.own_token)
        self._post(partial(self._loop.add_queue, peer))
        wake = partial(self._loop.queues.look_at, peer)
        reader.start(lambda: self._post(wake), lambda: self._loop.progress, self._show_here)

    def _disown(self) -> None:
        if self._hang_watch is not None:
            self._hang_watch.stop()
        self._running = False
        self._thread = None
        live_clients.discard(self)
        at_exit.forget(self)

    def stop(self, timeout: float | None = 10.0) -> None:
        """Show all records that were logged before the call, release the workers, and end.

        A second call, or a call in a forked child, does nothing. Workers that continue to run show later records by their own
        handlers, and write to their own stdout and stderr.

        Parameters
        ----------
        timeout : float or None
            Seconds without progress; None is unlimited. A slow handler that makes progress is waited for, as in
            `QueueListener`. After that time, the records of workers that do not answer are read from their journals. If a
            handler blocks, it is named, with the number of records that were not shown.
        """
        interrupts: list[BaseException] = []
        try:
            self.end(timeout, interrupts)
        except SettingError:
            raise
        except BaseException as interrupt:
            interrupts.append(interrupt)
            self.end(timeout, interrupts)  # if the first call was interrupted before it began
            raise

    def _stop_at_exit(self) -> None:
        self._exits = True
        self.stop()

    def end(self, timeout: float | None, interrupts: list[BaseException]) -> None:
        """Do what `stop` does; stop waiting for handlers and workers when `interrupts` has an item."""
        seconds = check_timeout(timeout)
        self._await_start()
        thread = self._thread
        if thread is not None and threading.current_thread() is thread:
            return
        if self._member is not None and not self._exits:
            self._member.retire(self.start_showing)  # first: this process must not take over again
        if self.running and thread is not None:
            unpatched.let_greenlets_leave(0.0 if interrupts else seconds)
            run_shielded(partial(self._stop, thread, seconds, interrupts), interrupts.append)
        if self._member is not None and not self._exits:
            self._leave_job()

    def _await_start(self) -> None:
        """Wait until another thread has started this client: a client that takes over a job starts at any time."""
        deadline = monotonic() + GRACE_SEC
        while (starter := self._starter) is not None and starter is not threading.current_thread():
            if not starter.is_alive() or monotonic() >= deadline:
                return
            time.sleep(_START_LOOK_SEC)

    def _stop(self, thread: threading.Thread, seconds: float, interrupts: Sequence[BaseException]) -> None:
        end_readers(self._readers, seconds / 2, interrupts)  # then no time is left for workers only if both do not answer
        self._readers.clear()
        self.journal_queue.close()  # records that are put into it from now on are shown at once
        try:
            intact = self._mailbox.intact  # else the thread waits for nothing any more
            if not intact and self._job is not None:
                self._loop.dispatcher.abandon(_HANDLER_SEC)  # a client that this process starts at exit shows the rest
            if not intact or not stopped(self._loop, self._mailbox, thread, seconds, interrupts):
                self._rundir.remove()
                self.registry.release_journals()
                self._end_job(intact=intact)
        finally:
            self._disown()

    def enqueue_sentinel(self) -> None:
        """Put the sentinel into a queue that was given to this client; otherwise, ask the thread to end."""
        if self._reads_queue:
            self.queue.put(None)
        else:
            self._post(self._running_loop().end)

    _own_end = enqueue_sentinel

    def __enter__(self) -> LogClient:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What a worker needs to join: the path of the socket and the key. Keep it out of command lines and logs."""
        if self._member is not None and not self.running:
            return self._member.address
        self._check_running()
        return str(self._listener.address)

    def environ(self) -> dict[str, str]:
        """Return a copy of this process's environment, with the settings that a subprocess needs to join."""
        environ = {**os.environ, settings.ADDRESS: self.address}
        if self._job is None:
            environ.pop(settings.JOB, None)  # it goes before the address
        return environ

    def _monitor(self) -> None:
        internal_threads.add(threading.get_ident())
        flushing_threads[threading.get_ident()] = set()
        try:
            self._loop.run()
        finally:
            # Runs in reverse order. Each callback runs even if another one raises.
            with contextlib.ExitStack() as end:
                end.callback(setattr, self, "_ended", True)
                intact = self._mailbox.intact
                end.callback(self._end_job, intact=intact)
                end.callback(internal_threads.discard, threading.get_ident())
                end.callback(flushing_threads.pop, threading.get_ident(), None)
                if intact:
                    end.enter_context(self._loop.gate)
                    end.callback(self._loop.hang_up)
                end.callback(self._rundir.remove)
                end.callback(self.registry.release_journals)
                end.callback(self._mailbox.close)
                if self.console is not None:
                    # Not `close`: the thread that stops the client may hold the lock of `logging`.
                    end.callback(self.console.finish)

    def _claim(self, journal: str, granted: Callable[[RankGranted], None]) -> Callable[[], object]:
        """Ask the upstream client for a rank; `granted` is called with it on the client's thread."""
        assert self.registry.claim is not None  # else `identify` returns False
        return self.registry.claim(journal, lambda answer: self._post(lambda: granted(answer)))

    def confirm(self, answer: PassedReceived) -> None:
        """Note that the upstream client has everything up to a boundary. Client thread only; for relays."""
        self._loop.relays.checkpoints.confirmed(answer)

    def adopt_ended(self, journal: str, rank: int, granted: RankGranted) -> None:
        """Read the journal of a worker that ended without a relay. For relays."""
        peer = ended_peer(journal, rank, granted, self._max_line, self.own_token)
        self._post(partial(self._loop.relays.add_ended, peer))

    def _admit(self, connection: NewConnection) -> Welcome:
        """Return the reply to a new connection. Client thread only."""
        self._loop.reactor.check_room(connection.sock)
        hello = connection.hello
        if hello.resumes and not hello.relay and not hello.job:  # after a handshake that took too long, it is here already
            connection.known = self._loop.handover.joins_again(hello.resumes) or connection.known
        try:
            self._rundir.restore()
            if self._log_dir is not None:
                os.makedirs(self._log_dir, exist_ok=True)
        except OSError as failure:
            self.error_reports.log("the directory of the journals was removed and cannot be created again", failure)
        return self.registry.admit(connection)

    def _joined(self, connection: NewConnection, welcome: Welcome) -> None:
        """Add a peer or an observer, which gets the reply. Client thread only."""
        hello = connection.hello
        if hello.observer:
            self._loop.observers.add(connection, welcome)
            self._listener.arrived(connection.sock)
            return
        mark = None
        if self._succession is not None and hello.job == self._job and not hello.relay and connection.here:
            mark = self._succession.mark(hello, welcome.rank, welcome.journal)
            welcome = welcome.replaced(journal=hello.resumes or welcome.journal)
        coords = self.registry.coords(hello, welcome.rank)
        self._loop.add(peer_of(connection, welcome, coords, self._max_line, self.own_token, mark), welcome)

    def _adopt_leftover(self, leftover: Leftover) -> Peer:
        """Return the peer of a process that an earlier client of the job had. Client thread only."""
        hello, rank = leftover.hello, leftover.rank
        if rank is not None:
            self.registry.joined(hello.mesh, rank)
        return Peer(
            None,
            hello,
            rank=rank,
            journal=leftover.journal,
            pipes={},
            coords=hello.coords,
            max_line=self._max_line,
            process=hello.pid,
            client=self.own_token,
            mark=leftover.mark,
        )

    def _check_queue(self, source: object) -> None:
        super()._check_queue(source)
        if self._job is not None:
            raise SettingError(no_queue(self._job))

    def _end_job(self, *, intact: bool = True, release: bool = True) -> None:
        """Let another process show the job."""
        succession, self._succession = self._succession, None
        if not intact:
            never_freed.extend((self, succession))
        elif succession is not None:
            succession.close()
        if succession is not None and release:
            job_member.of(succession.job).release()

    def cut_off(self) -> None:
        """If the program has closed the descriptors, do nothing more: another client takes the place of this one."""
        if self.running and not self._mailbox.intact:
            self._loop.dispatcher.abandon(_HANDLER_SEC)
            self._end_job(intact=False, release=False)
            self._disown()

    def _leave_job(self) -> None:
        """Leave the client that shows the job. A later `start` takes part again."""
        member, self._member = self._member, None
        if member is not None:
            member.leave()

    def _latest(self) -> list[logging.LogRecord]:
        """Return the last records and lines of all ranks, the oldest first. Client thread only."""
        # Two connections of one process share a list.
        tails = {id(peer.tail): peer.tail for peer in self._loop.reactor.peers if peer.streaming}
        return last_records(item for tail in tails.values() for item in tail)

    def forget(self) -> None:
        """In a forked child: close the copies of the parent's descriptors."""
        self._running = False
        self._thread = None
        if not self._mailbox.intact:
            never_freed.append(self)
            return
        self._loop.forget()
        self._mailbox.forget()
        self._rundir.forget()
        self.registry.forget()
