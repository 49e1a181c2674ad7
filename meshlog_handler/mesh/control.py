"""LoggingMeshClient: controls the logging of a mesh."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Protocol

from .. import settings
from ..client.flushes.acknowledgements import Answers
from ..client.flushes.receipt import FlushReceipt
from ..client.log_client import LogClient
from ..client.peers.peer import Chosen
from ..client.peers.stats import Stats
from ..errors import BusyError, ClosedError, ConfigRefused, FlushTimeout, ForwardingDisabledWarning, RankError, SettingError
from ..insight.stacks import Stacks
from ..output.console import set_hint
from ..output.named_handlers import ShownBy
from ..protocol.messages import Command, Commit, Prepare, Rollback, check_plain_config, level_config
from ..protocol.ranks import format_ranks
from ..system import at_exit
from ..system.diagnostics import diagnose
from ..system.error_reports import describe
from ..system.futures import finished
from ..system.shielded import run_whole
from ..system.waits import check_timeout, deadline_after, monotonic
from .engine import Coords, Engine

if TYPE_CHECKING:
    from ..insight.report import Insight

Detach = Callable[[float], object]

COMMAND_SEC = 10.0
"""Seconds in which every rank must acknowledge a command."""

_GRACE_SEC: Final = 1.0
_LEAST_SEC: Final = 1.0


class HasLogging(Protocol):
    """A mesh that already has its logging."""

    @property
    def logging(self) -> LoggingMeshClient:
        """The `LoggingMeshClient` of the mesh."""


class LoggingMeshClient:
    """Controls what the procs of one mesh log and what the client shows of it. Created by `spawn`.

    Any thread may call any method. A method returns when every selected rank has acknowledged the command, or raises. On the
    thread of a running event loop, a method blocks the loop: use the methods of the mesh, which return futures.

    Notes
    -----
    The interface is that of Monarch's ``LoggingMeshClient``, extended by commands to some ranks, acknowledgements and receipts.
    """

    def __init__(self, client: LogClient, mesh: str, coords: Coords | None) -> None:
        self.client = client
        self.mesh = mesh
        self._coords = coords
        self._changing = threading.Lock()  # one change at a time: a rollback must not undo another change
        client.registry.add_mesh(mesh, coords)
        self._detach: list[Detach] = []
        self._end = _End(client, self._detach)
        self._finalizer = weakref.finalize(self, self._end.in_background)
        self._finalizer.atexit = False
        at_exit.stop_at_exit(self._end, self._end)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of the mesh. If the number of procs varies: the ranks that have joined and are still connected."""
        return tuple(sorted(self._coords)) if self._coords is not None else self.client.ranks(self.mesh)

    @classmethod
    def spawn(cls, proc_mesh: HasLogging | Engine, prepared: LoggingMeshClient | None = None) -> LoggingMeshClient:
        """Create the logging of a mesh, and return when every proc has joined.

        It consists of a `LogClient` here, a `LoggerRuntime` in every proc, and a `LogForwarder` in every proc if
        ``MESHLOG_ENABLE_LOG_FORWARDING`` allows.

        Parameters
        ----------
        proc_mesh : ProcMesh or Engine
            A `ProcMesh` calls this itself when it starts: its logging is returned.
        prepared : LoggingMeshClient or None
            The result of `start`, if the procs have to know the address before they start.
        """
        if isinstance(proc_mesh, Engine):
            client = prepared or cls.start(proc_mesh.token, proc_mesh.coords)
            proc_mesh.join(client.client.address)
            return client
        return proc_mesh.logging

    @classmethod
    def start(
        cls,
        mesh: str,
        coords: Coords | None,
        handlers: Iterable[ShownBy] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        hide: Sequence[str] = (),
        never: Sequence[str] = (),
    ) -> LoggingMeshClient:
        """Start a client for a mesh whose procs join later, with the token `mesh`.

        Parameters
        ----------
        mesh : str
            A token known only to the procs of this mesh.
        coords : Mapping or None
            The coordinates of each rank; None if the number of procs varies and each proc gets a rank when it joins.
        handlers : iterable of logging.Handler or None
            The handlers that show the records; None is the console.
        log_dir : str or None
            Directory for a complete file per rank and stream.
        hide, never : sequence of str
            Regular expressions: lines that are not shown, and lines that are never grouped.
        """
        client = LogClient(*(handlers or ()), log_dir=log_dir, hide=hide, never=never, job="")
        client.title, client.remedy = "the logging of these procs", ": it ends with drain_and_stop() and with the procs"
        return run_whole(lambda: cls(client.start(), mesh, coords))  # after Ctrl-C, no caller has the result, so it is stopped

    def set_mode(
        self,
        stream_to_client: bool,
        aggregate_window_sec: float | None,
        level: int | str,
        ranks: Iterable[int] | int | None = None,
    ) -> None:
        """Set what is shown, and the level of the procs.

        Parameters
        ----------
        stream_to_client : bool
            Whether to show records and captured lines. Files in a ``log_dir`` contain them in any case.
        aggregate_window_sec : float or None
            Seconds in which similar lines become one; None shows each line immediately. Pending lines are shown first.
        level : int or str
            Level of the root logger in the ranks, 0 to 255.
        ranks : int, iterable of int, or None
            The ranks to change; None: all. The window always applies to the whole client.

        Raises
        ------
        SettingError
            If a value is invalid (a ``ValueError``), or a window is combined with ``stream_to_client=False``.
        RankError
            If a rank failed to apply the mode.
        """
        stream_to_client = settings.check_flag(stream_to_client, "stream_to_client")
        window, number = settings.check_mode(stream_to_client, aggregate_window_sec, level)
        if stream_to_client and not settings.forwarding_enabled():
            warnings.warn(
                f"the procs have no log forwarders, so nothing can be streamed: {settings.ENABLE_LOG_FORWARDING} is off. "
                f"Set {settings.ENABLE_LOG_FORWARDING}=1 before the procs are spawned.",
                ForwardingDisabledWarning,
                stacklevel=2,
            )

        def switch(chosen: Chosen) -> None:
            mesh = self.mesh if ranks is None else None
            self.client.switch(window, streaming=stream_to_client, chosen=chosen, mesh=mesh)

        command = Prepare(self.client.next_request(), level_config(number))
        self._transact(command, ranks, RankError, "set_mode()", command.replaced(request=0), switch)
        set_hint(self.client.console, "")  # a caller that sets a mode has found it

    def set_level(
        self,
        level: int | str,
        logger: str | None = None,
        ranks: Iterable[int] | int | None = None,
        for_sec: float | None = None,
    ) -> None:
        """Set the level of a logger in the ranks.

        Parameters
        ----------
        level : int or str
            0 to 255, or a name.
        logger : str or None
            Name of the logger; None is the root logger.
        ranks : int, iterable of int, or None
            The ranks to change; None: all, including those that join later.
        for_sec : float or None
            Seconds after which each rank restores the level by itself.

        Raises
        ------
        SettingError
            If a value is invalid.
        RankError
            If a rank failed to apply the level.
        """
        number, for_sec = settings.check_level(level), settings.check_window(for_sec, "for_sec")
        name = settings.check_logger(logger) or ""
        command = Prepare(self.client.next_request(), level_config(number, name), for_sec, final=True)
        chosen = self._chosen(ranks)
        with self._changing:
            if ranks is None and for_sec is None:
                # Set first, even if a rank fails: a proc that joins meanwhile gets the command, or the default when it joins.
                self.client.set_default(self.mesh, command.replaced(request=0))
            _check(self._ask(command, chosen), RankError, f"set_level({level!r})")

    def configure(self, config: dict[str, Any], ranks: Iterable[int] | int | None = None) -> None:
        """Apply a `logging.config.dictConfig` dictionary in all selected ranks or in none.

        Parameters
        ----------
        config : dict
            Plain data; name objects by path (``"ext://..."``, ``{"()": "package.factory"}``).
            ``disable_existing_loggers`` defaults to False.
        ranks : int, iterable of int, or None
            The ranks to configure; None: all, including those that join later.

        Raises
        ------
        ConfigRefused
            If a rank rejects the configuration or does not respond. Every rank then keeps its previous configuration.
        TypeError
            If `config` contains a value that cannot be sent to another process.
        """
        command = Prepare(self.client.next_request(), check_plain_config(config))
        self._transact(command, ranks, ConfigRefused, "configure()", command.replaced(request=0))

    def flush(self, timeout: float | None = 10.0, ranks: Iterable[int] | int | None = None) -> FlushReceipt:
        """Wait until everything the ranks logged and printed before this call has been shown.

        Parameters
        ----------
        timeout : float or None
            Seconds; None waits without a limit.
        ranks : int, iterable of int, or None
            The ranks to wait for; None: all.

        Raises
        ------
        FlushTimeout
            If ranks did not respond; it contains the receipt and names them.
        """
        return self.client.flush(timeout, self._chosen(ranks))

    def stacks(self, ranks: Iterable[int] | int | None = None, timeout: float | None = 5.0) -> Stacks:
        """Return the Python stacks of all threads of the ranks, merged.

        Parameters
        ----------
        ranks : int, iterable of int, or None
            The ranks to ask; None: all.
        timeout : float or None
            Seconds; None waits without a limit. Ranks that do not answer are in `Stacks.unanswered`.

        Raises
        ------
        SettingError
            If there is no such rank.
        BusyError
            If a handler blocks the client's thread, or another call takes stacks.
        """
        wanted = settings.check_ranks(ranks)
        return self.client.stack_collector.merged(self._chosen(wanted), timeout, self.ranks if wanted is None else wanted)

    def stats(self) -> Stats:
        """Return exact counters per rank."""
        return self.client.stats()

    def insight(self, ranks: Iterable[int] | int | None = None) -> Insight:
        """Return which ranks are silent, behind, different or failed, from what they have logged and printed so far.

        Parameters
        ----------
        ranks : int, iterable of int, or None
            The ranks to compare with each other; None: all.
        """
        return self.client.insight(ranks=ranks)

    def on_stop(self, detach: Detach) -> None:
        """Call `detach` with a timeout in seconds before the client ends. It makes the procs leave."""
        self._detach.append(detach)
        atexit.register(self._end)  # runs before the exit handler of the engine, which was registered earlier

    def drain_and_stop(self, timeout: float | None = 10.0) -> None:
        """Flush, detach the procs, show pending records, and stop the client. A second call does nothing.

        Also called when this object is collected, and at exit.
        """
        self._end(check_timeout(timeout))
        self._finalizer.detach()

    @property
    def drained(self) -> bool:
        """Whether `drain_and_stop` was called: everything is shown."""
        return self._end.over

    def _chosen(self, ranks: Iterable[int] | int | None) -> Chosen:
        mesh = self.mesh
        if ranks is None:
            return lambda proc: proc.mesh == mesh
        wanted = frozenset(settings.check_ranks(ranks) or ())
        unknown = wanted - set(self.ranks)
        if unknown:
            raise SettingError(f"there is no {format_ranks(unknown)} in this mesh. Valid: {format_ranks(self.ranks)}.")
        return lambda proc: proc.mesh == mesh and proc.rank in wanted

    def _transact(
        self,
        command: Command,
        ranks: Iterable[int] | int | None,
        fault: type[RankError],
        what: str,
        defaults: Command,
        between: Callable[[Chosen], object] = lambda chosen: None,
    ) -> None:
        """Apply `command` in all ranks or in none, then make `defaults` the default for late joiners.

        Any exception before the commit, even an interrupt, rolls `command` back. `between` runs when all ranks have prepared.
        """
        chosen = self._chosen(ranks)
        default = (self.mesh, defaults) if ranks is None else None
        prepared: set[Hashable] = set()

        def begin() -> tuple[Commit, Future[Answers]]:
            committed = None
            while committed is None:
                # Repeated for procs that have joined meanwhile.
                responses = self._ask(command, lambda target: chosen(target) and target not in prepared)
                prepared.update(responses)
                _check(responses, fault, what, "every rank is as it was before")
                between(chosen)
                commit = Commit(self.client.next_request(), command.request)
                committed = self.client.commit_soon(commit, chosen, prepared, default)
            return commit, committed

        with self._changing:
            try:
                commit, committed = begin()
            except BaseException as failure:
                self._roll_back(command.request, chosen, wait=isinstance(failure, RankError))
                raise
            _check(self._responses(commit, committed), RankError, what, "the other ranks have changed")

    def _roll_back(self, prepared: int, chosen: Chosen, *, wait: bool) -> None:
        with contextlib.suppress(ClosedError, BusyError):  # the ranks roll back by themselves when the client has ended
            command = Rollback(self.client.next_request(), prepared)
            responses = self.client.send_command_soon(command, chosen)
            if wait:
                self._responses(command, responses)

    def _ask(self, command: Command, chosen: Chosen) -> Answers:
        """Send a command; return the responses."""
        return self._responses(command, self.client.send_command_soon(command, chosen))

    def _responses(self, command: Command, pending: Future[Answers]) -> Answers:
        if not finished(pending, COMMAND_SEC):
            self.client.give_up(command.request)
            self.client.ask(lambda: None, _GRACE_SEC)  # raises if the client, and not a rank, causes the delay
        return pending.result()


