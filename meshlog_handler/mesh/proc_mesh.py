"""HostMesh and ProcMesh: a mesh of processes on this host, with its logging.

The names and their behavior are Monarch's; `multiprocess` starts the processes.
"""

from __future__ import annotations

import enum
import itertools
import os
import socket
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from logging import INFO
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, TypeVar, overload

from .. import settings
from ..errors import MeshlogError, SettingError, quoted
from ..protocol.ranks import format_ranks
from ..system import unpatched
from ..system.lazy_imports import importing
from ..system.shielded import run_whole
from ..system.waits import check_timeout
from .future import MeshFuture
from .shape import Choice, Shape, check_per_host
from .start_methods import check_start_method, start_ahead

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..client.flushes.receipt import FlushReceipt
    from ..insight.report import Insight
    from ..insight.stacks import Stacks
    from ..output.named_handlers import ShownBy
    from .control import LoggingMeshClient
    from .lifecycle import MeshLifecycle
    from .manager import LoggingManager

P = ParamSpec("P")
R = TypeVar("R")


class _Unset(enum.Enum):
    UNSET = "unset"


_UNSET: Final = _Unset.UNSET
_DEFAULT_PER_HOST: Final[Mapping[str, int]] = MappingProxyType({"gpus": 4})
_STOP_SEC: Final = 10.0
_FAILED_STOP_SEC: Final = 2.0
_TABLE_SEC: Final = 1.0
_numbers = itertools.count()


def this_host() -> HostMesh:
    """Return the host that this process runs on, to spawn procs there."""
    return HostMesh()


class HostMesh:
    """The host that this process runs on."""

    def __init__(self) -> None:
        self.hostname = socket.gethostname()

    def __repr__(self) -> str:
        return f"<HostMesh {self.hostname}>"

    def spawn_procs(
        self,
        per_host: Mapping[str, int] = _DEFAULT_PER_HOST,
        *,
        name: str | None = None,
        start_method: str | None = None,
        stream_log_to_client: bool = True,
        handlers: Iterable[ShownBy] | None = None,
        bootstrap: Callable[[], object] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        never: Sequence[str] = (),
        hide: Sequence[str] = (),
    ) -> ProcMesh:
        """Start procs in the background, and return. The first operation on the mesh waits until they have started.

        The first call imports what the mesh needs. With fork, each call returns after the forks.

        Parameters
        ----------
        per_host : Mapping
            Number of procs, as sizes by dimension, such as ``{"gpus": 4}``. The last dimension varies fastest.
        name : str or None
            Name of the mesh, for display; None generates one.
        start_method : str or None
            fork, spawn or forkserver; None is forkserver. fork is the fastest, but copies a process that has threads, with
            their locks in their current state: Python 3.12 and later warn about that.
        stream_log_to_client : bool
            Whether to show here what the procs log and print; `ProcMesh.logging_option` changes it.
        handlers : iterable of logging.Handler or None
            The handlers that show the records in this process; None is the console.
        bootstrap : Callable or None
            A function that each proc runs before anything else. If it raises, the mesh does not start.
        log_dir : str or None
            Directory for a complete file per rank and stream.
        never, hide : sequence of str
            Regular expressions: lines that are never grouped, and lines that are not shown (they are in the files).

        Raises
        ------
        SettingError
            If an argument is invalid. `ProcMesh.initialized` and the first operation on the mesh raise all
            other errors.

        Notes
        -----
        The procs do not run the script again, even without an ``if __name__ == "__main__"`` guard. Calls pickle its
        definitions by value.
        """
        shape = Shape.of(check_per_host(per_host))
        if bootstrap is not None and not callable(bootstrap):
            raise SettingError(f"bootstrap={quoted(bootstrap)} cannot be called. Valid: a function without arguments, or None.")
        stream_log_to_client = settings.check_flag(stream_log_to_client, "stream_log_to_client")
        called = name if name is not None else f"mesh-{next(_numbers)}"
        with importing():
            method = check_start_method(start_method)

        def spawn() -> ProcMesh:
            with importing():
                start_ahead(method)  # the server starts while this process imports the client
                from .lifecycle import MeshLifecycle

            unpatched.use()  # after the imports
            life = MeshLifecycle(
                shape,
                called,
                start_method=method,
                stream_to_client=stream_log_to_client,
                handlers=handlers,
                bootstrap=bootstrap,
                log_dir=log_dir,
                never=never,
                hide=hide,
            )
            mesh = ProcMesh(life, shape, called, None)
            life.begin()
            return mesh

        return run_whole(spawn)  # after Ctrl-C, no caller has the mesh, so it is stopped


