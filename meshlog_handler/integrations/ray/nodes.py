"""Relays on Ray nodes that cannot reach the client's socket: an actor on each node runs a relay and transfers its bytes.

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

from ...client.relay.attempts import Attempts
from ...client.relay.tunnel import HostRelay, Tunnel, reachable
from ...errors import ClosedError
from ...system.diagnostics import diagnose
from ...system.waits import capped, deadline_after, monotonic
from .hook import UNHOOKED
from .worker import NAMESPACE, key_of

MARKS: Final = (r"^:(job_id|task_name|actor_name):",)
"""Lines that tell Ray's log monitor the source of the next lines. They are not shown."""

_POLL_SEC: Final = 1.0
_START_SEC: Final = 60.0
_CLOSE_SEC: Final = 1.0


class _NodeRelay:
    """The actor on a node."""

    def __init__(self) -> None:
        self._relay: HostRelay | None = None

    def start(self, client_address: str, forced: bool) -> bool:
        """Start the relay; return False if the client is reachable from here and `forced` is not set."""
        if not forced and reachable(client_address):
            return False
        self._relay = HostRelay(client_address, hide=MARKS)
        return True

    def address(self) -> str:
        return self._running_relay.address

    def take(self, timeout: float) -> bytes:
        return self._running_relay.take(timeout)

    def give(self, data: bytes) -> None:
        self._running_relay.give(data)

    def close(self, timeout: float) -> None:
        self._running_relay.close(timeout)

    @property
    def _running_relay(self) -> HostRelay:
        assert self._relay is not None
        return self._relay


class NodeRelays:
    """The relays of a job. A thread starts relays on nodes that join later, and replaces relays that were killed.

    A node on which none could be started is tried again after a pause. With `forced`, every node gets one.
    """

    def __init__(self, job: str, address: str, forced: bool) -> None:
        self._job = job
        self._address = address
        self._options = {"num_cpus": 0, "max_concurrency": 8, "runtime_env": UNHOOKED}
        self._forced = forced
        # The driver's node can reach the client, even if the path of the socket differs on other nodes.
        self._known: set[str] = set() if forced else {ray.get_runtime_context().get_node_id()}
        self._relays: list[tuple[str, Any, Tunnel]] = []
        self._attempts = Attempts()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meshlog-ray-nodes", daemon=True)

    def start(self) -> None:
        """Start relays on the existing nodes; return when workers can join them."""
        self._start_on_new_nodes()
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Make the relays forward pending data, and stop them."""
        deadline = deadline_after(timeout + _CLOSE_SEC)
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(capped(timeout))
        relays = [(actor, tunnel, self._begin_close(node, actor, timeout)) for node, actor, tunnel in self._relays]
        for actor, tunnel, closing in relays:
            # The node or Ray may have ended before, or may end meanwhile. The tunnel is closed in any case.
            with contextlib.suppress(Exception):
                if closing is not None and ray.is_initialized():  # else the call would start a new Ray
                    ray.get(closing, timeout=max(0.0, deadline - monotonic()))
                    tunnel.wait(max(_CLOSE_SEC, deadline - monotonic()))
                    ray.kill(actor)
            tunnel.close()

    def _begin_close(self, node: str, actor: Any, timeout: float) -> Any:
        """Ask a relay to forward pending data and to stop; return Ray's reference to the answer, or None."""
        with contextlib.suppress(Exception):  # as above
            internal_kv._internal_kv_del(key_of(self._job, node), namespace=NAMESPACE)
            return actor.close.remote(timeout) if ray.is_initialized() else None
        return None

    def _watch(self) -> None:
        while not self._ending.wait(_POLL_SEC) and ray.is_initialized():
            try:
                self._remove_ended()
                self._start_on_new_nodes()
            except Exception as failure:  # an error of the cluster, which may be ending
                diagnose(f"recently added nodes may have no relay: {type(failure).__name__}: {failure}")

    def _remove_ended(self) -> None:
        """Forget relays that were killed or cannot be reached. Their nodes get others, which go on with their workers."""
        for each in [each for each in self._relays if each[2].ended]:
            self._relays.remove(each)
            node, actor, tunnel = each
            tunnel.close()
            with contextlib.suppress(Exception):  # it has ended
                ray.kill(actor)
            self._known.discard(node)

    def _start_on_new_nodes(self) -> None:
        """Start relays on new nodes, on all of them in parallel."""
        living = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        self._attempts.keep(living)
        now = monotonic()
        new = [node for node in living if node not in self._known and self._attempts.due(node, now)]
        make = ray.remote(_NodeRelay).options
        actors = {
            node: make(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False), **self._options).remote()
            for node in new
        }
        started = {node: actor.start.remote(self._address, self._forced) for node, actor in actors.items()}
        for node, actor in actors.items():
            try:
                self._finish(node, actor, started[node])
                self._known.add(node)
                self._attempts.succeeded(node)
            except Exception as failure:  # an error of the node, which may have ended
                self._give_up(node, actor, failure)

    def _give_up(self, node: str, actor: Any, failure: Exception) -> None:
        """Stop an actor whose relay has not started in time. The node is tried again after a pause."""
        for each in [each for each in self._relays if each[1] is actor]:
            self._relays.remove(each)
            each[2].close()
        with contextlib.suppress(Exception):  # it has ended
            ray.kill(actor)
        then = self._attempts.failed(node, monotonic())
        diagnose(f"node {node} has no relay: {type(failure).__name__}: {failure}; {then}")

    def _finish(self, node: str, actor: Any, started: Any) -> None:
        """Publish the address of the relay of a node, if the node needs one."""
        if not ray.get(started, timeout=_START_SEC):
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
    """Call a method of an actor. Without a time limit, Ray raises when the node of the actor has ended."""
    if not ray.is_initialized():  # otherwise the call would start a new Ray
        raise ClosedError("Ray has ended")
    return ray.get(method.remote(*args), timeout=within)
