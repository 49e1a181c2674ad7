"""HostMesh and ProcMesh: a mesh of processes on this host, with its logging.

The names, and what they do, are Monarch's; the engine is `multiprocess`.
"""

from __future__ import annotations

import enum
import itertools
import os
import socket
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from logging import INFO
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, TypeVar, overload

from typing_extensions import Self

from .. import settings
from ..errors import SettingError
from ..protocol.ranks import format_ranks
from ..system import unpatched
from .future import MeshFuture
from .lifecycle import MeshLifecycle
from .manager import DEFAULT_WINDOW_SEC
from .shape import Choice, Shape, check_per_host
from .start_methods import check_start_method

if TYPE_CHECKING:
    from ..client.receipt import FlushReceipt
    from ..output.named_handlers import ShownBy
    from .control import LoggingMeshClient

P = ParamSpec("P")
R = TypeVar("R")


class _Unset(enum.Enum):
    UNSET = "unset"


_UNSET: Final = _Unset.UNSET
_DEFAULT_PER_HOST: Final[Mapping[str, int]] = MappingProxyType({"gpus": 4})
_STOP_SEC: Final = 10.0
_FAILED_STOP_SEC: Final = 2.0
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
    ) -> ProcMesh:
        """Start procs. Returns at once (with fork, after the forks); they start in the background, and what is first done with
        them waits for that.

        Parameters
        ----------
        per_host : Mapping
            How many, as sizes by dimension, such as ``{"gpus": 4}``. With several dimensions the last counts fastest.
        name : str or None
            Of the mesh, for people; None makes one up.
        start_method : str or None
            fork, spawn or forkserver; None is forkserver. fork is the fastest, but copies a process that has threads, with
            their locks as they stand: Python 3.12 and later warn of that.
        stream_log_to_client : bool
            Whether what the procs log and print is shown here; `ProcMesh.logging_option` changes it.
        handlers : iterable of logging.Handler or None
            What shows the records in this process; None is the console.
        bootstrap : Callable or None
            Runs in each proc before anything else does. If it raises, there is no mesh.
        log_dir : str or None
            Directory for a complete file per rank and stream.

        Raises
        ------
        SettingError
            If `per_host` or `start_method` cannot be used. What else can go wrong, `ProcMesh.initialized` raises, and
            whatever is first done with the mesh.

        Notes
        -----
        The script is not run again by its procs, whether or not it has an ``if __name__ == "__main__"``; what it defines
        travels with the calls.
        """
        unpatched.use()
        shape = Shape.of(check_per_host(per_host))
        if bootstrap is not None and not callable(bootstrap):
            raise SettingError(f"bootstrap={bootstrap!r} cannot be called. Valid: a function without arguments, or None.")
        called = name if name is not None else f"mesh-{next(_numbers)}"
        life = MeshLifecycle(
            shape,
            called,
            start_method=check_start_method(start_method),
            stream_to_client=stream_log_to_client,
            handlers=handlers,
            bootstrap=bootstrap,
            log_dir=log_dir,
        )
        mesh = ProcMesh(life, shape, called, None)
        life.begin()
        return mesh


