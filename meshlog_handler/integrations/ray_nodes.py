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

from ..capture import diagnose
from .hosts import HostRelay, Tunnel, reachable
from .ray_hook import UNHOOKED
from .ray_worker import NAMESPACE, key_of

MARKS: Final = (r"^:(job_id|task_name|actor_name):",)
"""Lines by which Ray tells its own log monitor whose the next ones are: nobody else need see them."""

_LOOK_SEC: Final = 1.0
_START_SEC: Final = 60.0


class _Relay:
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


class Relays:
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
            self._thread.join(timeout)
        for node, actor, tunnel in self._relays:
            # The node, or all of Ray, may have ended before: the tunnel is closed all the same.
            with contextlib.suppress(Exception):
                internal_kv._internal_kv_del(key_of(self._job, node), namespace=NAMESPACE)
                ray.get(actor.close.remote(timeout), timeout=timeout + 1.0)
                tunnel.wait(timeout)
            tunnel.close()
            with contextlib.suppress(Exception):  # see above
                ray.kill(actor)

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
        make = ray.remote(_Relay).options
        actors = {
            node: make(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False), **self._options).remote()
            for node in new
        }
        begun = [actor.start.remote(self._address, self._forced) for actor in actors.values()]
        for (node, actor), needed in zip(actors.items(), ray.get(begun, timeout=_START_SEC), strict=True):
            if needed:
                self._relays.append((node, actor, self._tunnel(actor)))
            else:
                ray.kill(actor)
        for node, actor, _ in self._relays:
            if node in actors:
                address = ray.get(actor.address.remote(), timeout=_START_SEC)
                internal_kv._internal_kv_put(key_of(self._job, node), address.encode(), namespace=NAMESPACE)

    def _tunnel(self, actor: Any) -> Tunnel:
        return Tunnel(
            self._address,
            take=lambda timeout: bytes(ray.get(actor.take.remote(timeout))),
            give=lambda data: ray.get(actor.give.remote(data)),
        ).start()
