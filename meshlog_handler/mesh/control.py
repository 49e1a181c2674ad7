"""LoggingMeshClient: the control surface of a mesh's logging."""

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
from typing import Any, Final, Protocol

from .. import settings
from ..client.log_client import LogClient
from ..client.peer import Chosen
from ..client.pending_commands import Answers
from ..client.receipt import FlushReceipt
from ..client.stats import Stats
from ..errors import BusyError, ClosedError, ConfigRefused, FlushTimeout, ForwardingDisabledWarning, RankError, SettingError
from ..output.named_handlers import ShownBy
from ..protocol.messages import Command, Commit, Prepare, Rollback, SetLevel, check_plain_config
from ..protocol.ranks import format_ranks
from ..system import at_exit
from ..system.error_reports import describe
from ..system.fd_capture import diagnose
from ..system.waits import deadline_after, finished, monotonic
from .engine import Coords

Detach = Callable[[float], object]

COMMAND_SEC = 10.0
"""Seconds that every rank has for carrying out an order."""

_GRACE_SEC: Final = 1.0
_LEAST_SEC: Final = 1.0


class HasLogging(Protocol):
    """A mesh that brought its logging along."""

    @property
    def logging(self) -> LoggingMeshClient:
        """The control surface of its logging."""


class LoggingMeshClient:
    """Controls what the procs of one mesh log and what the client shows of it. Made by `spawn`.

    Any thread may call any method; each returns when every rank concerned has obeyed, or raises. None of them may be
    called on a running event loop's thread without blocking it: a mesh's own methods return futures.

    Notes
    -----
    The surface is Monarch's ``LoggingMeshClient``, with targeted and acknowledged changes, and receipts, added.
    """

    def __init__(self, client: LogClient, mesh: str, coords: Coords | None) -> None:
        self.client = client
        self.mesh = mesh
        self._coords = coords
        self._changing = threading.Lock()  # one change at a time: one that is undone must not undo another
        client.registry.add_mesh(mesh, coords)
        self._detach: list[Detach] = []
        self._end = _End(client, self._detach)
        self._finalizer = weakref.finalize(self, self._end.in_background)
        self._finalizer.atexit = False
        at_exit.stop_at_exit(self._end, self._end)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Its ranks; of a mesh whose procs come and go, those that have joined and live."""
        return tuple(sorted(self._coords)) if self._coords is not None else self.client.ranks(self.mesh)

    @staticmethod
    def spawn(proc_mesh: HasLogging) -> LoggingMeshClient:
        """Return the logging of `proc_mesh`: a `LogClient` here, in every proc a `LoggerRuntime`, and a `LogForwarder` where
        ``MESHLOG_ENABLE_LOG_FORWARDING`` allows. Waits until the procs have joined.
        """
        return proc_mesh.logging

    @classmethod
    def start(
        cls,
        mesh: str,
        coords: Coords | None,
        handlers: Iterable[ShownBy] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        hide: Sequence[str] = (),
    ) -> LoggingMeshClient:
        """Start a client for a mesh whose procs will join under the token `mesh`.

        Parameters
        ----------
        mesh : str
            A token that only the procs of this mesh know.
        coords : Mapping or None
            The coordinates of each rank; None if procs come and go, and are given ranks as they join.
        handlers : iterable of logging.Handler or None
            What shows the records; None is the console.
        log_dir : str or None
            Directory for a complete file per rank and stream.
        hide : sequence of str
            Regular expressions: lines that are not shown.
        """
        return cls(LogClient(*(handlers or ()), log_dir=log_dir, hide=hide).start(), mesh, coords)

    def set_mode(
        self, stream_to_client: bool, aggregate_window_sec: float | None, level: int | str, ranks: Iterable[int] | None = None
    ) -> None:
        """Set what is shown, and what the procs log.

        Parameters
        ----------
        stream_to_client : bool
            Whether records and captured lines are shown. Files in a ``log_dir`` have them all the same.
        aggregate_window_sec : float or None
            Seconds in which similar lines become one; None shows each at once. Pending ones are shown first.
        level : int or str
            Of the root logger in every rank, 0 to 255.
        ranks : iterable of int or None
            Whom it concerns; None: all. The window is one for the whole client.

        Raises
        ------
        SettingError
            If a value is none (a ``ValueError``): also a window together with ``stream_to_client=False``.
        RankError
            If a rank could not obey.
        """
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

        level_command = SetLevel(self.client.next_request(), number, "", None)
        self._transact(level_command, ranks, RankError, "set_mode()", level_command.replaced(request=0), switch)

    def set_level(
        self, level: int | str, logger: str | None = None, ranks: Iterable[int] | None = None, for_sec: float | None = None
    ) -> None:
        """Set the level of a logger in the ranks.

        Parameters
        ----------
        level : int or str
            0 to 255, or a name.
        logger : str or None
            Its name; None is the root logger.
        ranks : iterable of int or None
            Whom it concerns; None: all, and those that join later.
        for_sec : float or None
            Seconds after which each rank sets the level back by itself.

        Raises
        ------
        SettingError
            If a value is none.
        RankError
            If a rank could not obey.
        """
        number = settings.check_level(level)
        if for_sec is not None:
            settings.check_window(for_sec, "for_sec")
        name = logger or ""
        command = SetLevel(self.client.next_request(), number, name, for_sec)
        chosen = self._chosen(ranks)
        with self._changing:
            if ranks is None and for_sec is None:
                # Before the round: a proc that joins meanwhile is asked, or told at the door. And whether or not all obey.
                self.client.set_default(self.mesh, command.replaced(request=0))
            _check(self._ask(command, chosen), RankError, f"set_level({level!r})")

    def configure(self, config: dict[str, Any], ranks: Iterable[int] | None = None) -> None:
        """Apply a `logging.config.dictConfig` dictionary in the ranks: in all of them, or in none.

        Parameters
        ----------
        config : dict
            Plain data; name objects by path (``"ext://..."``, ``{"()": "package.factory"}``).
            ``disable_existing_loggers`` is False unless given.
        ranks : iterable of int or None
            Whom it concerns; None: all, and those that join later.

        Raises
        ------
        ConfigRefused
            If a rank refuses, or cannot answer; every rank is as it was before.
        TypeError
            If `config` holds what cannot travel to another process.
        """
        command = Prepare(self.client.next_request(), check_plain_config(config))
        self._transact(command, ranks, ConfigRefused, "configure()", command.replaced(request=0))

    def flush(self, timeout: float | None = 10.0, ranks: Iterable[int] | None = None) -> FlushReceipt:
        """Wait until everything the ranks logged and printed before this call has been shown.

        Parameters
        ----------
        timeout : float or None
            Seconds.
        ranks : iterable of int or None
            Whom to wait for; None: all.

        Raises
        ------
        FlushTimeout
            If ranks did not answer; it carries the receipt and names them.
        """
        return self.client.flush(timeout, self._chosen(ranks))

    def stats(self) -> Stats:
        """Return exact counters per rank."""
        return self.client.stats()

    def on_stop(self, detach: Detach) -> None:
        """Let `detach` be called, with seconds, before the client ends: it lets the procs leave."""
        self._detach.append(detach)
        atexit.register(self._end)  # before the engine's own end, which was registered when that was started

    def drain_and_stop(self, timeout: float = 10.0) -> None:
        """Flush, let the procs leave, show what is pending, and end the client. Stopping twice is the same as once.

        Also done when this object is collected, and at exit.
        """
        if self._finalizer.detach() is not None:
            self._end(timeout)

    def _chosen(self, ranks: Iterable[int] | None) -> Chosen:
        mesh = self.mesh
        if ranks is None:
            return lambda proc: proc.mesh == mesh
        wanted = frozenset(ranks)
        unknown = wanted - set(self.ranks)
        if unknown:
            raise SettingError(f"there is no {format_ranks(unknown)} in this mesh. Valid: {format_ranks(self.ranks)}.")
        return lambda proc: proc.mesh == mesh and proc.rank in wanted

    def _transact(
        self,
        command: Command,
        ranks: Iterable[int] | None,
        fault: type[RankError],
        what: str,
        defaults: Command,
        between: Callable[[Chosen], object] = lambda chosen: None,
    ) -> None:
        """Have an order carried out by every rank or by none; then let `defaults` hold for those that join later.

        Whatever goes wrong before the end, an interrupt included, `command` is undone. `between` is called when all have done it.
        """
        chosen = self._chosen(ranks)
        default = (self.mesh, defaults) if ranks is None else None
        prepared: set[Hashable] = set()
        with self._changing:
            try:
                committed = None
                while committed is None:
                    # Once more for procs that have joined since.
                    answers = self._ask(command, lambda member: chosen(member) and member not in prepared)
                    prepared.update(answers)
                    _check(answers, fault, what, "every rank is as it was before")
                    between(chosen)
                    commit = Commit(self.client.next_request(), command.request)
                    committed = self.client.commit_soon(commit, chosen, prepared, default)
            except BaseException as failure:
                self._roll_back(command.request, chosen, wait=isinstance(failure, RankError))
                raise
            _check(self._answers(commit, committed), RankError, what, "the other ranks have changed")

    def _roll_back(self, prepared: int, chosen: Chosen, *, wait: bool) -> None:
        with contextlib.suppress(ClosedError, BusyError):  # the ranks undo it by themselves when the client is gone
            command = Rollback(self.client.next_request(), prepared)
            answers = self.client.send_command_soon(command, chosen)
            if wait:
                self._answers(command, answers)

    def _ask(self, command: Command, chosen: Chosen) -> Answers:
        """Give an order; return the answers."""
        return self._answers(command, self.client.send_command_soon(command, chosen))

    def _answers(self, command: Command, asked: Future[Answers]) -> Answers:
        if not finished(asked, COMMAND_SEC):
            self.client.give_up(command.request)
            self.client.ask(lambda: None, _GRACE_SEC)  # raises what holds up the client, if it is not the ranks
        return asked.result()


def _check(answers: Answers, fault: type[RankError], what: str, state: str = "") -> None:
    """Raise `fault` if a rank did not obey."""
    refused = {member.rank: error for member, error in answers.items()}  # type: ignore[attr-defined]  # see `Member`
    reasons = {rank: error for rank, error in refused.items() if error is not None and rank is not None}
    if reasons:
        told = "; ".join(f"rank {rank}: {reason}" for rank, reason in sorted(reasons.items()))
        raise fault(f"{what} failed on {format_ranks(reasons)}{': ' if not state else f' ({state}): '}{told}", reasons)


class _End:
    """The end of the logging of a mesh. It does not refer to the `LoggingMeshClient`, and outlives it."""

    def __init__(self, client: LogClient, detach: list[Detach]) -> None:
        self._client = client
        self._detach = detach
        self._pid = os.getpid()

    def __call__(self, timeout: float = 10.0) -> None:
        """Flush, let the procs leave, and end the client. In a forked child it does nothing."""
        if self._pid != os.getpid():
            return
        at_exit.forget(self)
        atexit.unregister(self)
        deadline = deadline_after(timeout)
        while self._detach:
            leave = self._detach.pop(0)
            left = max(_LEAST_SEC, deadline - monotonic())
            with contextlib.suppress(FlushTimeout, ClosedError):  # a silent rank keeps no other from leaving; `stop` names it
                self._client.flush(left)
            try:
                leave(left)
            except Exception as failure:  # an engine's, which may have ended before
                diagnose(f"procs could not leave in order: {describe(failure)}")
        self._client.stop(max(_LEAST_SEC, deadline - monotonic()))

    def in_background(self) -> None:
        """Do so on another thread: a finalizer may come at any instant, on any thread, with any lock held by that thread.

        Whoever collects garbage must not wait, neither for ranks nor for a lock of `threading`.
        """
        if self._pid == os.getpid() and (self._client.running or self._detach):
            with contextlib.suppress(RuntimeError):  # no thread can be started: then it is done at exit
                _thread.start_new_thread(self._start, ())
        else:
            at_exit.forget(self)

    def _start(self) -> None:
        threading.Thread(target=self, name="meshlog-stop", daemon=True).start()
