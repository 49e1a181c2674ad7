"""Monarch: this process shows what the procs of a Monarch `ProcMesh` log and print, as records with ranks and coordinates.

::

    attach -> SupervisorActor, in this process
           -> WorkerActor, in every proc: joins the client, or on another host the relay there
           -> RelayActor, on other hosts: transfers bytes with the endpoints `take` and `give` (see `relays`)

On the client's machine, frames bypass Monarch: its endpoints only report which procs join, leave and exit.
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

from ... import settings
from ...mesh.future import MeshFuture
from ...mesh.manager import LoggingManager
from ...mesh.shape import Shape
from ...system.waits import monotonic
from .actors import SupervisorActor, clients
from .relays import HostLink, HostLinks

if TYPE_CHECKING:
    from ...client.log_client import LogClient
    from ...mesh.control import LoggingMeshClient
    from ...output.named_handlers import ShownBy

T = TypeVar("T")

_JOIN_SEC: Final = 60.0
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
        Records have its ranks and coordinates.
    handlers : iterable of logging.Handler or None
        The handlers that show the records in this process; None is the console.
    log_dir : str or None
        Directory for a complete file per rank and stream.
    stream_log_to_client : bool
        Whether to show what the procs log and print; `LoggingMeshClient.set_mode` changes it.
    relay : bool
        Whether every host has a relay, not only those that need one.

    Returns
    -------
    MeshFuture of LoggingMeshClient
        Its `drain_and_stop` detaches: the procs log as before. Keep a reference: collecting it also detaches.

    Notes
    -----
    While attached, the output of the procs does not reach Monarch's own forwarding, so nothing is shown twice.
    """
    stream_log_to_client = settings.check_flag(stream_log_to_client, "stream_log_to_client")
    relay = settings.check_flag(relay, "relay")
    manager = LoggingManager(handlers, log_dir)  # created here, to belong to the running cell of a notebook
    mesh = AttachedMesh(proc_mesh, relay)

    def work() -> LoggingMeshClient:
        try:
            client = manager.init(mesh, stream_log_to_client)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
                mesh.leave(_FAILED_SEC)
            raise
        client.on_stop(mesh.leave)
        mesh.watch_for(client.client)
        return client

    return MeshFuture.run(work, "attach")


class AttachedMesh:
    """The `Engine` of a Monarch `ProcMesh`."""

    def __init__(self, proc_mesh: Any, relay: bool) -> None:
        self.token = f"monarch-{os.urandom(6).hex()}"
        self.coords = Shape.of(dict(proc_mesh.sizes)).coords
        self._proc_mesh = proc_mesh
        self._relay = relay
        self._context = contextvars.copy_context()  # it identifies the calling actor to Monarch
        self._client: LogClient | None = None
        self._supervisor: Any = None
        self._workers: Any = None
        self._hosts: list[str] = []  # by rank
        self._links = HostLinks()

    def join(self, address: str) -> None:
        """Make every proc join the client, or a relay on its host where needed."""
        self._run(self._join, address)

    def watch_for(self, client: LogClient) -> None:
        """Report exits of procs to `client`."""
        self._client = clients[self.token] = client

    def leave(self, timeout: float) -> None:
        """Detach every proc, then stop relays and actors. Takes at most `timeout` seconds."""
        # On a new thread: the caller may be in an event loop, and Monarch warns about blocking waits there.
        MeshFuture.run(partial(self._run, self._leave, monotonic() + timeout), "detach").get(timeout + 1.0)

    def _run(self, fn: Callable[..., T], *args: Any) -> T:
        return self._context.copy().run(fn, *args)

    def _join(self, address: str) -> None:
        self._supervisor = this_proc().spawn("meshlog_watch", SupervisorActor, self.token)
        self._workers = self._supervisor.begin.call_one(self._proc_mesh).get(_JOIN_SEC)
        places = [place for _, place in self._workers.where.call(address).get(_JOIN_SEC)]
        self._hosts = hosts = [host for host, _ in places]
        addresses = dict.fromkeys(hosts, address)
        for rank, (host, near) in enumerate(places):
            if addresses[host] == address and (self._relay or not near):
                addresses[host] = self._start_relay(host, rank, address)
        of_ranks = [addresses[host] for host in hosts]
        self._workers.join.call(of_ranks, self.token, local_ranks(hosts)).get(_JOIN_SEC)
        self._links.watch()

    def _start_relay(self, host: str, rank: int, address: str) -> str:
        """Start a relay on the host of a rank, and a tunnel to it; return the relay's address."""
        proc = self._proc_mesh.slice(**self.coords[rank])
        return self._links.add(HostLink(host, supervisor=self._supervisor, proc=proc, client_address=address, run=self._run))

    def _leave(self, deadline: float) -> None:
        def left() -> float:
            return max(0.1, deadline - monotonic())

        with contextlib.ExitStack() as last_first:  # each runs even if others fail
            if self._supervisor is not None:
                last_first.callback(lambda: self._supervisor.stop().get(left()))
                last_first.callback(lambda: self._supervisor.end_relays.call_one(left()).get(left()))
            last_first.callback(self._links.close, deadline)
            if self._workers is not None:
                # A call would wait until Monarch detects exited procs; the client has already detected them.
                for members in self._reached():
                    members.leave.broadcast()
                self._wait_for_end(deadline)

    def _reached(self) -> list[Any]:
        """Return the actors in all procs, without hosts that were lost: for a message to these, Monarch ends the program."""
        lost = {rank for rank, host in enumerate(self._hosts) if self._links.lacks(host)}
        if not lost:
            return [self._workers]
        return [self._workers.slice(**self.coords[rank]) for rank in range(len(self._hosts)) if rank not in lost]

    def _wait_for_end(self, deadline: float) -> None:
        while self._alive() and monotonic() < deadline:
            time.sleep(0.01)

    def _alive(self) -> bool:
        return self._client is not None and any(rank.alive for rank in self._client.stats().values())


def local_ranks(hosts: Iterable[str]) -> list[int]:
    """Return, for the host of each rank, the index of the rank among the ranks of that host."""
    seen = Counter[str]()
    numbers = []
    for host in hosts:
        numbers.append(seen[host])
        seen[host] += 1
    return numbers
