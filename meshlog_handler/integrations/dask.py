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
from collections.abc import Callable, Iterable
from typing import Any, Final

from distributed import WorkerPlugin

from .. import membership, running
from ..capture import diagnose
from ..future import MeshFuture
from ..manager import LoggingManager
from ..mesh_client import LoggingMeshClient
from ..named_handlers import ShownBy
from ..worker import forward_root, uninstall
from .handover import Handover

_TOPICS: Final = ("print", "warn")
_TURN_SEC: Final = 0.1

_attached: weakref.WeakKeyDictionary[Any, LoggingMeshClient] = weakref.WeakKeyDictionary()
_turn = threading.Lock()  # one plug-in of this process at a time joins, or leaves


def attach(client: Any, handlers: Iterable[ShownBy] | None = None, *, log_dir: str | os.PathLike[str] | None = None) -> Any:
    """Show here what the workers of a cluster log and print; those that join later, too.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    handlers : iterable of logging.Handler or None
        What shows the records in this process; None is the console.
    log_dir : str or path or None
        Directory for a complete file per rank and stream.

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
    Ranks are given in the order in which workers join. What `distributed.print` and `distributed.warn` say comes once,
    from the worker; Dask's own ways of bringing it here, `Client.forward_logging` included, pause meanwhile. The console
    handlers of ``distributed`` and of other loggers pause in the workers, whose records come as records.
    """
    if client.asynchronous:
        return MeshFuture.run(lambda: _attach(client, handlers, log_dir), "attach")
    return _attach(client, handlers, log_dir)


def _attach(client: Any, handlers: Iterable[ShownBy] | None, log_dir: str | os.PathLike[str] | None) -> LoggingMeshClient:
    logs = _attached.get(client)
    if logs is not None and logs.client.running:
        if handlers is not None:
            logs.client.set_handlers(tuple(handlers))
        return logs
    manager = LoggingManager(handlers, log_dir)
    address = manager.prepare("", {})  # workers come and go, as guests do
    name = f"meshlog-{os.urandom(6).hex()}"
    manager.client.before_end(_Detach(client, name))
    try:
        client.register_plugin(WorkerLogging(name, address), name=name)
        for topic in _TOPICS:
            client.unsubscribe_topic(topic)
        manager.init(True)
    except BaseException:
        manager.stop()
        raise
    _attached[client] = manager.client
    return manager.client


class _Detach:
    """Takes the plug-in off the workers, when the logging of a cluster ends in this process."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = weakref.ref(client)
        self._name = name

    def __call__(self, timeout: float) -> None:
        client = self._client()
        if client is None or client.status != "running":
            return  # the workers learn from their connections that nobody is here any more
        detached = MeshFuture.run(lambda: self._detach(client), "detach")
        if client.asynchronous:
            return  # its event loop runs on this very thread, and would be waited for in vain
        try:
            detached.get(timeout)
        except TimeoutError:
            diagnose(f"the workers were told to log as before; some have not done so within {timeout:g} s.")

    def _detach(self, client: Any) -> None:
        try:
            client.unregister_worker_plugin(self._name)
            for topic in _TOPICS:
                client.subscribe_topic(topic, client._event_handlers[topic])
        except Exception as failure:  # the scheduler has gone, or a worker: that detaches them as well
            diagnose(f"the workers could not all be told to log as before: {type(failure).__name__}: {failure}")


class WorkerLogging(WorkerPlugin):  # type: ignore[misc]  # to the type checker, distributed is Any
    """Joins a worker to the client, and lets it leave. Travels by pickle; each worker has its own.

    Parameters
    ----------
    name : str
        Under which it is registered.
    address : str
        The client's.
    """

    def __init__(self, name: str, address: str) -> None:
        self._name = name
        self._address = address
        self._handover: Handover | None = None
        self._ended = False

    async def setup(self, worker: Any) -> None:
        """Join. The worker's event loop goes on meanwhile."""
        if not running.any_running():
            await asyncio.to_thread(self._join, lambda: worker.loop.add_callback(self._unregister, worker))

    async def teardown(self, worker: Any) -> None:
        """Leave: the worker logs as it did before."""
        await asyncio.to_thread(self._leave)

    def _join(self, lost: Callable[[], object]) -> None:
        with _turn:
            if self._ended:
                return
            self._handover = Handover(_is_dasks_forwarding)
            membership.join(membership.Terms(self._address, capture=True)).when_lost(lost)
            forward_root()
            self._handover.take()

    def _leave(self) -> None:
        with _turn:
            self._ended = True
            if self._handover is not None:
                self._handover.give_back()
                uninstall()

    async def _unregister(self, worker: Any) -> None:
        """The client is gone without a word. Whichever worker's turn comes first tells the scheduler, and so all others."""
        member = membership.current()
        await asyncio.sleep(_TURN_SEC * (1 + (member.rank or 0)) if member is not None else 0.0)
        if self._name in worker.plugins:
            with contextlib.suppress(Exception):  # it has gone, or was told meanwhile: the worker itself is seen to below
                await worker.scheduler.unregister_worker_plugin(name=self._name)
        if self._name in worker.plugins:
            await worker.plugin_remove(name=self._name)


def _is_dasks_forwarding(handler: logging.Handler) -> bool:
    return type(handler).__module__ == "distributed.diagnostics.plugin"

