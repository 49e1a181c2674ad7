"""PendingCall: a call under way on several ranks, and what becomes of it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ..errors import RankDied, RankError, RemoteTraceback
from ..protocol.ranks import format_ranks
from ..system.exit_status import signal_name
from ..system.waits import Awaited
from .future import MeshFuture
from .pickling import loads
from .rpc import CallFailure


@dataclass(frozen=True)
class End:
    """How a proc ended.

    Attributes
    ----------
    rank, pid : int
        Which one.
    reason : str
        Such as ``ended by SIGSEGV``.
    """

    rank: int
    pid: int
    reason: str

    @classmethod
    def by(cls, rank: int, pid: int, exitcode: int | None) -> End:
        """Say it by the exit code."""
        return cls(rank, pid, f"ended {'with' if exitcode is not None and exitcode >= 0 else 'by'} {signal_name(exitcode)}")

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid}) {self.reason}"


class PendingCall:
    """Collects the answers of the ranks to one call.

    One thread at a time: the watcher notes answers, then another one settles. Only the future is everybody's.

    Parameters
    ----------
    number : int
        What the call is known by between client and procs.
    ranks : tuple of int
        Whose answers are waited for; the result is in this order.
    what : str
        What is done there, for messages: ``the call of train``.
    """

    def __init__(self, number: int, ranks: tuple[int, ...], what: str) -> None:
        self.number = number
        self.ranks = ranks
        self.what = what
        self.in_grace = False
        self._values: dict[int, bytes] = {}
        self._failures: dict[int, CallFailure | End] = {}
        self._future: Future[list[Any]] = Awaited()
        self._future.set_running_or_notify_cancel()

    def future(self) -> MeshFuture[list[Any]]:
        """Return what the caller gets."""
        return MeshFuture(self._future, f"{self.what} on {format_ranks(self.ranks)}")

    def returned(self, rank: int, value: bytes) -> None:
        """Note a result, pickled."""
        self._values[rank] = value

    def failed(self, rank: int, why: CallFailure | End) -> None:
        """Note that a rank raised, or ended. The first to do so is named first."""
        self._failures.setdefault(rank, why)

    @property
    def complete(self) -> bool:
        """Whether all ranks have answered."""
        return len(self._values) + len(self._failures) >= len(self.ranks)

    @property
    def failing(self) -> bool:
        """Whether one of them has failed."""
        return bool(self._failures)

    def settle(self) -> None:
        """Give the caller the result, or the error. The second time it does nothing.

        What is unpickled may run code of the program's: not to be called by a thread that others depend on.
        """
        if self._future.done():
            return
        try:
            if self._failures:
                raise self._error()
            values = self._load()
        except BaseException as error:  # whatever unpickling may raise: somebody waits
            # Where in this thread it was raised tells nobody anything, and would keep all that the frames hold.
            self.refuse(error.with_traceback(None))
        else:
            self._future.set_result(values)

    def refuse(self, error: BaseException) -> None:
        """Fail without, or before, having been sent."""
        if not self._future.done():
            self._future.set_exception(error)

    def _load(self) -> list[Any]:
        values = []
        for rank in self.ranks:
            try:
                values.append(loads(self._values.pop(rank)))
            except Exception as cause:
                reason = f"its result cannot be read here: {type(cause).__name__}: {cause}"
                raise RankError(
                    f"rank {rank} carried out {self.what}, but {reason}. Return plain data, or objects whose classes can be "
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
        error = RankError(f"rank {rank} failed in {self.what}{others}: {first.reason}", reasons)
        error.__cause__ = exception_of(first)
        return error


def exception_of(failure: CallFailure) -> BaseException:
    """Return the exception that was raised in the proc, with its traceback as its cause; that alone if it could not travel."""
    trace = RemoteTraceback(failure.trace)
    if failure.pickled is not None:
        try:
            error = loads(failure.pickled)
        except Exception as cause:
            trace.__context__ = cause  # it left as a pickle that cannot be read: not what went wrong, but worth knowing
            return trace
        if isinstance(error, BaseException):
            error.__cause__ = trace
            return error
    return trace


def refusal(ends: list[End], living: list[int], what: str) -> RankDied:
    """Return the error of a call on ranks that had ended before."""
    told = "; ".join(map(str, ends))
    advice = f"Leave it out: .slice(ranks={living}) has those that live." if living else "None is left."
    return RankDied(f"{told}, before {what}, which was not run anywhere. {advice}", {end.rank: end.reason for end in ends})
