"""Monarch's actors, for `monarch`: one in every proc, a relay on hosts far from the client, and who watches over both.

Actors travel by reference to this module: it is imported in every proc.
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
from ...errors import ClosedError, ConnectError
from ...handler import MeshHandler
from ...mesh.future import MeshFuture
from ...system import live_clients
from ...worker import membership
from ..console_handover import ConsoleHandover
from ..tunnel import HostRelay, reachable

MEMBERS: Final = "meshlog_members"
"""What the mesh of the actors in all procs is called."""

_CRASHED: Final = re.compile(r"crashed_ranks=\[([\d, ]+)\]")
_END: Final = re.compile(r"Killed\(sig=(?P<signal>\d+)|exited with non-zero code (?P<code>\d+)")

clients: weakref.WeakValueDictionary[str, LogClient] = weakref.WeakValueDictionary()
"""Of this process, by the token of the mesh they are attached to."""


class SupervisorActor(Actor):
    """In the process that attaches: owns the others, so that the death of one of them is not the end of the program.

    Parameters
    ----------
    token : str
        Of the mesh.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._relays: list[tuple[Any, Any]] = []

    @endpoint
    def begin(self, proc_mesh: Any) -> Any:
        """Start a member in every proc."""
        return proc_mesh.spawn(MEMBERS, WorkerActor)

    @endpoint
    def begin_relay(self, proc: Any, address: str) -> Any:
        """Start a relay on the host of one proc, in a process of its own: it outlives that proc."""
        procs = proc.host_mesh.spawn_procs(name="meshlog")
        relay = procs.spawn("meshlog_relay", RelayActor, address)
        self._relays.append((procs, relay))
        return relay

    @endpoint
    def end_relays(self, timeout: float) -> None:
        """End the processes of the relays. Only who has started them can."""
        for stopped in [procs.stop() for procs, _ in self._relays]:
            stopped.get(timeout)

    def __supervise__(self, failure: Any) -> bool:
        """Tell the client how procs ended. Monarch looks every ten seconds, and says it in words only."""
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
    """In every proc: joins the client, and leaves it."""

    def __init__(self) -> None:
        self._token = ""

    @endpoint
    def where(self, address: str) -> tuple[str, bool]:
        """Say on which host this is, and whether the client at `address` can be joined from here."""
        return socket.gethostname(), reachable(address)

    @endpoint
    def join(self, addresses: list[str], token: str, local_ranks: list[int]) -> None:
        """Forward what this proc logs and prints. The arguments are by rank."""
        point = current_rank()
        self._token = token
        _hand_over()
        options = membership.JoinOptions(
            addresses[point.rank], point.rank, local_ranks[point.rank], token, dict(point), capture=True
        )
        installation.enlist(options, handler=PlainHandler)
        if not self._is_member():
            _give_back()
            raise ConnectError(f"rank {point.rank} cannot join the client")

    @endpoint
    def leave(self) -> None:
        """Be as before, unless somebody else has attached meanwhile."""
        if self._is_member():
            installation.uninstall()
            _give_back()

    def _is_member(self) -> bool:
        member = membership.current()
        return member is not None and member.options.mesh == self._token


_handover: ConsoleHandover | None = None
"""One for this process, whoever attaches: what the first one took, the last one gives back."""


def _hand_over() -> None:
    global _handover
    if _handover is None and not live_clients.any_running():  # else this process shows for itself, as before
        _handover = ConsoleHandover(lambda handler: False)
        _handover.take()


def _give_back() -> None:
    global _handover
    if _handover is not None:
        _handover.give_back()
    _handover = None


class RelayActor(Actor):
    """On a host that the client's socket does not reach: what the procs there join. The client takes and gives its bytes.

    Parameters
    ----------
    client_address : str
        See `HostRelay`.
    """

    def __init__(self, client_address: str) -> None:
        self._relay = HostRelay(client_address)

    @concurrent_endpoint
    async def address(self) -> str:
        """Return what the procs of this host join."""
        return await MeshFuture.run(lambda: self._relay.address, "relay-address")

    @concurrent_endpoint
    async def take(self, timeout: float) -> bytes | None:
        """Return bytes for the client, b"" if there are none in time, None when the relay has ended."""
        try:
            return await MeshFuture.run(lambda: self._relay.take(timeout), "relay-take")
        except ClosedError:
            return None

    @concurrent_endpoint
    async def give(self, data: bytes) -> bool:
        """Take in bytes from the client; False when the relay has ended."""
        try:
            await MeshFuture.run(lambda: self._relay.give(data), "relay-give")
        except ClosedError:
            return False
        return True

    @concurrent_endpoint
    async def report_exit(self, token: str, rank: int, exitcode: int) -> None:
        """Tell how a proc ended."""
        self._relay.report_exit(token, rank, exitcode)

    @concurrent_endpoint
    async def close(self, timeout: float) -> None:
        """Pass on what is pending, and end."""
        await MeshFuture.run(lambda: self._relay.close(timeout), "relay-close")


class PlainHandler(MeshHandler):
    """Gets the message as it was logged: Monarch adds to every handler a filter that writes the actor in front of it.

    With the actor in it, no two ranks would log the same. It is an attribute, ``actor_prefix``, that Monarch sets as well.
    """

    def addFilter(self, filter: Any) -> None:
        """Add a filter; what it makes of the message, if it is Monarch's, is undone."""
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
            msg = msg.removeprefix(prefix)  # another handler has had it before
        passed = self._inner.filter(record)
        record.msg = msg
        return passed
