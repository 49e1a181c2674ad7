"""Orders under way: who was asked, who has answered. Pure bookkeeping, one owner."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Hashable, Iterable
from concurrent.futures import Future, InvalidStateError
from typing import Final

from ..protocol.messages import Answer

_FIRST: Final = 1 << 32
UNANSWERED: Final = "did not answer in time; it may be stopped, or hold the GIL in native code"

Answers = dict[Hashable, "str | None"]
"""For each member that was asked: None if it obeyed, else the reason why not."""


class PendingCommands:
    """Collects the answers to orders. Requests are numbered from 2**32, apart from the versions of flushes."""

    def __init__(self) -> None:
        self._numbers = itertools.count(_FIRST)
        self._open: dict[int, tuple[set[Hashable], Answers, Future[Answers]]] = {}

    def number(self) -> int:
        """Return the number of the next request."""
        return next(self._numbers)

    @staticmethod
    def is_request(number: int) -> bool:
        """Tell a request's number from the version of a flush."""
        return number >= _FIRST

    def start(self, request: int, members: Iterable[Hashable], future: Future[Answers]) -> None:
        """Wait for the answers of `members`; `future` gets them when the last has come."""
        waiting = set(members)
        answers: Answers = {}
        if waiting:
            self._open[request] = (waiting, answers, future)
        else:
            _set(future, answers)

    def answer(self, member: Hashable, answer: Answer) -> None:
        """Note an answer; one that nobody waits for counts for nothing."""
        self._note(answer.request, member, answer.error)

    def excuse(self, member: Hashable, reason: str) -> None:
        """Note that `member` will not answer any more."""
        for request in tuple(self._open):
            self._note(request, member, reason)

    def give_up(self, request: int) -> None:
        """Complete a request whose time is over: who has not answered, did not."""
        if request in self._open:
            for member in tuple(self._open[request][0]):
                self._note(request, member, UNANSWERED)

    def close(self, reason: str) -> None:
        """Complete all requests: the owner stops."""
        for request in tuple(self._open):
            for member in tuple(self._open[request][0]):
                self._note(request, member, reason)

    def _note(self, request: int, member: Hashable, error: str | None) -> None:
        if request not in self._open:
            return
        waiting, answers, future = self._open[request]
        if member in waiting:
            waiting.discard(member)
            answers[member] = error
            if not waiting:
                del self._open[request]
                _set(future, answers)


def _set(future: Future[Answers], answers: Answers) -> None:
    with contextlib.suppress(InvalidStateError):  # who asked has cancelled it
        future.set_result(answers)
