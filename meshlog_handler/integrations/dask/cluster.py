"""Dask: the process with the `distributed.Client` shows what the workers of the cluster log and print.

::

    logs = attach(client)            # every worker, and those that join later
    logs.set_level("DEBUG", "app")   # as on any mesh
    logs.drain_and_stop()            # optional: it ends with the process

A plug-in in every worker joins it to the client. Workers that are threads of the client's process do not need this: their
records are handled there like all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from distributed import WorkerPlugin

from ... import settings
from ...client.relay.tunnel import reachable
from ...errors import ConnectError
from ...installation import enlist, uninstall
from ...mesh.control import LoggingMeshClient
from ...mesh.future import MeshFuture
from ...output.named_handlers import ShownBy
from ...system.diagnostics import diagnose
from ...worker import this_process
from ...worker.member import JoinOptions
from .. import attach as attach_engine
from ..console_handover import ConsoleHandover
from .hosts import TunnelClient, relay_address

_TOPICS: Final = ("print", "warn")
_STAGGER_SEC: Final = 0.1
_FAILED_SEC: Final = 5.0
_START_SEC: Final = 2.0
_AGAIN_SEC: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""The seconds between a worker's attempts to join a relay."""

_attached: weakref.WeakKeyDictionary[Any, LoggingMeshClient] = weakref.WeakKeyDictionary()
_join_lock = threading.Lock()  # only one plug-in of this process joins or leaves at a time
_joined: list[tuple[WorkerLogging, JoinOptions]] = []
"""The plug-ins that have joined this worker process to their clients. It forwards to the client of the last one."""
_handover: ConsoleHandover | None = None


def attach(
    client: Any,
    handlers: Iterable[ShownBy] | None = None,
    *,
    log_dir: str | os.PathLike[str] | None = None,
    relay: bool = False,
) -> Any:
    """Show here what the workers of a cluster log and print, including workers that join later.

    Parameters
    ----------
    client : distributed.Client
        Client of the cluster.
    handlers : iterable of logging.Handler or None
        The handlers that show the records in this process; None is the console.
    log_dir : str or path or None
        Directory for a complete file per rank and stream.
    relay : bool
        Make workers of this machine join relays, as workers of other machines do.

    Returns
    -------
    LoggingMeshClient
        Its `drain_and_stop` detaches. With an asynchronous client, a `MeshFuture` of it, to be awaited. A second call returns
        the same object; `handlers`, if given, replace the current ones.

    Raises
    ------
    ConnectError
        If a worker cannot join. No worker is then attached.

    Notes
    -----
    Workers get ranks in the order in which they join; the name of a worker is its coordinate "worker". The output of
    `distributed.print` and `distributed.warn` is shown once, from the worker: Dask's own forwarding, including
    `Client.forward_logging`, is paused meanwhile. In the workers, so are the console handlers of ``distributed`` and other
    loggers, because their records are forwarded as records.
    """
    relay = settings.check_flag(relay, "relay")
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
    logs = _attached[client] = attach_engine(cluster, cluster.leave, handlers, log_dir)
    return logs


class Cluster:
    """The `Engine` of a Dask cluster. Any thread may call it, except the client's event loop.

    It refers weakly to the Dask client, so that collecting the client ends the forwarding.
    """

    coords = None  # workers come and go

    def __init__(self, client: Any, relay: bool) -> None:
        self.token = f"meshlog_{os.urandom(6).hex()}"
        self._client = weakref.ref(client)
        self._relay = relay
        self._tunnels: dict[str, TunnelClient] = {}

    def join(self, address: str) -> None:
        """Make every worker join the client at `address`, including workers that start later."""
        client = self._client()
        assert client is not None

        def announced(event: tuple[float, str]) -> None:
            former = self._tunnels.get(event[1])
            if former is None or former.ended:
                number = 1 if former is None else former.number + 1
                self._tunnels[event[1]] = TunnelClient(client, self.token, address, event[1], number=number)

        client.subscribe_topic(self.token, announced)
        try:
            client.register_plugin(WorkerLogging(self.token, address, self._relay), name=self.token)
        except BaseException:
            self.leave(_FAILED_SEC)
            raise
        for topic in _TOPICS:
            client.unsubscribe_topic(topic)

    def leave(self, timeout: float) -> None:
        """Make every worker log as before. Waits for that, except on the client's event loop."""
        client = self._client()
        if client is None or client.status != "running":
            for tunnel in self._tunnels.values():
                tunnel.cut()
            return  # the workers detach when their connections close
        left = MeshFuture.run(lambda: self._leave(client, timeout), "detach")
        if client.asynchronous:
            return  # waiting on the event loop would be a deadlock
        try:
            left.get(timeout)
        except TimeoutError:
            diagnose(f"some workers did not detach within {timeout:.3g} s.")

    def _leave(self, client: Any, timeout: float) -> None:
        try:
            client.unregister_worker_plugin(self.token)
            client.unsubscribe_topic(self.token)
            for topic in _TOPICS:
                client.subscribe_topic(topic, client._event_handlers[topic])
        except Exception as failure:  # the scheduler or a worker has ended: that also detaches workers
            diagnose(f"not all workers could be detached: {type(failure).__name__}: {failure}")
        # All at once: Dask takes 30 seconds to find that it cannot connect to a nanny that was killed.
        for closing in [MeshFuture.run(partial(tunnel.close, timeout), "detach") for tunnel in self._tunnels.values()]:
            with contextlib.suppress(TimeoutError):  # `leave` reports it
                closing.get(timeout)