class ProcMesh:
    """Procs, or a part of them, to be called and to be heard. Made by `HostMesh.spawn_procs`, and `slice`.

    Any thread and any event loop may use it; no method blocks. What is a caller's mistake is raised at the call, all else
    by the `MeshFuture` that a method returns. A mesh that nobody refers to any longer is stopped, as is one that is left
    when the interpreter exits. It stays in its process: it does not travel to a proc, and a forked child cannot use it.
    """

    def __init__(self, life: MeshLifecycle, shape: Shape, name: str, whole: ProcMesh | None) -> None:
        self.name = name
        self._life = life
        self._shape = shape
        self._whole = whole  # a part keeps the whole from being collected
        if whole is None:
            weakref.finalize(self, life.abandon).atexit = False

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of these procs in the whole mesh."""
        return self._shape.ranks

    @property
    def extent(self) -> dict[str, int]:
        """Sizes by dimension, such as ``{"gpus": 4}``; ``{"ranks": 2}`` of a part chosen by ranks."""
        return dict(self._shape.extent)

    @property
    def coords(self) -> dict[int, dict[str, int]]:
        """By rank, its position in the whole mesh."""
        return {rank: dict(position) for rank, position in self._shape.coords.items()}

    @property
    def initialized(self) -> MeshFuture[None]:
        """Done when the mesh can be used. Raises what prevents that: `RankError` names the ranks that did not start."""
        return self._life.initialized

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by rank. Waits until the procs were started: in an event loop, await `initialized` first."""
        pids = self._life.pids()
        return {rank: pids[rank] for rank in self.ranks}

    @property
    def logging(self) -> LoggingMeshClient:
        """The control surface of the logging. Waits for the start of the mesh, as `pids` does."""
        self._life.initialized.get()
        return self._life.manager.client

    def __repr__(self) -> str:
        part = "" if self._whole is None else f", {format_ranks(self.ranks)}"
        return f"<ProcMesh {self.name}: {self.extent}{part}{', stopped' if self._life.stopped else ''}>"

    def slice(self, *, ranks: Iterable[int] | None = None, **dimensions: Choice) -> ProcMesh:
        """Return a part, with the same methods, for the same procs. Ranks and coordinates stay those of the whole mesh.

        Parameters
        ----------
        ranks : iterable of int or None
            These ranks, such as ``[1, 3]``.
        **dimensions : int, slice or iterable of int
            Positions along a dimension, such as ``gpus=0`` or ``gpus=slice(0, 2)``.

        Raises
        ------
        SettingError
            If there is no such rank, dimension or position; it names those that there are.
        """
        return ProcMesh(self._life, self._shape.slice(ranks, dimensions), self.name, self._whole or self)

    # -- what it does ----------------------------------------------------------------------------------------------

    @overload
    def call(self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> MeshFuture[list[R]]: ...
    @overload
    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> MeshFuture[list[R]]: ...
    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> MeshFuture[list[Any]]:
        """Run ``fn(*args, **kwargs)`` on every rank; results in rank order.

        Calls run one after the other on the main thread of each proc, in the order they were made. A coroutine function is
        run to its end. A lambda, a closure and what ``__main__`` defines travel by value, with the globals they use: those
        have, at each call, the values they have here; those that only the procs know stay there from call to call.

        Raises
        ------
        RankError
            By the future, if a rank raises: its cause is what was raised there, with the traceback as that one's cause.
        RankDied
            By the future, if a rank ends, or has ended before; then nothing is run on any.
        TypeError
            If the function or an argument cannot travel.
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
        """Set what is shown of what these ranks log and print. Done when every one of them has applied it.

        Parameters
        ----------
        stream_to_client : bool
            Whether it is shown here. Files in a ``log_dir`` have it all the same.
        aggregate_window_sec : float or None
            Seconds in which similar lines become one; None shows each at once. The default is 3 when streaming, and None
            when not. Before it ends, or becomes shorter, what is pending is shown. It is one for the whole mesh.
        level : int or str
            Of the root logger in the procs: 0 to 255, or a name.

        Raises
        ------
        SettingError
            If a value is none (a ``ValueError``): also a window together with ``stream_to_client=False``.
        RankError
            By the future, if a rank could not apply it.

        Notes
        -----
        In IPython it sees to it that, at the end of each cell, what that cell logged is shown under it.
        """
        default = DEFAULT_WINDOW_SEC if stream_to_client else None
        asked = default if aggregate_window_sec is _UNSET else aggregate_window_sec
        window, number = settings.check_mode(stream_to_client, asked, level)
        life, ranks = self._life, self._chosen
        life.check_open("logging_option()")

        def apply() -> None:
            life.initialized.get()
            life.manager.logging_option(stream_to_client, window, number, ranks)

        return MeshFuture.run(apply, "logging_option")

    def flush(self, timeout: float | None = 10.0) -> MeshFuture[FlushReceipt]:
        """Wait until all that these ranks have logged and printed before this call is shown.

        Parameters
        ----------
        timeout : float or None
            Seconds; None waits for as long as it takes.

        Raises
        ------
        FlushTimeout
            By the future, if ranks did not answer; it carries the receipt and names them.
        """
        life, ranks = self._life, self._chosen
        life.check_open("flush()")

        def flush() -> FlushReceipt:
            life.initialized.get()
            return life.manager.flush(timeout, ranks)

        return MeshFuture.run(flush, "flush")

    def stop(self, timeout: float = _STOP_SEC) -> MeshFuture[None]:
        """Flush, then end the procs and their logging. Stopping twice is the same as once.

        The procs finish what was called before. Who takes longer than `timeout` seconds is terminated, then killed; what it
        logged until then is shown.

        Raises
        ------
        SettingError
            If this is a part of a mesh: its procs are not its own.
        """
        if self._whole is not None:
            raise SettingError(
                f"this is a part ({format_ranks(self.ranks)}) of a mesh: its procs serve other parts, too. Stop the whole mesh."
            )
        life = self._life
        return MeshFuture.run(lambda: life.stop(timeout), "stop")

    @property
    def _chosen(self) -> tuple[int, ...] | None:
        return None if self._whole is None else self.ranks

    # -- as a context ----------------------------------------------------------------------------------------------

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
            raise SettingError("a part of a mesh is not stopped by itself: put the whole mesh in the with statement.")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} stays in the process that made it. If a function that you call uses it as a global variable, pass "
            f"what it needs, such as the ranks, instead."
        )
