"""Pending commands: which members have not acknowledged them yet. Pure bookkeeping, one owner."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Hashable, Iterable
from concurrent.futures import Future, InvalidStateError
from typing import Final

from ..protocol.messages import Answer, StacksAnswer

_FIRST: Final = 1 << 32
UNANSWERED: Final = "did not answer in time; it may be stopped, or hold the GIL in native code"

Answers = dict[Hashable, "str | None"]
"""For each member that got the command: None if it applied the command, else the reason why not."""


class PendingCommands:
    """Collects the answers to commands. Request numbers start at 2**32, which keeps them apart from flush versions."""

    def __init__(self) -> None:
        self._numbers = itertools.count(_FIRST)
        self._open: dict[int, tuple[set[Hashable], Answers, Future[Answers]]] = {}
        self._stacks: dict[int, dict[Hashable, bytes]] = {}

    def number(self) -> int:
        """Return the number of the next request."""
        return next(self._numbers)

    @staticmethod
    def is_request(number: int) -> bool:
        """Return whether a number is a request number and not a flush version."""
        return number >= _FIRST

    def start(self, request: int, members: Iterable[Hashable], future: Future[Answers]) -> None:
        """Wait for the answers of `members`; `future` gets all answers when the last one arrives."""
        waiting = set(members)
        answers: Answers = {}
        if waiting:
            self._open[request] = (waiting, answers, future)
        else:
            _set(future, answers)

    def waiting_for(self, request: int) -> frozenset[Hashable]:
        """Return the members that have not answered a request."""
        return frozenset(self._open[request][0]) if request in self._open else frozenset()

    def keep_stacks(self, request: int) -> None:
        """Keep the stacks in the answers to a request until `take_stacks`, or until another request keeps its own."""
        self._stacks = {request: {}}

    def take_stacks(self, request: int) -> dict[Hashable, bytes]:
        """Complete a request, and return the stacks in its answers by member."""
        self.give_up(request)
        return self._stacks.pop(request, {})

    def answer(self, member: Hashable, answer: Answer) -> None:
        """Note an answer. An answer that no request waits for has no effect."""
        if isinstance(answer, StacksAnswer) and answer.request in self._stacks and member in self.waiting_for(answer.request):
            self._stacks[answer.request][member] = answer.stacks
        self._note(answer.request, member, answer.error)

    def mark_ended(self, member: Hashable, reason: str) -> None:
        """Note that `member` ended and cannot answer any more."""
        for request in tuple(self._open):
            self._note(request, member, reason)

    def give_up(self, request: int) -> None:
        """Complete a request that is past its deadline; members without an answer get `UNANSWERED`."""
        if request in self._open:
            for member in tuple(self._open[request][0]):
                self._note(request, member, UNANSWERED)

    def close(self, reason: str) -> None:
        """Complete all requests, because the owner stops."""
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
    with contextlib.suppress(InvalidStateError):  # the caller has cancelled it
        future.set_result(answers)