class ProcMesh:
    """Procs, or a slice of them: call them and control their logging. Created by `HostMesh.spawn_procs` and `slice`.

    Any thread and any event loop may use it; except where noted, no method blocks. Invalid arguments raise at the call. All
    other errors are raised by the returned `MeshFuture`. A mesh is stopped when it is no longer referenced, and when the
    interpreter exits. It belongs to its process: it cannot be sent to a proc, and a forked child cannot use it.
    """

    def __init__(self, life: MeshLifecycle, shape: Shape, name: str, whole: ProcMesh | None) -> None:
        self.name = name
        self._life = life
        self._shape = shape
        self._whole = whole  # a slice keeps the whole mesh from being collected
        if whole is None:
            weakref.finalize(self, life.abandon).atexit = False

    # -- properties ------------------------------------------------------------------------------------------------

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of these procs in the whole mesh."""
        return self._shape.ranks

    @property
    def extent(self) -> dict[str, int]:
        """Sizes by dimension, such as ``{"gpus": 4}``; ``{"ranks": 2}`` for a slice by ranks."""
        return dict(self._shape.extent)

    @property
    def coords(self) -> dict[int, dict[str, int]]:
        """The position of each rank in the whole mesh."""
        return {rank: dict(position) for rank, position in self._shape.coords.items()}

    @property
    def initialized(self) -> MeshFuture[None]:
        """A future that is done when the mesh is ready. If the start fails, it raises; `RankError` names the failed ranks."""
        return self._life.initialized

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by rank. Blocks until the procs have started: in an event loop, await `initialized` first."""
        pids = self._life.pids()
        return {rank: pids[rank] for rank in self.ranks}

    @property
    def logging(self) -> LoggingMeshClient:
        """The `LoggingMeshClient` of the mesh. Blocks until the mesh has started, as `pids` does."""
        self._life.initialized.get()
        return self._life.manager.client

    def __repr__(self) -> str:
        part = "" if self._whole is None else f", {format_ranks(self.ranks)}"
        return f"<ProcMesh {self.name}: {self.extent}{part}{', stopped' if self._life.stopped else ''}>"

    def _repr_html_(self) -> str:
        """Return a table of the ranks for a notebook. Waits about a second at most."""
        with importing():
            from ..insight.html import insight_html, text_html

        if not self._life.initialized.done():
            return text_html(f"{self!r}: it starts")
        try:
            return insight_html(self.insight().get(_TABLE_SEC), repr(self))
        except (MeshlogError, TimeoutError) as failure:  # it was stopped, or has not started yet, or a rank failed to
            return text_html(f"{self!r}: {failure}")

    def slice(self, *, ranks: Iterable[int] | int | None = None, **dimensions: Choice) -> ProcMesh:
        """Return a part of the mesh with the same methods. Ranks and coordinates remain those of the whole mesh.

        Parameters
        ----------
        ranks : int, iterable of int, or None
            The ranks to select, such as ``[1, 3]``.
        **dimensions : int, slice or iterable of int
            Positions along a dimension, such as ``gpus=0`` or ``gpus=slice(0, 2)``.

        Raises
        ------
        SettingError
            If a rank, dimension or position does not exist. The message lists the valid ones.
        """
        return ProcMesh(self._life, self._shape.slice(ranks, dimensions), self.name, self._whole or self)

    # -- operations ------------------------------------------------------------------------------------------------

    @overload
    def call(self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> MeshFuture[list[R]]: ...
    @overload
    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> MeshFuture[list[R]]: ...
    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> MeshFuture[list[Any]]:
        """Run ``fn(*args, **kwargs)`` on every rank; return the results in rank order.

        Each proc runs its calls on the main thread, one at a time, in the order they were made. A coroutine function runs to
        completion. A lambda, a closure and definitions of ``__main__`` are pickled by value, with the globals they use. These
        globals have, at each call, their values in this process; globals that exist only in the procs remain from call to call.

        Raises
        ------
        RankError
            From the future, if a rank raises: its cause is the exception of the rank, caused by the remote traceback.
        RankDied
            From the future, if a rank ends, or had ended before; in the second case no rank runs the call.
        TypeError
            If the function or an argument cannot be pickled.
        ClosedError
            After `stop`.
        """
        return self._life.call(self.ranks, fn, args, kwargs)

    def logging_option(
        self,
        stream_to_client: bool = True,
        aggregate_window_sec: float | _Unset | None = _UNSET,
        level: int | str = INFO,
    ) -> MeshFuture[None]:
        """Set what is shown of the logs and the output of these ranks. Done when every rank has applied it.

        Parameters
        ----------
        stream_to_client : bool
            Whether to show the logs and the output here. Files in a ``log_dir`` contain them in any case.
        aggregate_window_sec : float or None
            Seconds in which similar lines become one; None shows each line immediately. The default is 3 when streaming, else
            None. When a window is removed or shortened, pending lines are shown first. The window applies to the whole mesh.
        level : int or str
            Level of the root logger in the procs: 0 to 255, or a name.

        Raises
        ------
        SettingError
            If a value is invalid (a ``ValueError``), or a window is combined with ``stream_to_client=False``.
        RankError
            From the future, if a rank failed to apply the mode.

        Notes
        -----
        In IPython, the call also enables a flush at the end of each cell, so that the logs of a cell appear below it.
        """
        stream_to_client = settings.check_flag(stream_to_client, "stream_to_client")
        default = settings.DEFAULT_WINDOW_SEC if stream_to_client else None
        asked = default if aggregate_window_sec is _UNSET else aggregate_window_sec
        window, number = settings.check_mode(stream_to_client, asked, level)
        ranks = self._chosen
        return self._when_initialized(
            "logging_option", lambda manager: manager.logging_option(stream_to_client, window, number, ranks)
        )

    def flush(self, timeout: float | None = 10.0) -> MeshFuture[FlushReceipt]:
        """Wait until everything these ranks logged and printed before this call has been shown.

        Parameters
        ----------
        timeout : float or None
            Seconds; None waits without a limit.

        Raises
        ------
        FlushTimeout
            From the future, if ranks did not respond; it contains the receipt and names them.
        """
        seconds, ranks = check_timeout(timeout), self._chosen
        return self._when_initialized("flush", lambda manager: manager.flush(seconds, ranks))

    def stacks(self, timeout: float | None = 5.0) -> MeshFuture[Stacks]:
        """Return the Python stacks of all threads of these ranks, merged: see where each rank is.

        A rank that runs a call can be asked, too: the call continues.

        Parameters
        ----------
        timeout : float or None
            Seconds; None waits without a limit. Ranks that do not answer are in `Stacks.unanswered`, with their state.

        Raises
        ------
        BusyError
            From the future, if a handler blocks the client's thread, or another call takes stacks.
        """
        seconds, ranks = check_timeout(timeout), self._chosen
        return self._when_initialized("stacks", lambda manager: manager.client.stacks(ranks, seconds))

    def insight(self) -> MeshFuture[Insight]:
        """Return which of these ranks are silent, behind, different or failed, from what they have logged and printed so far.

        A slice compares its ranks only with each other.
        """
        ranks = self._chosen
        return self._when_initialized("insight", lambda manager: manager.client.insight(ranks))

    def stop(self, timeout: float | None = _STOP_SEC) -> MeshFuture[None]:
        """Flush, then stop the procs and their logging. A second call does nothing.

        The procs finish earlier calls. A proc that takes longer than `timeout` seconds (None: no limit) is terminated, then
        killed; its records until then are shown.

        Raises
        ------
        SettingError
            If this is a slice: its procs belong to the whole mesh.
        """
        if self._whole is not None:
            raise SettingError(
                f"a slice ({format_ranks(self.ranks)}) cannot be stopped: its procs belong to the mesh. Stop the whole mesh."
            )
        seconds, life = check_timeout(timeout), self._life
        return MeshFuture.run(lambda: life.stop(seconds), "stop")

    def _when_initialized(self, name: str, work: Callable[[LoggingManager], R]) -> MeshFuture[R]:
        """Run `work` on a new thread when the mesh is ready. Raises `ClosedError` at once if the mesh is stopped."""
        life = self._life
        life.check_open(f"{name}()")

        def run() -> R:
            life.initialized.get()
            return work(life.manager)

        return MeshFuture.run(run, name)

    @property
    def _chosen(self) -> tuple[int, ...] | None:
        return None if self._whole is None else self.ranks

    # -- context manager -------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._check_whole()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop(_STOP_SEC if kind is None else _FAILED_STOP_SEC).get()

    async def __aenter__(self) -> Self:
        self._check_whole()
        await self.initialized
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(_STOP_SEC if kind is None else _FAILED_STOP_SEC)

    def _check_whole(self) -> None:
        if self._whole is not None:
            raise SettingError("a slice cannot be stopped. Put the whole mesh in the with statement.")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled. If a function that you call uses it as a global variable, pass the values that it "
            f"needs, such as the ranks."
        )
