"""Dask: what the workers of a cluster log and print is shown by the process that has the `distributed.Client`.

::

    logs = attach(client)            # every worker, and those that join later
    logs.set_level("DEBUG", "app")   # as on any mesh
    logs.drain_and_stop()            # or never: it ends with the process

A plug-in runs in every worker and joins it to the client. Workers that are threads of the client's own process need none of
this: they log there as everything else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Iterable
from typing import Any, Final

from distributed import WorkerPlugin

from ... import integrations
from ...errors import ConnectError
from ...installation import enlist, uninstall
from ...mesh.control import LoggingMeshClient
from ...mesh.future import MeshFuture
from ...output.named_handlers import ShownBy
from ...system.diagnostics import diagnose
from ...worker import membership
from ..console_handover import ConsoleHandover
from ..tunnel import reachable
from .hosts import TunnelClient, relay_address

_TOPICS: Final = ("print", "warn")
_TURN_SEC: Final = 0.1
_FAILED_SEC: Final = 5.0
_START_SEC: Final = 2.0

_attached: weakref.WeakKeyDictionary[Any, LoggingMeshClient] = weakref.WeakKeyDictionary()
_turn = threading.Lock()  # one plug-in of this process at a time joins, or leaves
_wanting: list[tuple[WorkerLogging, membership.JoinOptions]] = []
"""The plug-ins that have joined this process, a worker's, to their clients. It forwards to that of the last one."""
_handover: ConsoleHandover | None = None


def attach(
    client: Any,
    handlers: Iterable[ShownBy] | None = None,
    *,
    log_dir: str | os.PathLike[str] | None = None,
    relay: bool = False,
) -> Any:
    """Show here what the workers of a cluster log and print; those that join later, too.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    handlers : iterable of logging.Handler or None
        What shows the records in this process; None is the console.
    log_dir : str or path or None
        Directory for a complete file per rank and stream.
    relay : bool
        Let the workers of this machine join relays, as those of other machines do.

    Returns
    -------
    LoggingMeshClient
        Its `drain_and_stop` detaches. With an asynchronous client, a `MeshFuture` of it, to be awaited. To attach once
        more is to get the same again; `handlers`, if given, take the place of those there are.

    Raises
    ------
    ConnectError
        If a worker cannot join. Nothing is attached then.

    Notes
    -----
    Ranks are given in the order in which workers join; a worker's name is its coordinate "worker". What
    `distributed.print` and `distributed.warn` say comes once, from the worker; Dask's own ways of bringing it here,
    `Client.forward_logging` included, pause meanwhile. So do, in the workers, the console handlers of ``distributed`` and
    other loggers: their records come as records.
    """
    if client.asynchronous:
        return MeshFuture.run(lambda: _attach(client, handlers, log_dir, relay), "attach")
    return _attach(client, handlers, log_dir, relay)


def _attach(
    client: Any, handlers: Iterable[ShownBy] | None, log_dir: str | os.PathLike[str] | None, relay: bool
) -> LoggingMeshClient:
    logs = _attached.get(client)
    if logs is not None and logs.client.running:
        if handlers is not None:
            logs.client.set_handlers(tuple(handlers))
        return logs
    cluster = Cluster(client, relay)
    logs = _attached[client] = integrations.attach(cluster, cluster.leave, handlers, log_dir)
    return logs


class Cluster:
    """What a cluster offers to get its logging (see `Engine`). Any thread may call it, but not the client's event loop.

    Parameters
    ----------
    client : distributed.Client
        Kept by a weak reference: whose client is collected wants no logs of its workers.
    relay : bool
        See `attach`.
    """

    coords = None  # workers come and go

    def __init__(self, client: Any, relay: bool) -> None:
        self.token = f"meshlog_{os.urandom(6).hex()}"
        self._client = weakref.ref(client)
        self._relay = relay
        self._ways: dict[str, TunnelClient] = {}

    def join(self, address: str) -> None:
        """Let every worker join the client at `address`: those there are, and those that come."""
        client = self._client()
        assert client is not None

        def announced(event: tuple[float, str]) -> None:
            if event[1] not in self._ways:
                self._ways[event[1]] = TunnelClient(client, self.token, address, event[1])

        client.subscribe_topic(self.token, announced)
        try:
            client.register_plugin(WorkerLogging(self.token, address, self._relay), name=self.token)
        except BaseException:
            self.leave(_FAILED_SEC)
            raise
        for topic in _TOPICS:
            client.unsubscribe_topic(topic)

    def leave(self, timeout: float) -> None:
        """Let every worker log as it did before. Waits until they do, unless called by the client's event loop."""
        client = self._client()
        if client is None or client.status != "running":
            for way in self._ways.values():
                way.cut()
            return  # the workers learn from their connections that nobody is here any more
        left = MeshFuture.run(lambda: self._leave(client, timeout), "detach")
        if client.asynchronous:
            return  # to wait here would be to wait for oneself
        try:
            left.get(timeout)
        except TimeoutError:
            diagnose(f"the workers were told to log as before; some have not done so within {timeout:g} s.")

    def _leave(self, client: Any, timeout: float) -> None:
        try:
            client.unregister_worker_plugin(self.token)
            client.unsubscribe_topic(self.token)
            for topic in _TOPICS:
                client.subscribe_topic(topic, client._event_handlers[topic])
        except Exception as failure:  # the scheduler has gone, or a worker: that detaches them as well
            diagnose(f"the workers could not all be told to log as before: {type(failure).__name__}: {failure}")
        for way in self._ways.values():
            way.close(timeout)


