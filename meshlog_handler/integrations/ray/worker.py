"""The Ray worker process: it joins the client of its job when it starts, and gets the name of the actor that it becomes.

::

    driver:  attach -> the job's entry in Ray's key-value store: address, token
    worker:  worker_process_setup_hook = join -> that entry -> the client's socket, or that of the relay on this node
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import ray
from ray.experimental import internal_kv

from ...client.relay.tunnel import reachable
from ...errors import ConnectError
from ...installation import enlist, uninstall
from ...system.diagnostics import diagnose
from ...system.waits import monotonic
from ...worker import this_process
from ...worker.member import JoinOptions, Membership
from ..console_handover import ConsoleHandover

JOIN: Final = f"{__name__}.join"
"""The import path of the function that Ray runs in a worker process before its first task."""

NAMESPACE: Final = b"meshlog"
_RELAY_SEC: Final = 30.0
_POLL_SEC: Final = 0.1

_handover: ConsoleHandover | None = None
_wraps: list[tuple[Any, str]] = []
_leave_lock = threading.Lock()


def key_of(job: str, node: str = "") -> bytes:
    """Return the key of a job's client, or of its relay on a node, in Ray's key-value store."""
    return f"{job}/{node}".encode()


def process_name() -> str:
    """Return a name of this process that is unique across clusters. Job and worker ids repeat; node ids do not."""
    context = ray.get_runtime_context()
    return f"{context.get_node_id()}/{context.get_worker_id()}"


def join() -> None:
    """Make this worker process forward its logs and output to the attached driver. Idempotent.

    Use it as ``ray.init(runtime_env={"worker_process_setup_hook": "meshlog_handler.integrations.ray.join"})``, with `attach`
    before the first task, or call it in a hook of the job. If no driver of the job has attached, or its client cannot be
    reached, the process logs as before.
    """
    _join_job(ray.get_runtime_context().get_job_id())


def _join_job(job: str) -> None:
    try:
        _join(job)
    except Exception as failure:  # Ray ends a worker whose hook fails
        diagnose(f"this worker does not forward its logs: {type(failure).__name__}: {failure}")


def join_actor(actor: object, job: str, token: str) -> bool:
    """Make the process of an actor of any job join this client; return whether it has. For ``__ray_call__``."""
    _join_job(job)
    member = this_process.current()
    if member is None or member.options.mesh != token:
        return False
    name = ray.get_runtime_context().get_actor_name() or type(actor).__name__
    member.relabel({**member.options.coords, "actor": name})
    return True


def _join(job: str) -> None:
    global _handover
    context = ray.get_runtime_context()
    node = context.get_node_id()
    entry = internal_kv._internal_kv_get(key_of(job), namespace=NAMESPACE)
    if entry is None or this_process.current() is not None:
        return
    values = json.loads(entry)
    address = values["address"]
    if values["relay"] or not reachable(address):
        address = _wait_for_relay(job, node)
    coords = {"node": next((each["NodeName"] for each in ray.nodes() if each["NodeID"] == node), node)}
    _handover = ConsoleHandover(lambda handler: False)
    enlist(JoinOptions(address, mesh=values["token"], coords=coords, capture=True))
    member = this_process.current()
    if member is not None:
        _label_with_actor(member)
        _handover.take()
        _remove_console_handlers(_handover)
        member.when_lost(_handle_lost_client)


def _wait_for_relay(job: str, node: str) -> str:
    """Return the address of the relay on this node; wait for it, because the driver starts it after it detects the node."""
    deadline = monotonic() + _RELAY_SEC
    while (address := internal_kv._internal_kv_get(key_of(job, node), namespace=NAMESPACE)) is None:
        if _has_ended(job):
            raise ConnectError("the driver of the job has ended")
        if monotonic() >= deadline:
            raise ConnectError(f"this node cannot reach the client, and has no relay after {_RELAY_SEC:g} s")
        time.sleep(_POLL_SEC)
    return str(address.decode())


def _has_ended(job: str) -> bool:
    """Return whether Ray knows that the driver of a job has ended for any reason."""
    jobs = getattr(ray._private.state, "jobs", list)  # private, as of Ray 2.60; the public one needs the dashboard
    return any(each["JobID"] == job and each["IsDead"] for each in jobs())


def _label_with_actor(member: Membership) -> None:
    """Label the records of the process with the name of its actor, as soon as Ray creates the actor."""
    context = ray.get_runtime_context()

    def loading(load: Callable[..., object]) -> Callable[..., object]:
        # Ray loads the class of an actor in the process that becomes the actor, before it creates the actor. It also loads
        # the class in processes that receive a handle; those have no actor name.
        def load_actor_class(job_id: object, descriptor: Any) -> object:
            name = context.get_actor_name()
            if name is not None and "actor" not in member.options.coords:
                member.relabel({**member.options.coords, "actor": name or descriptor.class_name})
            return load(job_id, descriptor)

        return load_actor_class

    _wrap(ray._private.worker.global_worker.function_actor_manager, "load_actor_class", loading)


def _remove_console_handlers(handover: ConsoleHandover) -> None:
    """Also remove the console handlers that Ray adds with the first task, for the `ray.LoggingConfig` of a job."""

    def configuring(configure: Callable[..., object]) -> Callable[..., object]:
        def configure_and_take(config: object) -> None:
            configure(config)
            handover.take()

        return configure_and_take

    module = sys.modules.get("ray._private.ray_logging.logging_config")
    _wrap(getattr(module, "_logging_configurator", None), "configure", configuring)


def _wrap(owner: Any, name: str, wrapped: Callable[[Callable[..., object]], Callable[..., object]]) -> None:
    """Wrap a method of one object. Ray 2.60 has no hooks for this; if the method does not exist, do nothing."""
    method = getattr(owner, name, None)
    if method is not None:
        setattr(owner, name, wrapped(method))
        _wraps.append((owner, name))


def _unwrap() -> None:
    while _wraps:
        delattr(*_wraps.pop())


def _handle_lost_client() -> None:
    """Detach after a lost client: log and print as before."""
    global _handover
    with _leave_lock:
        member = this_process.current()
        uninstall()
        _unwrap()
        if _handover is not None:
            _handover.give_back()
            _handover = None
        if member is not None and "actor" in member.options.coords:
            for stream in (sys.stdout, sys.stderr):  # Ray's own marker was not in the files that its log monitor reads
                print(f":actor_name:{member.options.coords['actor']}", file=stream)
