"""Actors of `monarch`: one in every proc, a relay on hosts far from the client, and a supervisor of both.

Actors are pickled by reference to this module: every proc imports it.
"""

from __future__ import annotations

import logging
import re
import socket
import weakref
from typing import Any, Final

from monarch.actor import Actor, concurrent_endpoint, current_rank, endpoint

from ... import installation
from ...client.log_client import LogClient
from ...client.relay.tunnel import HostRelay, reachable
from ...errors import ClosedError, ConnectError
from ...handler import MeshHandler
from ...mesh.future import MeshFuture
from ...system import live_clients
from ...worker import this_process
from ...worker.member import JoinOptions
from ..console_handover import ConsoleHandover

MEMBERS: Final = "meshlog_members"
"""Name of the mesh of actors in all procs."""

_CRASHED: Final = re.compile(r"crashed_ranks=\[([\d, ]+)\]")
_END: Final = re.compile(r"Killed\(sig=(?P<signal>\d+)|exited with non-zero code (?P<code>\d+)")

clients: weakref.WeakValueDictionary[str, LogClient] = weakref.WeakValueDictionary()
"""Clients of this process, by the token of their mesh."""


class SupervisorActor(Actor):
    """Owns the other actors, in the attaching process, so that the exit of one does not end the program."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._relays: list[tuple[Any, Any]] = []

    @endpoint
    def begin(self, proc_mesh: Any) -> Any:
        """Start a `WorkerActor` in every proc."""
        return proc_mesh.spawn(MEMBERS, WorkerActor)

    @endpoint
    def begin_relay(self, proc: Any, address: str) -> Any:
        """Start a relay on the host of a proc, in a new process that outlives the proc."""
        procs = proc.host_mesh.spawn_procs(name="meshlog")
        relay = procs.spawn("meshlog_relay", RelayActor, address)
        self._relays.append((procs, relay))
        return relay

    @endpoint
    def end_relays(self, timeout: float) -> None:
        """Stop the processes of the relays, which only their creator can do."""
        for stopped in [procs.stop() for procs, _ in self._relays]:
            stopped.get(timeout)

    def __supervise__(self, failure: Any) -> bool:
        """Report exits of procs to the client. Monarch checks every ten seconds, and gives the cause only as text."""
        text, client = repr(failure), clients.get(self._token)
        crashed, end = _CRASHED.search(text), _END.search(text)
        if client is not None and failure.mesh_name.startswith(f"{MEMBERS}-") and crashed is not None and end is not None:
            exitcode = -int(end["signal"]) if end["signal"] else int(end["code"])
            for rank in map(int, crashed[1].split(",")):
                client.report_exit(self._token, rank, exitcode)
                for _, relay in self._relays:
                    relay.report_exit.broadcast(self._token, rank, exitcode)
        return True


class WorkerActor(Actor):
    """In every proc: joins the client, and detaches."""

    def __init__(self) -> None:
        self._token = ""

    @endpoint
    def where(self, address: str) -> tuple[str, bool]:
        """Return the host name, and whether this proc can connect to the client at `address`."""
        return socket.gethostname(), reachable(address)

    @endpoint
    def join(self, addresses: list[str], token: str, local_ranks: list[int]) -> None:
        """Forward what this proc logs and prints. `addresses` and `local_ranks` are indexed by rank."""
        point = current_rank()
        self._token = token
        _hand_over()
        options = JoinOptions(addresses[point.rank], point.rank, local_ranks[point.rank], token, dict(point), capture=True)
        installation.enlist(options, handler=PlainHandler)
        if not self._is_member():
            _give_back()
            raise ConnectError(f"rank {point.rank} cannot join the client")

    @endpoint
    def leave(self) -> None:
        """Log as before, unless another client has attached meanwhile."""
        if self._is_member():
            installation.uninstall()
            _give_back()

    def _is_member(self) -> bool:
        member = this_process.current()
        return member is not None and member.options.mesh == self._token


_handover: ConsoleHandover | None = None
"""Shared by all clients that attach: the first one creates it, the last one restores the handlers."""


def _hand_over() -> None:
    global _handover
    if _handover is None and not live_clients.any_running():  # a process with a running client keeps its console handlers
        _handover = ConsoleHandover(lambda handler: False)
        _handover.take()


def _give_back() -> None:
    global _handover
    if _handover is not None:
        _handover.give_back()
    _handover = None


class RelayActor(Actor):
    """A relay on a host that cannot reach the client's socket. The procs there join it."""

    def __init__(self, client_address: str) -> None:
        self._relay = HostRelay(client_address)

    @concurrent_endpoint
    async def address(self) -> str:
        """Return the address that the procs of this host join."""
        return await MeshFuture.run(lambda: self._relay.address, "relay-address")

    @concurrent_endpoint
    async def take(self, timeout: float) -> bytes | None:
        """Return bytes for the client: b"" if there are none in time, None if the relay has ended."""
        try:
            return await MeshFuture.run(lambda: self._relay.take(timeout), "relay-take")
        except ClosedError:
            return None

    @concurrent_endpoint
    async def give(self, data: bytes) -> bool:
        """Accept bytes from the client; return False if the relay has ended."""
        try:
            await MeshFuture.run(lambda: self._relay.give(data), "relay-give")
        except ClosedError:
            return False
        return True

    @concurrent_endpoint
    async def report_exit(self, token: str, rank: int, exitcode: int) -> None:
        """Report the exit of a proc."""
        self._relay.report_exit(token, rank, exitcode)

    @concurrent_endpoint
    async def close(self, timeout: float) -> None:
        """Forward pending data, and stop."""
        await MeshFuture.run(lambda: self._relay.close(timeout), "relay-close")


class PlainHandler(MeshHandler):
    """Keeps messages as they were logged: Monarch adds a filter to every handler, which prepends the actor to the message.

    With the prefix, messages of different ranks would never be equal. Monarch also sets it as the attribute ``actor_prefix``.
    """

    def addFilter(self, filter: Any) -> None:
        """Add a filter; undo the changes of Monarch's filter to the message."""
        if type(filter).__module__.partition(".")[0] != "monarch":
            super().addFilter(filter)
        elif not any(isinstance(each, _Unprefixed) for each in self.filters):
            super().addFilter(_Unprefixed(filter))


class _Unprefixed(logging.Filter):
    def __init__(self, inner: logging.Filter) -> None:
        super().__init__()
        self._inner = inner

    def filter(self, record: logging.LogRecord) -> Any:
        msg, prefix = record.msg, getattr(record, "actor_prefix", None)
        if prefix and isinstance(msg, str):
            msg = msg.removeprefix(prefix)  # the filter of another handler has added the prefix
        passed = self._inner.filter(record)
        record.msg = msg
        return passed