class WorkerLogging(WorkerPlugin):  # type: ignore[misc]  # to the type checker, distributed is Any
    """Joins a worker to the client, and lets it leave. Travels by pickle; each worker has its own.

    Parameters
    ----------
    name : str
        Under which it is registered, and the mesh's token.
    address : str
        The client's.
    relay : bool
        See `attach`.
    """

    def __init__(self, name: str, address: str, relay: bool) -> None:
        self._name = name
        self._address = address
        self._relay = relay
        self._client_pid = os.getpid()
        self._joining: asyncio.Task[None] | None = None
        self._ended = False

    async def setup(self, worker: Any) -> None:
        """Join. The worker's event loop goes on meanwhile."""
        near = reachable(self._address)
        if near and os.getpid() == self._client_pid:
            return  # a thread of the client's own process
        self._relay = self._relay or not near
        if not self._relay:
            await MeshFuture.run(lambda: self._join(self._address, worker), "join")
            return
        self._joining = asyncio.ensure_future(self._join_relay(worker))
        # A worker without a nanny holds its relay itself, and one that is starting answers no messages before this returns.
        await asyncio.wait({self._joining}, timeout=None if worker.nanny else _START_SEC)
        if self._joining.done():
            self._joining.result()

    async def _join_relay(self, worker: Any) -> None:
        address = await relay_address(worker, self._name, self._address)
        await MeshFuture.run(lambda: self._join(address, worker), "join")

    async def teardown(self, worker: Any) -> None:
        """Leave: the worker logs as it did before."""
        await MeshFuture.run(lambda: self._leave(worker), "leave")

    def _join(self, address: str, worker: Any) -> None:
        with _turn:
            if self._ended:
                return
            options = membership.JoinOptions(address, mesh=self._name, coords={"worker": str(worker.name)}, capture=True)
            _wanting.append((self, options))
            if not self._forward(options, worker):
                self._step_down(worker)
                raise ConnectError(f"worker {worker.name} could not join the client")

    def _forward(self, options: membership.JoinOptions, worker: Any) -> bool:
        """Let this process forward on these terms, whatever it did before; False if it cannot."""
        global _handover
        if _handover is None:
            _handover = ConsoleHandover(_is_dasks_forwarding)
        enlist(options)
        member = membership.current()
        if member is None or member.options.address != options.address:
            return False
        member.when_lost(lambda: worker.loop.add_callback(self._step_back, worker))
        _handover.take()
        return True

    def _leave(self, worker: Any) -> None:
        with _turn:
            self._ended = True
            if any(plugin is self for plugin, _ in _wanting):
                self._step_down(worker)

    def _step_down(self, worker: Any) -> None:
        """Stop forwarding to this client. The process forwards to the client before it, if that can be reached."""
        global _handover
        forwarded = _wanting[-1][0] is self
        _wanting[:] = [(plugin, options) for plugin, options in _wanting if plugin is not self]
        if not forwarded:
            return  # it is another's by now
        member = membership.current()
        if member is not None:
            member.restore_levels()  # those of loggers that are given back their own, first
        if _handover is not None:
            _handover.give_back()
            _handover = None
        uninstall()
        for plugin, options in reversed(_wanting):
            if plugin._forward(options, worker):
                return

    async def _step_back(self, worker: Any) -> None:
        """The client has gone without a word. Whichever worker's turn comes first tells the scheduler, and so all others."""
        member = membership.current()
        turn = 1 + (member.rank or 0) if member is not None else 0
        await MeshFuture.run(lambda: self._leave(worker), "leave")
        await asyncio.sleep(_TURN_SEC * turn)
        with contextlib.suppress(Exception):  # the nanny or the scheduler has gone, or another was faster
            if self._relay and worker.nanny:
                await worker.rpc(worker.nanny).identity()  # it lives: it was not with the nanny that the relay has gone
            if self._name in worker.plugins and not reachable(self._address):
                await worker.scheduler.unregister_worker_plugin(name=self._name)


def _is_dasks_forwarding(handler: logging.Handler) -> bool:
    return type(handler).__module__ == "distributed.diagnostics.plugin"
