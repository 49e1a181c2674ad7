"""Collects the stacks of ranks: asks each worker, then gets a dump of those that do not answer, then asks the kernel.

::

    TakeStacks -> workers -> StacksAnswer                 an interpreter that runs
    signal     -> faulthandler -> memory file             native code that holds the GIL
    /proc      -> state, wait channel                     a stopped process, or one that cannot be interrupted
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple, Protocol, TypeVar

from ...errors import BusyError, ClosedError
from ...insight.call_tree import Unanswered
from ...insight.stacks import Stacks, decode_found, encode_threads, encode_unanswered, merge
from ...protocol.messages import Command, StackSignal, TakeStacks
from ...protocol.relay_messages import DownstreamStacks
from ...system.futures import finished
from ...system.process_state import STOPPED, ProcessState, process_state
from ...system.shielded import run_shielded
from ...system.waits import capped, check_timeout, deadline_after, monotonic, seconds_until
from ..flushes.acknowledgements import UNANSWERED, Acknowledgements, Answers
from ..flushes.flushes import time_downstream
from ..peers.peer import Chosen, Peer
from ..peers.reactor import Reactor
from .stack_dump import DumpedProcess

T = TypeVar("T")

Found = list[tuple[int, bytes]]
"""For each process its rank, and its encoded stacks or the reason why there are none."""

_PATIENCE: Final = 0.4  # the part of the timeout in which workers may answer before anything else is tried
_PATIENCE_SEC: Final = 1.0
_LOOK_SEC: Final = 0.01
_MAX_DOWNSTREAM: Final = 32 << 20  # bytes of stacks in one message of a relay

_NO_INSTALL: Final = "its program did not call install(), which stacks need"


class _Silent(NamedTuple):
    """A process that has not answered. `pidfd` is a duplicate, or -1; `pid` is 0 if the process is not on this machine."""

    member: Hashable
    rank: int
    pid: int
    pidfd: int
    how: StackSignal | None


class Client(Protocol):
    """What `StackCollector` uses of a client (see `Requests`)."""

    def ask(self, fn: Callable[[], T]) -> T:
        """Run `fn` on the client's thread, and return its result."""

    def next_request(self) -> int:
        """Return the request number for a command."""

    def send_command_soon(self, command: Command, chosen: Chosen | None) -> Future[Answers]:
        """Send a command to workers; the future gets their answers."""

    def give_up(self, request: int) -> None:
        """Stop waiting for the missing answers to a command."""


