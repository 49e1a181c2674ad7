"""Ray, nodes from which the client's socket cannot be reached: an actor on each holds a relay, and carries its bytes.

::

    workers -> HostRelay, in an actor without a CPU on their node -- Ray's own messages --> Tunnel, in the driver
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Final

import ray
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...errors import ClosedError
from ...system.diagnostics import diagnose
from ...system.waits import capped
from ..tunnel import HostRelay, Tunnel, reachable
from .hook import UNHOOKED
from .worker import NAMESPACE, key_of

MARKS: Final = (r"^:(job_id|task_name|actor_name):",)
"""Lines by which Ray tells its own log monitor whose the next ones are: nobody else need see them."""

_LOOK_SEC: Final = 1.0
_START_SEC: Final = 60.0


class _NodeRelay:
    """The actor."""

    def __init__(self) -> None:
        self._relay: HostRelay | None = None

    def start(self, client_address: str, forced: bool) -> bool:
        """Begin; False if there is no need: the client can be reached from here."""
        if not forced and reachable(client_address):
            return False
        self._relay = HostRelay(client_address, hide=MARKS)
        return True

    def address(self) -> str:
        return self._its_relay.address

    def take(self, timeout: float) -> bytes:
        return self._its_relay.take(timeout)

    def give(self, data: bytes) -> None:
        self._its_relay.give(data)

    def close(self, timeout: float) -> None:
        self._its_relay.close(timeout)

    @property
    def _its_relay(self) -> HostRelay:
        assert self._relay is not None
        return self._relay


class NodeRelays:
    """The relays of a job. A thread finds the nodes that join later.

    Parameters
    ----------
    job : str
        Its id, under which the workers of a node find their relay.
    address : str
        The client's.
    forced : bool
        A relay on every node, whether it is needed or not.
    """

    def __init__(self, job: str, address: str, forced: bool) -> None:
        self._job = job
        self._address = address
        self._options = {"num_cpus": 0, "max_concurrency": 8, "runtime_env": UNHOOKED}
        self._forced = forced
        # The driver's own node reaches the client, whatever its socket's directory is called elsewhere.
        self._known: set[str] = set() if forced else {ray.get_runtime_context().get_node_id()}
        self._relays: list[tuple[str, Any, Tunnel]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meshlog-ray-nodes", daemon=True)

    def start(self) -> None:
        """Begin on the nodes that there are; returns when their relays can be joined."""
        self._look()
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Let the relays pass on what is pending, and end them."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(capped(timeout))
        for node, actor, tunnel in self._relays:
            # The node, or all of Ray, may have ended before, or end meanwhile: the tunnel is closed all the same.
            with contextlib.suppress(Exception):
                internal_kv._internal_kv_del(key_of(self._job, node), namespace=NAMESPACE)
                _ask(actor.close, timeout, within=timeout + 1.0)
                tunnel.wait(timeout)
                ray.kill(actor)
            tunnel.close()

    def _watch(self) -> None:
        while not self._ending.wait(_LOOK_SEC) and ray.is_initialized():
            try:
                self._look()
            except Exception as failure:  # the cluster's, which may be about to end
                diagnose(f"nodes that joined lately may have no relay: {type(failure).__name__}: {failure}")

    def _look(self) -> None:
        """Start relays on new nodes, on all of them at once."""
        new = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self._known]
        if not new:
            return
        self._known.update(new)
        make = ray.remote(_NodeRelay).options
        actors = {
            node: make(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False), **self._options).remote()
            for node in new
        }
        begun = {node: actor.start.remote(self._address, self._forced) for node, actor in actors.items()}
        for node, actor in actors.items():
            try:
                self._finish(node, actor, begun[node])
            except Exception as failure:  # the node's, which may have gone already
                diagnose(f"node {node} has no relay: {type(failure).__name__}: {failure}")

    def _finish(self, node: str, actor: Any, begun: Any) -> None:
        """Let the workers of a node know its relay, if it needs one."""
        if not ray.get(begun, timeout=_START_SEC):
            ray.kill(actor)
            return
        self._relays.append((node, actor, self._tunnel(actor)))
        address = ray.get(actor.address.remote(), timeout=_START_SEC)
        internal_kv._internal_kv_put(key_of(self._job, node), address.encode(), namespace=NAMESPACE)

    def _tunnel(self, actor: Any) -> Tunnel:
        return Tunnel(
            self._address,
            take=lambda timeout: bytes(_ask(actor.take, timeout)),
            give=lambda data: _ask(actor.give, data),
        ).start()


def _ask(method: Any, *args: Any, within: float | None = None) -> Any:
    """Call a method of an actor. Without a limit, Ray says when its node has died."""
    if not ray.is_initialized():  # else the call would start a Ray of its own
        raise ClosedError("Ray has ended")
    return ray.get(method.remote(*args), timeout=within)
