"""Monarch: what the procs of its `ProcMesh` log and print is shown here, as records, with their ranks and coordinates.

::

    attach -> Watch, in this process -> Member in every proc: joins the client, or on a far host the Relay there
                                     -> Relay on far hosts:   its bytes travel by `take` and `give`, which are endpoints

On the client's machine, frames go past Monarch: its endpoints and ports carry who joins, who leaves and who died.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from monarch.actor import this_proc

from ...errors import ClosedError
from ...mesh.future import MeshFuture
from ...mesh.manager import LoggingManager
from ...mesh.shape import Shape
from ...system.waits import monotonic
from ..tunnel import Tunnel
from .actors import SupervisorActor, clients

if TYPE_CHECKING:
    from ...client.log_client import LogClient
    from ...mesh.control import LoggingMeshClient
    from ...output.named_handlers import ShownBy

T = TypeVar("T")

_JOIN_SEC: Final = 60.0
_ANSWER_SEC: Final = 30.0
_FAILED_SEC: Final = 2.0


def attach(
    proc_mesh: Any,
    handlers: Iterable[ShownBy] | None = None,
    *,
    log_dir: str | os.PathLike[str] | None = None,
    stream_log_to_client: bool = True,
    relay: bool = False,
) -> MeshFuture[LoggingMeshClient]:
    """Show here what the procs of a Monarch `ProcMesh`, or of a slice of one, log and print.

    Parameters
    ----------
    proc_mesh : monarch.actor.ProcMesh
        Its ranks and coordinates are those of the records.
    handlers : iterable of logging.Handler or None
        What shows the records in this process; None is the console.
    log_dir : str or None
        Directory for a complete file per rank and stream.
    stream_log_to_client : bool
        Whether what the procs log and print is shown; `LoggingMeshClient.set_mode` changes it.
    relay : bool
        Whether every host has a relay, and not only those that need one.

    Returns
    -------
    MeshFuture of LoggingMeshClient
        Its `drain_and_stop` detaches: the procs go on as they were before. Keep it: once it is collected, it does so, too.

    Notes
    -----
    While attached, what the procs print does not reach Monarch's own forwarding, which therefore shows nothing twice.
    """
    manager = LoggingManager(handlers, log_dir)  # here: in a notebook it is the running cell's
    mesh = AttachedMesh(proc_mesh, relay)

    def work() -> LoggingMeshClient:
        try:
            client = manager.attach(mesh, stream_log_to_client)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong before is what counts
                mesh.leave(_FAILED_SEC)
            raise
        client.on_stop(mesh.leave)
        mesh.watch_for(client.client)
        return client

    return MeshFuture.run(work, "attach")


class AttachedMesh:
    """A `ProcMesh` as the `Engine` of its logging.

    Parameters
    ----------
    proc_mesh : monarch.actor.ProcMesh
        The procs.
    relay : bool
        See `attach`.
    """

    def __init__(self, proc_mesh: Any, relay: bool) -> None:
        self.token = f"monarch-{os.urandom(6).hex()}"
        self.coords = Shape.of(dict(proc_mesh.sizes)).coords
        self._proc_mesh = proc_mesh
        self._relay = relay
        self._context = contextvars.copy_context()  # it says on behalf of which actor Monarch is called
        self._client: LogClient | None = None
        self._watch: Any = None
        self._members: Any = None
        self._relays: list[tuple[Any, Tunnel]] = []

    def join(self, address: str) -> None:
        """Let every proc join: the client, or a relay on its host where that is needed."""
        self._run(self._join, address)

    def watch_for(self, client: LogClient) -> None:
        """Tell `client` how procs end."""
        self._client = clients[self.token] = client

    def leave(self, timeout: float) -> None:
        """Let every proc leave, then end relays and actors. Takes `timeout` seconds at most."""
        # On a thread of its own: whoever detaches may be in an event loop, and Monarch complains of those who wait there.
        MeshFuture.run(partial(self._run, self._leave, monotonic() + timeout), "detach").get(timeout + 1.0)

    def _run(self, fn: Callable[..., T], *args: Any) -> T:
        return self._context.copy().run(fn, *args)

    def _join(self, address: str) -> None:
        self._watch = this_proc().spawn("meshlog_watch", SupervisorActor, self.token)
        self._members = self._watch.begin.call_one(self._proc_mesh).get(_JOIN_SEC)
        places = [place for _, place in self._members.where.call(address).get(_JOIN_SEC)]
        hosts = [host for host, _ in places]
        addresses = dict.fromkeys(hosts, address)
        for rank, (host, near) in enumerate(places):
            if addresses[host] == address and (self._relay or not near):
                addresses[host] = self._start_relay(rank, address)
        of_ranks = [addresses[host] for host in hosts]
        self._members.join.call(of_ranks, self.token, local_ranks(hosts)).get(_JOIN_SEC)

    def _start_relay(self, rank: int, address: str) -> str:
        """Start a relay on the host of a rank, and a tunnel to it; return the relay's address."""
        proc = self._proc_mesh.slice(**self.coords[rank])
        relay = self._watch.begin_relay.call_one(proc, address).get(_JOIN_SEC)

        def take(timeout: float) -> bytes:
            data: bytes | None = self._run(lambda: relay.take.call_one(timeout).get(_ANSWER_SEC))
            if data is None:
                raise ClosedError("the relay has ended")
            return data

        def give(data: bytes) -> None:
            if not self._run(lambda: relay.give.call_one(data).get(_ANSWER_SEC)):
                raise ClosedError("the relay has ended")

        self._relays.append((relay, Tunnel(address, take, give).start()))
        relay_address: str = relay.address.call_one().get(_JOIN_SEC)
        return relay_address

    def _leave(self, deadline: float) -> None:
        def left() -> float:
            return max(0.1, deadline - monotonic())

        def close(relay: Any) -> None:
            relay.close.call_one(left()).get(left())

        with contextlib.ExitStack() as last_first:  # each is done whatever becomes of the others
            if self._watch is not None:
                last_first.callback(lambda: self._watch.stop().get(left()))
                last_first.callback(lambda: self._watch.end_relays.call_one(left()).get(left()))
            for relay, tunnel in self._relays:
                last_first.callback(tunnel.close)
                last_first.callback(close, relay)
            if self._members is not None:
                # A call would wait until Monarch knows who is dead; the client knows it now.
                self._members.leave.broadcast()
                while self._alive() and monotonic() < deadline:
                    time.sleep(0.01)

    def _alive(self) -> bool:
        return self._client is not None and any(rank.alive for rank in self._client.stats().values())


def local_ranks(hosts: Iterable[str]) -> list[int]:
    """Return, for the host of each rank, the rank's number among those of that host."""
    seen = Counter[str]()
    numbers = []
    for host in hosts:
        numbers.append(seen[host])
        seen[host] += 1
    return numbers
