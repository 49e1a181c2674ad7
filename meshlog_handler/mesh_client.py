"""LoggingMeshClient: the control surface of a mesh's logging."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from . import settings
from .capture import diagnose
from .client import LogClient
from .engine import Coords
from .errors import ClosedError, ConfigRefused, FlushTimeout, ForwardingDisabledWarning, RankError, SettingError
from .messages import Commit, Order, Prepare, Rollback, SetLevel, check_plain_config
from .named_handlers import ShownBy
from .ranks import spell_ranks
from .receipt import FlushReceipt
from .source import Chosen
from .stats import Stats
from .waits import finished

Detach = Callable[[float], object]

ORDER_SEC = 10.0
"""Seconds that every rank has for carrying out an order."""

_GRACE_SEC: Final = 1.0


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
        self._finalizer = weakref.finalize(self, _end, client, self._detach)

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
        number = settings.check_level(level)
        window = settings.check_window(aggregate_window_sec)
        if window is not None and not stream_to_client:
            raise SettingError(
                f"aggregate_window_sec={window} together with stream_to_client=False: there is nothing to group. "
                f"Leave the window out, or stream."
            )
        if stream_to_client and not settings.forwarding_enabled():
            warnings.warn(
                f"the procs have no log forwarders, so nothing can be streamed: {settings.ENABLE_LOG_FORWARDING} is off. "
                f"Set {settings.ENABLE_LOG_FORWARDING}=1 before the procs are spawned.",
                ForwardingDisabledWarning,
                stacklevel=2,
            )
        chosen = self._chosen(ranks)
        self.client.set_window(window)
        self.client.set_streaming(stream_to_client, chosen)
        # The last: relays hear of all three, in this order, but only here ranks answer, through their relays.
        self.set_level(number, ranks=ranks)

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
        with self._changing:
            self._obey(lambda request: SetLevel(request, number, name, for_sec), ranks, RankError, f"set_level({level!r})")
        if ranks is None and for_sec is None:
            self.client.stand(self.mesh, SetLevel(0, number, name, None))

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
        travels = check_plain_config(config)
        prepared: list[int] = []

        def prepare(request: int) -> Order:
            prepared.append(request)
            return Prepare(request, travels)

        with self._changing:
            try:
                self._obey(prepare, ranks, ConfigRefused, "configure()", "every rank is as it was before")
            except ConfigRefused:
                self._ask(lambda request: Rollback(request, prepared[0]), ranks)
                raise
            others = "the other ranks have the new configuration"
            self._obey(lambda request: Commit(request, prepared[0]), ranks, RankError, "configure()", others)
        if ranks is None:
            self.client.stand(self.mesh, Prepare(0, travels))

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

    def drain_and_stop(self, timeout: float = 10.0) -> None:
        """Flush, let the procs leave, show what is pending, and end the client. Stopping twice is the same as once.

        Also done when this object is collected, and at exit.
        """
        if self._finalizer.detach() is not None:
            _end(self.client, self._detach, timeout)

    def _chosen(self, ranks: Iterable[int] | None) -> Chosen:
        mesh = self.mesh
        if ranks is None:
            return lambda proc: proc.mesh == mesh
        wanted = frozenset(ranks)
        unknown = wanted - set(self.ranks)
        if unknown:
            raise SettingError(f"there is no {spell_ranks(unknown)} in this mesh. Valid: {spell_ranks(self.ranks)}.")
        return lambda proc: proc.mesh == mesh and proc.rank in wanted

    def _ask(self, make: Callable[[int], Order], ranks: Iterable[int] | None) -> dict[int, str]:
        """Give an order; return the reasons of those that did not obey."""
        request = self.client.next_request()
        asked = self.client.order_soon(make(request), self._chosen(ranks))
        if not finished(asked, ORDER_SEC):
            self.client.give_up(request)
            self.client.ask(lambda: None, _GRACE_SEC)  # raises what holds up the client, if it is not the ranks
        answers = asked.result()
        refused = {member.rank: error for member, error in answers.items()}  # type: ignore[attr-defined]  # see `Member`
        return {rank: error for rank, error in refused.items() if error is not None and rank is not None}

    def _obey(
        self, make: Callable[[int], Order], ranks: Iterable[int] | None, fault: type[RankError], what: str, state: str = ""
    ) -> None:
        wanted = None if ranks is None else tuple(ranks)
        reasons = self._ask(make, wanted)
        if reasons:
            told = "; ".join(f"rank {rank}: {reason}" for rank, reason in sorted(reasons.items()))
            raise fault(f"{what} failed on {spell_ranks(reasons)}{': ' if not state else f' ({state}): '}{told}", reasons)


def _end(client: LogClient, detach: list[Detach], timeout: float = 10.0) -> None:
    for each in detach:
        with contextlib.suppress(FlushTimeout, ClosedError):  # a silent rank keeps no other from leaving; `stop` names it
            client.flush(timeout)
        try:
            each(timeout)
        except Exception as failure:  # an engine's, which may have ended before
            diagnose(f"procs could not leave in order: {type(failure).__name__}: {failure}")
    client.stop(timeout)
