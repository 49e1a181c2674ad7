"""Actors of `monarch`: one in every proc, a relay on hosts far from the client, and a supervisor of both.

Actors are pickled by reference to this module: every proc imports it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
import weakref
from typing import Any, Final

from monarch.actor import Actor, concurrent_endpoint, current_rank, endpoint

from ... import installation
from ...client.log_client import LogClient
from ...client.relay.repeated_calls import SILENT_SEC, RenewedCalls
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

_LOOK_SEC: Final = 1.0
_CARRIED_SEC: Final = 5.0
"""Seconds without a `take` after which a relay whose process exits leaves the rest to the next one."""

_CRASHED: Final = re.compile(r"crashed_ranks=\[([\d, ]+)\]")
_END: Final = re.compile(r"Killed\(sig=(?P<signal>\d+)|exited with non-zero code (?P<code>\d+)")

clients: weakref.WeakValueDictionary[str, LogClient] = weakref.WeakValueDictionary()
"""Clients of this process, by the token of their mesh."""


class SupervisorActor(Actor):
    """Owns the other actors, in the attaching process, so that the exit of one does not end the program."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._relays: dict[str, tuple[Any, Any]] = {}  # by host

    @endpoint
    def begin(self, proc_mesh: Any) -> Any:
        """Start a `WorkerActor` in every proc."""
        return proc_mesh.spawn(MEMBERS, WorkerActor)

    @endpoint
    def begin_relay(self, proc: Any, host: str, address: str) -> Any:
        """Start a relay on the host of a proc, in a new process that outlives the proc."""
        procs = proc.host_mesh.spawn_procs(name="meshlog")
        relay = procs.spawn("meshlog_relay", RelayActor, address)
        self._relays[host] = procs, relay
        return relay

    @endpoint
    def end_relay(self, host: str, timeout: float) -> None:
        """Stop the process of a relay, which only its creator can do. It may have ended."""
        if host in self._relays:
            self._relays[host][0].stop().get(timeout)
            del self._relays[host]

    @endpoint
    def end_relays(self, timeout: float) -> None:
        """Stop the processes of all relays."""
        for stopped in [procs.stop() for procs, _ in self._relays.values()]:
            stopped.get(timeout)

    def __supervise__(self, failure: Any) -> bool:
        """Report exits of procs to the client. Monarch checks every ten seconds, and gives the cause only as text."""
        text, client = repr(failure), clients.get(self._token)
        crashed, end = _CRASHED.search(text), _END.search(text)
        if client is not None and failure.mesh_name.startswith(f"{MEMBERS}-") and crashed is not None and end is not None:
            exitcode = -int(end["signal"]) if end["signal"] else int(end["code"])
            for rank in map(int, crashed[1].split(",")):
                client.report_exit(self._token, rank, exitcode)
                for _, relay in tuple(self._relays.values()):
                    with contextlib.suppress(Exception):  # it was killed: the client has the report
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
        self._calls = RenewedCalls(lambda: HostRelay(client_address, carried=self._is_carried))
        threading.Thread(target=self._watch, name="meshlog-relay-watch", daemon=True).start()

    def _watch(self) -> None:
        """Leave if nothing is carried any more, so that the procs notice it. Another tunnel starts another relay."""
        left: HostRelay | None = None
        while True:
            time.sleep(_LOOK_SEC)
            relay = self._calls.relay
            if relay is not left and self._calls.silent_sec >= SILENT_SEC:
                left = relay
                relay.leave()

    def _is_carried(self) -> bool:
        return self._calls.silent_sec < _CARRIED_SEC

    @concurrent_endpoint
    async def address(self) -> str:
        """Return the address that the procs of this host join."""
        return await MeshFuture.run(lambda: self._calls.relay.address, "relay-address")

    @concurrent_endpoint
    async def take(self, tunnel: int, number: int, timeout: float) -> bytes | None:
        """Return bytes for the client: b"" if there are none in time, None if the relay or the tunnel has ended."""
        try:
            return await MeshFuture.run(lambda: self._calls.take(tunnel, number, timeout), "relay-take")
        except ClosedError:
            return None

    @concurrent_endpoint
    async def give(self, tunnel: int, number: int, data: bytes) -> bool:
        """Accept bytes from the client; return False if the relay or the tunnel has ended."""
        try:
            await MeshFuture.run(lambda: self._calls.give(tunnel, number, data), "relay-give")
        except ClosedError:
            return False
        return True

    @concurrent_endpoint
    async def report_exit(self, token: str, rank: int, exitcode: int) -> None:
        """Report the exit of a proc."""
        self._calls.relay.report_exit(token, rank, exitcode)

    @concurrent_endpoint
    async def close(self, timeout: float) -> None:
        """Forward pending data, and stop."""
        await MeshFuture.run(lambda: self._calls.relay.close(timeout), "relay-close")


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
