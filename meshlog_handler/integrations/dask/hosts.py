"""Hosts of a Dask cluster that the client's socket does not reach: a relay in each nanny there, or worker without one.

::

    worker -> HostRelay in its nanny -- take, give: messages through the scheduler -- Way, in the client's process

A nanny outlives the worker that is killed, and so the relay keeps what that one said last.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

from distributed.protocol.pickle import dumps

from ...errors import ClosedError, ConnectError
from ...mesh.future import MeshFuture
from ...system.diagnostics import diagnose
from ...system.waits import monotonic
from ..tunnel import HostRelay, Tunnel

TAKE_SEC: Final = 20.0
"""How long a `take` waits for bytes: an idle relay costs the scheduler one message in this time."""

SILENT_SEC: Final = 60.0
"""When nobody has come for bytes this long, the client is gone."""

_ANNOUNCE_SEC: Final = 0.5

_hosts: dict[tuple[str, str], NannyRelay] = {}


async def relay_address(worker: Any, name: str, client_address: str) -> str:
    """Return the address of the relay that a worker joins; it begins with the first that asks for it.

    Raises
    ------
    ConnectError
        If it cannot join the client.
    """
    if not worker.nanny:
        return await host_relay(name, client_address, worker)
    fields = dumps({"name": name, "client_address": client_address})
    answer = await worker.rpc(worker.nanny).run(function=dumps(host_relay), kwargs=fields, wait=True)
    if answer["status"] != "OK":
        raise ConnectError(f"the nanny at {worker.nanny} has no relay for this worker: {answer['exception_text']}")
    return str(answer["result"])


async def host_relay(name: str, client_address: str, dask_worker: Any) -> str:
    """Run a relay in this nanny, or worker, if there is none yet; return its address. `dask_worker` is Dask's name for it."""
    key = name, dask_worker.address
    if key not in _hosts:
        _hosts[key] = NannyRelay(name, client_address, dask_worker)
    return await _hosts[key].address()


class NannyRelay:
    """A relay, and what it needs of the nanny, or the worker, that it lives in. On the event loop of that.

    Each call that blocks has a thread of its own. The loop's executor has few threads: with several nannies in a process,
    and several clients, all of them would wait in `take`, and none would be left for `give`.

    Parameters
    ----------
    name : str
        Of all that belongs to one client's logging: the topic under which the relay is announced, the messages it answers.
    client_address : str
        The client's.
    server : distributed.Nanny or distributed.Worker
        Which answers the messages.
    """

    def __init__(self, name: str, client_address: str, server: Any) -> None:
        self._name = name
        self._server = server
        self._relay = HostRelay(client_address)
        self._heard = monotonic()
        for answer in (self.take, self.give, self.close):
            server.handlers[f"{name}_{answer.__name__}"] = answer
        self._watching = asyncio.ensure_future(self._watch())

    async def address(self) -> str:
        """Return the relay's address, when the client has it."""
        announcing = asyncio.ensure_future(self._announce())
        try:
            return await MeshFuture.run(lambda: self._relay.address, "relay-address")
        finally:
            announcing.cancel()

    async def take(self, timeout: float) -> bytes | None:
        """Return bytes for the client; None when all was taken, and the relay has ended."""
        self._heard = monotonic() + timeout
        try:
            return await MeshFuture.run(lambda: self._relay.take(timeout), "relay-take")
        except ClosedError:
            self._forget()
            return None

    async def give(self, data: bytes) -> bool:
        """Take in bytes from the client; return whether there still is a relay for them."""
        try:
            await MeshFuture.run(lambda: self._relay.give(data), "relay-give")
        except ClosedError:
            return False
        return True

    async def close(self, timeout: float) -> None:
        """Pass on what is pending, and end. `take` brings the rest."""
        await MeshFuture.run(lambda: self._relay.close(timeout), "relay-close")

    async def _announce(self) -> None:
        # Over and over: the client may not have subscribed by the first time.
        while True:
            await self._server.scheduler.log_event(topic=self._name, msg=self._server.address)
            await asyncio.sleep(_ANNOUNCE_SEC)

    async def _watch(self) -> None:
        while monotonic() - self._heard < SILENT_SEC:
            await asyncio.sleep(SILENT_SEC / 10)
        await self.close(0.0)
        self._forget()

    def _forget(self) -> None:
        self._watching.cancel()
        _hosts.pop((self._name, self._server.address), None)
        for name in ("take", "give", "close"):
            self._server.handlers.pop(f"{self._name}_{name}", None)


class TunnelClient:
    """The client's end of the way to a relay. Made and closed by any thread; the rest is the tunnel's.

    Parameters
    ----------
    client : distributed.Client
        By which messages are sent.
    name, client_address : str
        As of `NannyRelay`.
    server : str
        The address of the nanny, or worker, that the relay lives in.
    """

    def __init__(self, client: Any, name: str, client_address: str, server: str) -> None:
        self._client = client
        self._name = name
        self._server = server
        self._ended = threading.Event()
        self._tunnel = Tunnel(client_address, self._take, self._give).start()

    def close(self, timeout: float) -> None:
        """Let the relay end, and bring what it had. Never raises."""
        try:
            self._ask("close", timeout=timeout)
            self._ended.wait(timeout)
        except Exception as failure:  # whatever Dask raises where the client, the scheduler or the host has gone
            diagnose(f"the relay at {self._server} could not be ended in order: {type(failure).__name__}: {failure}")
        finally:
            self._tunnel.close()

    def cut(self) -> None:
        """Carry no more: the Dask client has gone."""
        self._tunnel.close()

    def _take(self, timeout: float) -> bytes:
        data = self._ask("take", timeout=max(timeout, TAKE_SEC))
        if data is None:
            self._ended.set()
            raise ClosedError("the relay has ended")
        return bytes(data)

    def _give(self, data: bytes) -> None:
        if not self._ask("give", data=data):
            raise ClosedError("the relay has ended")

    def _ask(self, what: str, **fields: Any) -> Any:
        message = {"op": f"{self._name}_{what}", **fields}
        # To the scheduler a server is a worker wherever it only passes messages on.
        answers = self._client.sync(self._client.scheduler.broadcast, msg=message, workers=[self._server])
        return answers[self._server]
