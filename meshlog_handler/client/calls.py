"""Flushes and commands that other threads ask for: sent to the chosen workers. Client thread only, except `unanswered`.

::

    `Requests`, on any thread -> Mailbox -> `Calls`, on the client's thread -> workers
    `ClientLoop` notes their answers with `Flushes` and `Acknowledgements`, which complete the futures.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Set
from concurrent.futures import Future
from typing import NamedTuple

from ..protocol.messages import Answer, Command
from ..system.waits import monotonic
from .downstream.relays import Relays
from .flushes.acknowledgements import Acknowledgements, Answers
from .flushes.flushes import Flushed, Flushes
from .flushes.receipt import FlushReceipt
from .peers.peer import Chosen, Peer, Target
from .peers.reactor import Reactor
from .peers.registry import Registry
from .queues.queue_peer import QueuePeer


class _Waiting(NamedTuple):
    """A flush that waits for the reports of relays."""

    future: Flushed
    deadline: float
    chosen: Chosen | None
    due: float


class Calls:
    """Starts flushes and commands. The client's own process, with the mesh token `own_token`, gets no commands."""

    def __init__(
        self,
        reactor: Reactor,
        *,
        registry: Registry,
        relays: Relays,
        flushes: Flushes,
        commands: Acknowledgements[str | bytes | None],
        own_token: str,
    ) -> None:
        self._reactor = reactor
        self._registry = registry
        self._relays = relays
        self._flushes = flushes
        self._commands = commands
        self._own_token = own_token
        self._waiting: list[_Waiting] = []

    def flush(self, future: Flushed, timeout: float, chosen: Chosen | None) -> None:
        """Flush the chosen workers; `future` gets the receipt.

        It begins when relays have reported which workers join: one that joins may have logged, and be among the chosen.
        """
        now = monotonic()
        self._waiting.append(_Waiting(future, now + timeout, chosen, min(self._relays.admits_until, now + timeout / 2)))
        self.begin_flushes(now)

    def begin_flushes(self, now: float) -> None:
        """Begin the flushes that need not wait for reports of relays any longer."""
        for each in tuple(self._waiting):
            # Without a choice, a relay flushes all that it has.
            if each.chosen is None or now >= min(each.due, self._relays.admits_until):
                self._waiting.remove(each)
                self.flush_known(each.future, each.deadline - now, each.chosen)

    @property
    def deadline(self) -> float | None:
        """When `begin_flushes` has work, or None."""
        return min((each.due for each in self._waiting), default=None)

    def close(self) -> None:
        """Begin all flushes, because the client stops."""
        while self._waiting:
            each = self._waiting.pop()
            self.flush_known(each.future, 0.0, each.chosen)

    def flush_known(self, future: Flushed, timeout: float, chosen: Chosen | None) -> None:
        """Send a sentinel to all chosen workers that have joined; `future` gets the receipt."""
        members = self._chosen(chosen)
        version = self._flushes.start(members, self._registry.dead(chosen), timeout, future)
        for peer in members:
            if isinstance(peer, QueuePeer):
                peer.ask_flush(version)
            elif peer.external and not peer.ended:
                # It receives no messages. This answer is handled after the items that were read from its pipes before.
                self._reactor.messages.append((peer, Answer(version, None)))
            elif not peer.ended:
                self._reactor.send(peer, peer.flush_command(version, timeout, chosen))

    def flush_ended(self, future: Flushed) -> None:
        """Complete `future` with a receipt when all records of the workers that have ended by now are shown."""
        self._reactor.look_for_ends()
        self._flushes.start([peer for peer in self._reactor.peers if peer.ended], (), float("inf"), future)

    def unanswered(self, future: Flushed, chosen: Chosen | None, elapsed: float, busy: str) -> FlushReceipt:
        """Return the receipt of a flush as far as it has come. Any thread: used if the client's thread is blocked."""
        return self._flushes.unanswered(future, self._chosen(chosen), elapsed, busy)

    def _chosen(self, chosen: Chosen | None) -> list[Peer]:
        return [peer for peer in tuple(self._reactor.peers) if chosen is None or peer.chosen(chosen)]

    def command(self, command: Command, future: Future[Answers], chosen: Chosen | None) -> None:
        """Send a command to workers; `future` gets the answers."""
        asked = self._asked(chosen)
        self._commands.start(command.request, future, [member for members in asked.values() for member in members])
        for peer, members in asked.items():
            if members and not self._reactor.send(peer, peer.command_for(command, members)):
                for member in members:
                    self._commands.note(command.request, member, "its connection is closed")

    def commit(
        self,
        command: Command,
        future: Future[Answers],
        chosen: Chosen,
        prepared: Set[Hashable],
        defaults: tuple[str, Command] | None,
    ) -> bool:
        """End a transaction: send `command`, and add it to the defaults of a mesh.

        Does nothing and returns False if workers have joined that are not `prepared`.
        """
        if any(member not in prepared for members in self._asked(chosen).values() for member in members):
            return False
        if defaults is not None:
            self._registry.set_default(*defaults)
            self._relays.set_default(*defaults)
        self.command(command, future, chosen)
        return True

    def _asked(self, chosen: Chosen | None) -> dict[Peer, Sequence[Target]]:
        """Return the targets of a command by the connection to send it on."""
        return {
            peer: peer.chosen(chosen)
            for peer in self._reactor.peers
            if not peer.ended and not peer.external and peer.mesh != self._own_token
        }
