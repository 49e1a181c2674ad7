"""PendingCall: a call in progress on several ranks, and its outcome."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from ..errors import RankDied, RankError, RemoteTraceback
from ..protocol.immutable import Immutable
from ..protocol.ranks import format_ranks
from ..system.exit_status import signal_name
from ..system.futures import Awaited
from .future import MeshFuture
from .pickling import loads
from .rpc import CallFailure


class End(Immutable):
    """The exit of a proc, with a reason such as ``ended by SIGSEGV``."""

    rank: int
    pid: int
    reason: str

    @classmethod
    def by(cls, rank: int, pid: int, exitcode: int | None) -> End:
        """Derive the reason from the exit code."""
        return cls(rank, pid, f"ended {'with' if exitcode is not None and exitcode >= 0 else 'by'} {signal_name(exitcode)}")

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid}) {self.reason}"


class PendingCall:
    """Collects the responses of the ranks to one call.

    Not thread-safe: the supervisor thread adds responses, then the result loader settles the call. Only the future is shared.
    """

    def __init__(self, number: int, ranks: tuple[int, ...], what: str) -> None:
        self.number = number
        self.ranks = ranks
        self.what = what
        self.in_grace = False
        self._values: dict[int, bytes] = {}
        self._failures: dict[int, CallFailure | End] = {}
        self._future: Future[list[Any]] = Awaited.begun()

    def future(self) -> MeshFuture[list[Any]]:
        """Return a future of the results, in the order of `ranks`."""
        return MeshFuture(self._future, f"{self.what} on {format_ranks(self.ranks)}")

    def returned(self, rank: int, value: bytes) -> None:
        """Store the pickled result of a rank."""
        self._values[rank] = value

    def failed(self, rank: int, why: CallFailure | End) -> None:
        """Record that a rank raised or ended. The error names the first such rank first."""
        self._failures.setdefault(rank, why)

    @property
    def complete(self) -> bool:
        """Whether all ranks have responded."""
        return len(self._values) + len(self._failures) >= len(self.ranks)

    @property
    def failing(self) -> bool:
        """Whether a rank has failed."""
        return bool(self._failures)

    def settle(self) -> None:
        """Set the result or the error of the future, once. Never on the supervisor thread: unpickling may run user code."""
        if self._future.done():
            return
        try:
            if self._failures:
                raise self._error()
            values = self._load()
        except BaseException as error:  # unpickling may raise anything, and a caller waits
            # This thread's traceback is useless to the caller, and would keep the locals of its frames alive.
            self.refuse(error.with_traceback(None))
        else:
            self._future.set_result(values)

    def refuse(self, error: BaseException) -> None:
        """Set `error` on the future, unless it is done."""
        if not self._future.done():
            self._future.set_exception(error)

    def _load(self) -> list[Any]:
        values = []
        for rank in self.ranks:
            try:
                values.append(loads(self._values.pop(rank)))
            except BaseException as cause:  # also SystemExit: loading runs code of the program
                reason = f"its result cannot be loaded in the client: {type(cause).__name__}: {cause}"
                raise RankError(
                    f"rank {rank} completed {self.what}, but {reason}. Return plain data, or objects whose classes can be "
                    f"imported on both sides.",
                    {rank: reason},
                ) from cause
        return values

    def _error(self) -> RankError:
        reasons = {rank: why.reason for rank, why in self._failures.items()}
        rank, first = next(iter(self._failures.items()))
        others = f" ({format_ranks(reasons)} failed, this one first)" if len(reasons) > 1 else ""
        if isinstance(first, End):
            return RankDied(f"{first} during {self.what}{others}", reasons)
        error = RankError(f"rank {rank} failed in {self.what}{others}: {first.reason}{_stdin_hint(first.reason)}", reasons)
        error.__cause__ = exception_of(first)
        return error


def _stdin_hint(reason: str) -> str:
    """Return why `input()` or a debugger has failed; "" for other reasons."""
    if reason == "EOFError: EOF when reading a line" or reason.startswith("BdbQuit"):
        return ". The ranks of a mesh have no standard input, which input() and breakpoint() need"
    return ""


def exception_of(failure: CallFailure) -> BaseException:
    """Return the exception raised in the proc, caused by its remote traceback; only the traceback if it cannot be loaded."""
    trace = RemoteTraceback(failure.trace)
    if failure.pickled is not None:
        try:
            error = loads(failure.pickled)
        except BaseException as cause:  # SystemExit, too: loading runs code of the program
            trace.__context__ = cause  # why the exception cannot be loaded: secondary, but useful
            return trace
        if isinstance(error, BaseException):
            error.__cause__ = trace
            return error
    return trace


def refusal(ends: list[End], living: list[int], what: str) -> RankDied:
    """Return the error of a call on ranks that had already ended."""
    ended = "; ".join(map(str, ends))
    advice = f"Use .slice(ranks={living}) to call the other ranks." if living else "No rank is left."
    return RankDied(f"{ended}, before {what}. No rank ran it. {advice}", {end.rank: end.reason for end in ends})