class StackCollector:
    """Collects stacks for `LogClient.stacks` and for relays. Any thread but the client's; one collection at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._collecting = threading.Lock()
        self._reactor: Reactor
        self._commands: Acknowledgements[str | bytes | None]

    def attach(self, reactor: Reactor, commands: Acknowledgements[str | bytes | None]) -> None:
        """Use the connections of a client that starts."""
        self._collecting = threading.Lock()  # a forked child may have inherited a held one
        self._reactor, self._commands = reactor, commands

    @property
    def peers(self) -> frozenset[Peer]:
        """The connections of the client. Client thread only."""
        return frozenset(self._reactor.peers)

    def merged(self, chosen: Chosen | None, timeout: float | None, wanted: Iterable[int] = ()) -> Stacks:
        """Return the stacks of chosen workers, merged. Ranks in `wanted` that are not connected are unanswered."""
        return merged_found(self.collect(chosen, timeout), wanted)

    def collect(self, chosen: Chosen | None, timeout: float | None) -> Found:
        """Return the encoded stacks of chosen workers, or why there are none. Raises as `LogClient.stacks` does."""
        seconds = check_timeout(timeout)
        deadline = deadline_after(seconds)
        # This also shows whether a handler blocks the client's thread.
        if self._client.ask(threading.get_ident) == threading.get_ident():
            raise ClosedError(
                "stacks failed: a handler of this client called it and would wait for itself. Use another thread."
            )
        interrupts: list[BaseException] = []
        # Ctrl-C at any other place could leave a descriptor of a worker open.
        return run_shielded(lambda: self._collect_next(chosen, seconds, deadline, interrupts), interrupts.append)

    def _collect_next(
        self, chosen: Chosen | None, seconds: float, deadline: float, interrupts: Sequence[BaseException]
    ) -> Found:
        """Collect when the call before has ended. After an interrupt, stop waiting."""
        while not self._collecting.acquire(timeout=capped(_LOOK_SEC)):
            if interrupts or monotonic() >= deadline:
                raise BusyError(
                    f"stacks failed: another call took stacks for {seconds} s. Try again, or give a longer timeout."
                )
        try:
            return self._collect(chosen, seconds, deadline, interrupts)
        finally:
            self._collecting.release()

    def _collect(self, chosen: Chosen | None, seconds: float, deadline: float, interrupts: Sequence[BaseException]) -> Found:
        downstream = time_downstream(seconds)
        command = TakeStacks(self._client.next_request(), downstream)
        future = self._client.send_command_soon(command, chosen)
        patience = min(_PATIENCE_SEC, seconds * _PATIENCE)
        silent: Sequence[_Silent] = ()
        dumps: dict[Hashable, DumpedProcess] = {}
        with ExitStack() as closing:
            try:
                if not finished(future, patience):
                    silent = self._client.ask(lambda: self._silent(future))
                    dumps = _dumps_of(silent, closing)
                    _take_dumps(silent, dumps, lambda: _is_over(future, deadline, interrupts))
            finally:
                self._client.give_up(command.request)
            external = self._client.ask(lambda: self._external(chosen))  # raises if a handler blocks; then `future` is not done
            found = [_found(member, answer, dumps.get(member)) for member, answer in future.result().items()]
        return [each for each in found if each is not None] + external

    def _silent(self, future: Future[Answers]) -> list[_Silent]:
        """Return the processes without an answer. Client thread only."""
        found, pending = [], self._commands.of(future)
        for member in pending.waiting if pending is not None else ():
            if isinstance(member, Peer) and member.rank is not None:
                pidfd, here = -1, member.watched and not member.ended
                if here and member.pidfd >= 0:
                    with suppress(OSError):  # no descriptor is left: then there is no dump
                        pidfd = os.dup(member.pidfd)
                found.append(_Silent(member, member.rank, member.pid if here else 0, pidfd, member.stack_signal))
            else:  # below a relay, which does the same there
                found.append(_Silent(member, -1, 0, -1, None))
        return found

    def _external(self, chosen: Chosen | None) -> Found:
        """Return the ranks whose output is captured and that have not joined. Client thread only."""
        peers = [peer for peer in self.peers if not peer.ended and peer.rank is not None]
        joined = {peer.rank for peer in peers if not peer.external}
        return [
            (peer.rank, encode_unanswered(_unanswered(peer, _NO_INSTALL)))
            for peer in peers
            if peer.external and peer.rank is not None and peer.rank not in joined and peer.chosen(chosen)
        ]


def _dumps_of(silent: Sequence[_Silent], closing: ExitStack) -> dict[Hashable, DumpedProcess]:
    """Return the processes that can dump their stacks; `closing` closes all descriptors."""
    dumps: dict[Hashable, DumpedProcess] = {}
    for each in silent:
        if each.how is not None and each.pidfd >= 0:
            dumps[each.member] = DumpedProcess(each.pid, each.pidfd, each.how)
            closing.callback(dumps[each.member].close)
        elif each.pidfd >= 0:
            closing.callback(os.close, each.pidfd)
    return dumps


def _is_over(future: Future[Answers], deadline: float, interrupts: Sequence[BaseException]) -> bool:
    """Wait a moment for the answers; return whether to stop waiting."""
    return finished(future, min(_LOOK_SEC, seconds_until(deadline))) or bool(interrupts) or monotonic() >= deadline


def _take_dumps(silent: Sequence[_Silent], dumps: Mapping[Hashable, DumpedProcess], over: Callable[[], bool]) -> None:
    """Get dumps until all processes are settled, or the wait is over."""
    while not over():
        for dump in dumps.values():
            dump.step()
        if silent and all(_is_settled(each, dumps.get(each.member)) for each in silent):
            break
    for dump in dumps.values():
        dump.finish()


def _is_settled(silent: _Silent, dump: DumpedProcess | None) -> bool:
    """Whether waiting longer gives nothing: the stacks are there, or the process is stopped."""
    if dump is not None and dump.stacks is not None:
        return True
    return silent.pid > 0 and process_state(silent.pid).state in STOPPED


def _found(member: Hashable, answer: str | bytes | None, dump: DumpedProcess | None) -> tuple[int, bytes] | None:
    """Return what is known of one member: its answer, its dump, or what the kernel reports."""
    rank = member.rank  # type: ignore[attr-defined]  # see `Target`
    if rank is None:
        return None
    if isinstance(answer, bytes):
        return rank, answer
    if dump is not None and dump.stacks is not None:
        return rank, encode_threads(dump.stacks)
    reason = answer or "it does not know the command"
    if dump is not None and dump.failure:
        reason = f"{reason}; {dump.failure}"
    return rank, encode_unanswered(_unanswered(member, reason))


def _unanswered(member: Hashable, reason: str) -> Unanswered:
    if not isinstance(member, Peer):
        return Unanswered(None, "", "", reason if reason != UNANSWERED else "its relay did not answer in time")
    here = member.watched and not member.ended
    state = process_state(member.pid) if here else ProcessState("", "")
    return Unanswered(member.pid, *state, reason.replace(UNANSWERED, "it did not answer in time"))


def merged_found(found: Found, wanted: Iterable[int] = ()) -> Stacks:
    """Return what `StackCollector.collect` has found, merged. Ranks in `wanted` that it has not found are unanswered."""
    known = {rank for rank, _ in found}
    absent = Unanswered(None, "", "", "no process with this rank is connected")
    decoded = [(rank, decode_found(each)) for rank, each in found]
    return merge([*decoded, *((rank, absent) for rank in wanted if rank not in known)])


def downstream_stacks(request: int, found: Found) -> DownstreamStacks:
    """Return the message of a relay about its workers. Equal stacks are in it once, and its size is limited."""
    places: dict[bytes, int] = {}
    size = 0
    for _, each in found:
        if each not in places and size + len(each) <= _MAX_DOWNSTREAM:
            places[each] = len(places)
            size += len(each)
    answers = tuple((rank, places.get(each, len(places))) for rank, each in found)
    return DownstreamStacks(request, answers, tuple(places))
