"""Requests: what any thread may ask of the client's thread.

::

    any thread -> Mailbox -> the client's thread: commands, flushes, switches, counters -> futures
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
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .. import settings
from ..dispatch.dispatcher import KEEP
from ..dispatch.sink import Sink
from ..errors import BusyError, ClosedError, FlushTimeout, MeshlogError
from ..insight.stacks import Stacks
from ..output.named_handlers import ShownBy
from ..protocol.messages import Command, Hello, Welcome
from ..system import unpatched
from ..system.futures import Awaited, finished
from ..system.lazy_imports import importing
from ..system.mailbox import Mailbox
from ..system.shielded import run_whole
from ..system.waits import check_timeout, monotonic
from ..transport.channel import HANDSHAKE_SEC
from ..transport.listener import Listener
from ..worker import this_process
from ..worker.job_member import JobMember
from ..worker.member import Membership
from .flushes.acknowledgements import UNANSWERED, Answers
from .flushes.flushes import explain_missing
from .flushes.receipt import FlushReceipt
from .health.insights import INSIGHT_SEC, Knowledge, find
from .health.stack_collector import StackCollector
from .loop import ClientLoop
from .peers.peer import Chosen, Peer, of_ranks
from .peers.registry import Registry
from .peers.stats import Stats
from .queues.listening import Listening
from .switches import SWITCH_SEC, Switched

if TYPE_CHECKING:  # few programs ask for it
    from ..insight.report import Insight

T = TypeVar("T")

ANSWER_SEC: Final = 10.0
"""Seconds in which the client's thread answers; it does so in a tick, unless a handler blocks it."""

_MARGIN_SEC: Final = 0.25
_BLOCKED_SEC: Final = 1.0
_TABLE_SEC: Final = 0.5


