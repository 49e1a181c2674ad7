"""Hosts of a Dask cluster that cannot reach the client's socket: a relay in each nanny there, or in a worker without a nanny.

::

    worker -> HostRelay in its nanny -- take, give: messages through the scheduler -- TunnelClient, in the client's process

A nanny outlives a killed worker, so the relay still has the worker's last records. When Dask closes a connection, for instance
because the network was cut, a message is sent again. After a long cut, Dask ends the nanny: the relay in the next one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Any, Final

from distributed.protocol.pickle import dumps

from ...client.relay.repeated_calls import SILENT_SEC, RenewedCalls, RepeatingCalls
from ...client.relay.tunnel import HostRelay, Tunnel
from ...errors import ClosedError, ConnectError
from ...mesh.future import MeshFuture
from ...system.diagnostics import diagnose

TAKE_SEC: Final = 20.0
"""Seconds that `take` waits for bytes. An idle relay costs the scheduler one message in this time."""

_ANNOUNCE_SEC: Final = 0.5

_hosts: dict[tuple[str, str], NannyRelay] = {}


async def relay_address(worker: Any, name: str, client_address: str) -> str:
    """Return the address of the relay that a worker joins; start the relay if needed. Raise `ConnectError` on failure."""
    if not worker.nanny:
        return await host_relay(name, client_address, worker)
    fields = dumps({"name": name, "client_address": client_address})
    response = await worker.rpc(worker.nanny).run(function=dumps(host_relay), kwargs=fields, wait=True)
    if response["status"] != "OK":
        raise ConnectError(f"the nanny at {worker.nanny} cannot run a relay for this worker: {response['exception_text']}")
    return str(response["result"])


async def host_relay(name: str, client_address: str, dask_worker: Any) -> str:
    """Return the address of the relay in this nanny or worker; start the relay if needed. Dask passes `dask_worker` by name."""
    key = name, dask_worker.address
    if key not in _hosts:
        _hosts[key] = NannyRelay(name, client_address, dask_worker)
    return await _hosts[key].address()


class NannyRelay:
    """A relay, with message handlers in the nanny or worker (`server`) whose process and event loop it uses.

    `name` is unique to one client's logging: the topic that announces the relay, and the prefix of its messages.
    """

    # Each blocking call uses a new thread. The loop's executor has few threads: with several nannies and several clients in a
    # process, all of them could wait in `take`, with none left for `give`.

    def __init__(self, name: str, client_address: str, server: Any) -> None:
        self._name = name
        self._server = server
        carried = asyncio.get_running_loop().is_running
        self._calls = RenewedCalls(lambda: HostRelay(client_address, carried=carried))
        for handler in (self.take, self.give, self.close):
            server.handlers[f"{name}_{handler.__name__}"] = handler
        self._watching = asyncio.ensure_future(self._watch())

    async def address(self) -> str:
        """Return the relay's address when the relay has connected to the client."""
        await self._announce()  # also if it has: its tunnel may have ended
        announcing = asyncio.ensure_future(self._announce_again())
        try:
            return await MeshFuture.run(lambda: self._calls.relay.address, "relay-address")
        finally:
            announcing.cancel()

    async def take(self, tunnel: int, number: int, timeout: float) -> bytes | None:
        """Return bytes for the client; None if the relay has ended and all bytes were returned."""
        try:
            return await MeshFuture.run(lambda: self._calls.take(tunnel, number, timeout), "relay-take")
        except ClosedError:
            if self._calls.is_latest(tunnel):
                self._unregister()
            return None

    async def give(self, tunnel: int, number: int, data: bytes) -> bool:
        """Accept bytes from the client; return False if the relay has ended."""
        try:
            await MeshFuture.run(lambda: self._calls.give(tunnel, number, data), "relay-give")
        except ClosedError:
            return False
        return True

    async def close(self, timeout: float) -> None:
        """Forward pending data, and stop. `take` returns the rest."""
        await MeshFuture.run(lambda: self._calls.relay.close(timeout), "relay-close")

    async def _announce(self) -> None:
        await self._server.scheduler.log_event(topic=self._name, msg=self._server.address)

    async def _announce_again(self) -> None:
        # The client may not have subscribed yet.
        while True:
            await asyncio.sleep(_ANNOUNCE_SEC)
            await self._announce()

    async def _watch(self) -> None:
        while self._calls.silent_sec < SILENT_SEC:
            await asyncio.sleep(SILENT_SEC / 10)
        await MeshFuture.run(self._calls.relay.leave, "relay-leave")
        self._unregister()

    def _unregister(self) -> None:
        self._watching.cancel()
        _hosts.pop((self._name, self._server.address), None)
        for name in ("take", "give", "close"):
            self._server.handlers.pop(f"{self._name}_{name}", None)


class TunnelClient:
    """The client's end of the tunnel to a relay in the nanny or worker at `server`. Any thread may create and close it.

    `number` is 1 for the first tunnel to that server, and grows with each that takes the place of one that has ended.
    """

    def __init__(self, client: Any, name: str, client_address: str, server: str, *, number: int) -> None:
        self.number = number
        self._client = client
        self._name = name
        self._server = server
        self._calls = RepeatingCalls(partial(self._ask, tunnel=number), self._goes_on)
        self._tunnel = Tunnel(
            client_address, take=lambda timeout: self._calls.take(max(timeout, TAKE_SEC)), give=self._calls.give
        ).start()

    @property
    def ended(self) -> bool:
        """Whether nothing is transferred any more."""
        return self._tunnel.ended

    def close(self, timeout: float) -> None:
        """Stop the relay, and receive its remaining data. Never raises."""
        try:
            if not self._tunnel.ended:  # else the host may be gone, and a connection to it would be awaited
                self._ask("close", timeout=timeout)
                self._tunnel.wait(timeout)
        except Exception as failure:  # Dask may raise anything if the client, the scheduler or the host has ended
            diagnose(f"the relay at {self._server} did not stop cleanly: {type(failure).__name__}: {failure}")
        finally:
            self.cut()

    def cut(self) -> None:
        """Close the tunnel: the Dask client has ended."""
        self._calls.end()
        self._tunnel.close()

    def _goes_on(self) -> bool:
        """Return whether the scheduler still knows the nanny or the worker: not if it was killed."""
        if self._tunnel.ended or self._client.status == "closed":
            return False
        with contextlib.suppress(Exception):  # the client has no connection to the scheduler at present
            workers = self._client.sync(self._client.scheduler.identity)["workers"]
            return any(self._server in (address, worker["nanny"]) for address, worker in workers.items())
        return True

    def _ask(self, what: str, **fields: Any) -> Any:
        message = {"op": f"{self._name}_{what}", **fields}
        # To forward a message, the scheduler accepts the address of any server as a worker.
        responses = self._client.sync(self._client.scheduler.broadcast, msg=message, workers=[self._server])
        return responses[self._server]