def _check(responses: Answers, fault: type[RankError], what: str, state: str = "") -> None:
    """Raise `fault` if a rank failed to apply a command."""
    refused = {target.rank: error for target, error in responses.items()}  # type: ignore[attr-defined]  # see `Target`
    reasons = {rank: error for rank, error in refused.items() if isinstance(error, str) and rank is not None}
    if reasons:
        details = "; ".join(f"rank {rank}: {reason}" for rank, reason in sorted(reasons.items()))
        raise fault(f"{what} failed on {format_ranks(reasons)}{': ' if not state else f' ({state}): '}{details}", reasons)


class _End:
    """Stops the logging of a mesh. Outlives the `LoggingMeshClient`, and does not refer to it."""

    def __init__(self, client: LogClient, detach: list[Detach]) -> None:
        self._client = client
        self._detach = detach
        self._pid = os.getpid()
        self._ending = threading.RLock()
        self.over = False

    def __call__(self, timeout: float = 10.0) -> None:
        """Flush, detach the procs, and stop the client. Does nothing in a forked child."""
        if self._pid != os.getpid():
            return
        deadline = deadline_after(timeout)
        with self._ending:
            self._detach_all(deadline)
        self._client.stop(max(_LEAST_SEC, deadline - monotonic()))
        self.over = True
        at_exit.forget(self)
        atexit.unregister(self)

    def _detach_all(self, deadline: float) -> None:
        while self._detach:
            leave = self._detach[0]
            # Half of the time: if ranks do not answer, because their relay was killed, the others can still leave in time.
            with contextlib.suppress(FlushTimeout, ClosedError):  # `stop` names unresponsive ranks
                self._client.flush(max(_LEAST_SEC, (deadline - monotonic()) / 2))
            try:
                leave(max(_LEAST_SEC, deadline - monotonic()))
            except Exception as failure:  # an error of the engine, which may have ended before
                diagnose(f"procs did not detach cleanly: {describe(failure)}")
            del self._detach[0]  # last: after Ctrl-C, a second call repeats it

    def in_background(self) -> None:
        """Stop on another thread, for a finalizer."""
        # A finalizer may run at any time on any thread that holds any lock. It must not wait for ranks, nor for a lock of
        # `threading`, so it uses `_thread`.
        if self._pid == os.getpid() and (self._client.running or self._detach):
            with contextlib.suppress(RuntimeError):  # no thread can be started: the client stops at exit
                _thread.start_new_thread(self._start, ())
        else:
            at_exit.forget(self)

    def _start(self) -> None:
        threading.Thread(target=self, name="meshlog-stop", daemon=True).start()