class Requests(Listening):
    """The methods of a `LogClient` that ask its thread. They may be called from any thread, unless a docstring says otherwise.

    The client sets these attributes: `_loop` when it starts, `_thread` while it runs.
    """

    title = "this LogClient"
    """How errors call this client."""

    remedy = ": call start(), or use it in a with statement"
    """The end of an error that says that the client does not run."""

    registry: Registry
    own_token: str
    stack_collector: StackCollector
    _loop: ClientLoop
    _job: str | None
    _member: JobMember | None
    _exits: bool
    _mailbox: Mailbox
    _listener: Listener
    _log_dir: str | None
    _max_line: int
    _pid: int

    def flush(self, timeout: float | None = 10.0, chosen: Chosen | None = None) -> FlushReceipt:
        """Wait until everything that was logged and printed before this call is shown.

        Of a queue of the program, this is what this process has put, and what others have written: see `listen`. While
        another process shows the job, it is what this process has logged and printed (see `complete`).

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
        began, seconds = monotonic(), check_timeout(timeout)
        member = this_process.current() if self._job is not None and not self.running else None
        if member is not None and member.options.job == self._job:
            return _completed(member, seconds, began)
        future = self.flush_soon(seconds, chosen)
        # The client's thread applies the timeout. If a handler blocks that thread, this one does.
        limit = seconds + _MARGIN_SEC
        unpatched.let_greenlets_leave(limit, future.done)
        if finished(future, began + limit - monotonic()):
            receipt = future.result()
        else:
            receipt = self._loop.calls.unanswered(future, chosen, monotonic() - began, self._busy())
        if receipt.missing or receipt.busy:
            raise FlushTimeout(explain_missing(receipt), receipt)
        return receipt

    def flush_soon(self, timeout: float | None = 10.0, chosen: Chosen | None = None) -> Future[FlushReceipt]:
        """Start a flush; the future gets its receipt, also when ranks are missing. Never blocks."""
        if threading.current_thread() is self._thread:
            raise ClosedError("flush failed: a handler of this client called it and would wait for itself. Use another thread.")
        future: Future[FlushReceipt] = Awaited.begun()
        seconds = check_timeout(timeout)
        begin = partial(self._running_loop().calls.flush, future, seconds, chosen)
        self._post(begin, future, gives=False)
        return future

    @property
    def progress(self) -> int:
        """A number that grows as records are received and shown. Any thread."""
        return self._running_loop().progress

    def show_ended(self, seconds: float) -> None:
        """Wait until all records of ended workers are shown, at most `seconds` without progress."""
        if not self.running or threading.current_thread() is self._thread:
            return
        if all(peer.pid == self._pid for peer in tuple(self._loop.reactor.peers)):
            return
        future: Future[FlushReceipt] = Awaited.begun()
        with contextlib.suppress(ClosedError):  # the thread has ended since
            self._post(partial(self._loop.calls.flush_ended, future), future, gives=False)
            unpatched.let_greenlets_leave(seconds, future.done)
            progress = None
            while not finished(future, seconds) and progress != self._loop.progress:
                progress = self._loop.progress

    def _running_loop(self) -> ClientLoop:
        """Return the loop; raise `ClosedError` if this process has none."""
        if hasattr(self, "_loop"):
            return self._loop
        raise self._absent()

    def next_request(self) -> int:
        """Return the request number for a command."""
        return self._running_loop().commands.number()

    def send_command_soon(self, command: Command, chosen: Chosen | None) -> Future[Answers]:
        """Send a command to workers (None: all but the client's own process); the future gets their answers. Never blocks."""
        future: Future[Answers] = Awaited.begun()
        self._post(lambda: self._loop.calls.command(command, future, chosen), future, gives=False)
        return future

    def commit_soon(
        self, command: Command, chosen: Chosen, prepared: Set[Hashable], defaults: tuple[str, Command] | None
    ) -> Future[Answers] | None:
        """End a transaction (see `Calls.commit`); None if workers have joined that are not `prepared`."""
        future: Future[Answers] = Awaited.begun()
        return future if self.ask(lambda: self._loop.calls.commit(command, future, chosen, prepared, defaults)) else None

    def give_up(self, request: int) -> None:
        """Stop waiting for the missing answers to a command."""
        self._post(lambda: self._loop.commands.give_up(request, UNANSWERED))

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
        future: Switched = Awaited.begun()
        begin = partial(self._running_loop().switches.begin, future, window, streaming, chosen, mesh, default)
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
        self._post(lambda: self._loop.relays.set_default(mesh, command))

    def ranks(self, mesh: str) -> tuple[int, ...]:
        """Return the live ranks that have joined with a mesh token ("": without one)."""
        return self.ask(lambda: self._loop.ranks(mesh))

    def stats(self) -> Stats:
        """Return exact counters per rank. Raises `ClosedError` if another process shows the job."""
        if self._elsewhere:
            raise self._absent()
        if not self.running:
            return self._loop.stats() if hasattr(self, "_loop") else Stats({}, 0, 0)
        return self.ask(self.stats_now)

    def stacks(self, ranks: Iterable[int] | int | None = None, timeout: float | None = 5.0) -> Stacks:
        """Return the Python stacks of all threads of these ranks (None: all), merged. Any thread may call it.

        Ranks that do not answer within `timeout` seconds (None: no limit) are in `unanswered`, with what the kernel reports.
        Equal stacks are one group.

        Raises
        ------
        SettingError
            If a rank or the timeout is invalid.
        BusyError
            If a handler blocks the client's thread, or another call takes stacks.
        ClosedError
            If the client does not run, or one of its handlers makes the call.
        """
        wanted = settings.check_ranks(ranks)
        return self.stack_collector.merged(of_ranks(wanted), timeout, wanted or ())

    def stats_now(self) -> Stats:
        """Return the counters. Client thread only."""
        return self._loop.stats()

    def living_now(self) -> dict[int, dict[str, Any]]:
        """Return the counters of the processes that have not ended, for an upstream client. Client thread only."""
        return self._loop.relays.living()

    def insight(self, ranks: Iterable[int] | int | None = None, timeout: float | None = INSIGHT_SEC) -> Insight:
        """Return which ranks are silent, behind, different or failed, from what they have logged and printed so far.

        `ranks` are the ranks to compare with each other (None: all). The call waits up to `timeout` seconds for relays; of the
        ranks of a relay that does not answer, only the counters are known. After `stop`, it returns what was known then.

        Raises
        ------
        SettingError
            If a rank or the timeout is invalid.
        BusyError
            If a handler blocks the client's thread.
        ClosedError
            If another process shows the job.
        """
        with importing():
            from ..insight.report import insight_of

        wanted, seconds = settings.check_ranks(ranks), check_timeout(timeout)
        if self._elsewhere:
            raise self._absent()
        return insight_of(self.find(seconds).observations() if hasattr(self, "_loop") else (), wanted)

    def _repr_html_(self) -> str:
        """Return a table of the ranks for a notebook. Waits about a second at most."""
        with importing():
            from ..insight.html import insight_html, text_html
            from ..insight.report import insight_of

        if self._elsewhere:
            return text_html(f"{self!r}: {self._absent()}")
        if not hasattr(self, "_loop"):
            return text_html(f"{self!r}: not started")
        try:
            found = find(self._loop.insights, partial(self.ask, timeout=_TABLE_SEC), _TABLE_SEC)
        except MeshlogError as failure:  # a handler blocks the client
            return text_html(f"{self!r}: {failure}")
        return insight_html(insight_of(found.observations()))

    def find(self, timeout: float, work: bool = False) -> Knowledge:
        """Return what `insight` is made of. `work`: also the processor time of the ranks."""
        return find(self._running_loop().insights, self.ask, timeout, work)

    def adopt(self, pid: int, rank: int | None, local_rank: int | None, pipes: Mapping[str, int], mesh: str) -> Peer:
        """Register a process that was started with its output redirected into pipes; return its peer.

        Parameters
        ----------
        pid, rank, local_rank : int
            If the process also joins by itself under this rank, its records are shown as well. The ranks may be None.
        pipes : mapping of str to int
            Non-blocking read ends by "stdout" and "stderr". The client owns them from here on.
        mesh : str
            The mesh token for `report_exit`, which the caller must call when the process has ended.
        """
        return run_whole(lambda: self._adopt(pid, rank, local_rank, pipes, mesh))  # Ctrl-C leaves the pipes with their owner

    def _adopt(self, pid: int, rank: int | None, local_rank: int | None, pipes: Mapping[str, int], mesh: str) -> Peer:
        hello = Hello(pid, socket.gethostname(), rank, local_rank, mesh, tuple(pipes), False, time.time())
        if rank is not None:
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
        self._post(lambda: self._loop.add(peer, Welcome(rank, "", ())))
        return peer

    def refuse_commands(self, timeout: float | None = None) -> None:
        """Refuse further ``output_only`` connections (see `execute`). Programs that these commands run may still join.

        Returns when pending connections have joined or were refused. Raises `BusyError` if a handler blocks the client for
        `timeout` seconds (None: as `ask`).
        """
        self.registry.refuses_commands = True
        settled: Future[None] = Awaited()
        settle = partial(self._listener.when_settled, lambda: settled.set_result(None))
        self.ask(settle, *(() if timeout is None else (timeout,)))
        finished(settled, HANDSHAKE_SEC)

    def report_exit(self, mesh: str, rank: int | None, exitcode: int) -> None:
        """Report the exit code of a worker, where the client cannot get it from the kernel. Any thread may call it."""
        with contextlib.suppress(ClosedError):  # the client has ended
            self._post(lambda: self._loop.note_exit(mesh, rank, exitcode))

    def ask(self, fn: Callable[[], T], timeout: float | None = ANSWER_SEC) -> T:
        """Run `fn` on the client's thread, and return its result.

        Raises
        ------
        BusyError
            After `timeout` seconds, if a handler blocks the thread. If `fn` has not begun by then, it is not run.
        """
        future = self.on_thread(fn)
        try:
            over = finished(future, timeout)
        except BaseException:  # Ctrl-C
            future.cancel()
            raise
        if not over:
            future.cancel()
            if not future.done() or future.cancelled():
                busy = self._busy()
                raise BusyError(f"the client gave no answer within {timeout:g} s: {busy}. Check whether a handler blocks.")
        return future.result()

    def _busy(self) -> str:
        return self._loop.busy() or "the client's thread is busy"

    def on_thread(self, fn: Callable[[], T]) -> Future[T]:
        """Run `fn` on the client's thread. Never blocks (compare `ask`)."""
        future: Future[T] = Awaited()
        if threading.current_thread() is self._thread:
            future.set_result(fn())
        else:
            self._post(fn, future)
        return future

    def _check_running(self) -> None:
        if not self.running:
            raise self._absent()

    @property
    def _elsewhere(self) -> bool:
        """Whether another process shows the job, so that this client knows nothing of its ranks."""
        return self._member is not None and not self.running and not self._exits

    def _absent(self) -> ClosedError:
        """Return why this client cannot answer, and which process can."""
        if not self._elsewhere:
            return ClosedError(f"{self.title} does not run in this process{self.remedy}.")
        member = this_process.current()
        pid = None if member is None or member.options.job != self._job else member.client_pid
        which, named = ("", "") if pid is None else (f" (pid {pid})", f" {pid}")
        return ClosedError(
            f"another process shows job {self._job!r}{which}, and knows its ranks. To look at them, run meshlog top{named} or "
            f"meshlog stacks{named}. To wait until it has shown everything, call complete()."
        )

    def _post(self, fn: Callable[[], Any], future: Future[Any] | None = None, *, gives: bool = True) -> None:
        if self._pid != os.getpid() or self._thread is None:
            self._check_running()
            raise ClosedError(f"{self.title} was stopped.")
        self._mailbox.put(fn, future, gives=gives)


def _completed(member: Membership, seconds: float, began: float) -> FlushReceipt:
    """Wait until the process that shows the job has shown everything of this one."""
    shown = member.complete(seconds)
    ranks = () if member.rank is None else (member.rank,)
    receipt = FlushReceipt(0, ranks if shown else (), () if shown else ranks, (), 0, monotonic() - began)
    if not shown:
        raise FlushTimeout(explain_missing(receipt), receipt)
    return receipt