class WorkerLogging(WorkerPlugin):  # type: ignore[misc]  # distributed is Any to the type checker
    """Joins a worker to the client, and detaches it. Pickled: each worker has a copy."""

    def __init__(self, name: str, address: str, relay: bool) -> None:
        self._name = name
        self._address = address
        self._relay = relay
        self._client_pid = os.getpid()
        self._joining: asyncio.Task[None] | None = None
        self._ended = False

    async def setup(self, worker: Any) -> None:
        """Join without blocking the worker's event loop."""
        near = reachable(self._address)
        if near and os.getpid() == self._client_pid:
            return  # a thread of the client's own process
        self._relay = self._relay or not near
        if not self._relay:
            await MeshFuture.run(lambda: self._join(self._address, worker), "join")
            return
        self._joining = asyncio.ensure_future(self._join_relay(worker))
        # While a worker starts, it handles no messages until this method returns, nor does a nanny that starts with it: then
        # neither could start the relay. `start` returns at once in a worker that has started, and else after this method.
        started = asyncio.ensure_future(worker.start())
        await asyncio.wait({self._joining}, timeout=_START_SEC)
        if started.done():
            await asyncio.wait({self._joining})
        else:
            started.cancel()
        if self._joining.done():
            self._joining.result()

    async def _join_relay(self, worker: Any) -> None:
        for pause in (*_AGAIN_SEC, None):
            address = await relay_address(worker, self._name, self._address)
            try:
                await MeshFuture.run(partial(self._join, address, worker), "join")
                return
            except ConnectError:
                if pause is None:
                    raise
            await asyncio.sleep(pause)  # another relay may just be taking the place of this one

    async def teardown(self, worker: Any) -> None:
        """Detach: the worker logs as before."""
        await MeshFuture.run(lambda: self._leave(worker), "leave")

    def _join(self, address: str, worker: Any) -> None:
        with _join_lock:
            if self._ended:
                return
            options = JoinOptions(address, mesh=self._name, coords={"worker": str(worker.name)}, capture=True)
            _joined.append((self, options))
            if not self._forward(options, worker):
                self._stop_forwarding(worker)
                raise ConnectError(f"worker {worker.name} cannot join the client")

    def _forward(self, options: JoinOptions, worker: Any) -> bool:
        """Make this process forward with these options, whatever it did before; return False if it cannot."""
        global _handover
        if _handover is None:
            _handover = ConsoleHandover(_is_dasks_forwarding)
        enlist(options)
        member = this_process.current()
        if member is None or member.options.address != options.address:
            return False
        member.when_lost(lambda: worker.loop.add_callback(self._handle_lost_client, worker))
        _handover.take()
        return True

    def _leave(self, worker: Any) -> None:
        with _join_lock:
            self._ended = True
            if any(plugin is self for plugin, _ in _joined):
                self._stop_forwarding(worker)

    def _stop_forwarding(self, worker: Any) -> None:
        """Stop forwarding to this client. Forward to the previous client instead, if it is reachable."""
        global _handover
        forwarded = _joined[-1][0] is self
        _joined[:] = [(plugin, options) for plugin, options in _joined if plugin is not self]
        if not forwarded:
            return  # the process forwards to another client by now
        member = this_process.current()
        if member is not None:
            member.restore_levels()  # before the handover restores the levels of its loggers
        if _handover is not None:
            _handover.give_back()
            _handover = None
        uninstall()
        for plugin, options in reversed(_joined):
            if plugin._forward(options, worker):
                return

    async def _handle_lost_client(self, worker: Any) -> None:
        """Detach after a lost client. The first worker to do so unregisters the plug-in, and so detaches all others."""
        member = this_process.current()
        order = 1 + (member.rank or 0) if member is not None else 0
        await MeshFuture.run(lambda: self._leave(worker), "leave")
        await asyncio.sleep(_STAGGER_SEC * order)
        with contextlib.suppress(Exception):  # the nanny or the scheduler has ended, or another worker was faster
            if self._relay and worker.nanny:
                await worker.rpc(worker.nanny).identity()  # raises if the nanny, and not the client, has ended
            if self._name in worker.plugins and not reachable(self._address):
                await worker.scheduler.unregister_worker_plugin(name=self._name)


def _is_dasks_forwarding(handler: logging.Handler) -> bool:
    return type(handler).__module__ == "distributed.diagnostics.plugin"
