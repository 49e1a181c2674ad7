"""Ray, in a worker process: it joins the client of its job as it starts, and says which actor it becomes.

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

from ...errors import ConnectError
from ...installation import enlist, uninstall
from ...system.diagnostics import diagnose
from ...system.waits import monotonic
from ...worker import membership
from ..console_handover import ConsoleHandover
from ..tunnel import reachable

JOIN: Final = f"{__name__}.join"
"""What Ray runs in a worker process before its first task, as the name it is imported by."""

NAMESPACE: Final = b"meshlog"
_RELAY_SEC: Final = 30.0
_LOOK_SEC: Final = 0.1

_handover: ConsoleHandover | None = None
_wraps: list[tuple[Any, str]] = []
_turn = threading.Lock()


def key_of(job: str, node: str = "") -> bytes:
    """Return where a job's client, or its relay on a node, stands in Ray's key-value store."""
    return f"{job}/{node}".encode()


def this_process() -> str:
    """Return a name of this process that is unique across clusters: ids of jobs and workers repeat, those of nodes do not."""
    context = ray.get_runtime_context()
    return f"{context.get_node_id()}/{context.get_worker_id()}"


def join() -> None:
    """Let this worker process forward what it logs and prints to the driver that has attached. Idempotent.

    For ``ray.init(runtime_env={"worker_process_setup_hook": "meshlog_handler.integrations.ray.join"})``, with `attach` before
    the first task; or to be called in a hook of the job's own. Where no driver of the job has attached, or its client cannot
    be reached, the process goes on as it was.
    """
    _join_job(ray.get_runtime_context().get_job_id())


def _join_job(job: str) -> None:
    try:
        _join(job)
    except Exception as failure:  # Ray ends a worker whose hook fails
        diagnose(f"this worker keeps its logs to itself: {type(failure).__name__}: {failure}")


def join_actor(actor: object, job: str, token: str) -> bool:
    """Let the process of an actor, of whatever job, join the client of this one. For ``__ray_call__``; tell whether it has."""
    _join_job(job)
    member = membership.current()
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
    if entry is None or membership.current() is not None:
        return
    told = json.loads(entry)
    address = told["address"]
    if told["relay"] or not reachable(address):
        address = _relay_on(job, node)
    coords = {"node": next((each["NodeName"] for each in ray.nodes() if each["NodeID"] == node), node)}
    _handover = ConsoleHandover(lambda handler: False)
    enlist(membership.JoinOptions(address, mesh=told["token"], coords=coords, capture=True))
    member = membership.current()
    if member is not None:
        _say_who_it_becomes(member)
        _handover.take()
        _stay_off_the_console(_handover)
        member.when_lost(_leave)


def _relay_on(job: str, node: str) -> str:
    """Return the address of the relay on this node; the driver starts it when it learns of the node."""
    deadline = monotonic() + _RELAY_SEC
    while (address := internal_kv._internal_kv_get(key_of(job, node), namespace=NAMESPACE)) is None:
        if _has_ended(job):
            raise ConnectError("the driver of its job has ended")
        if monotonic() >= deadline:
            raise ConnectError(f"the client is out of reach of this node, and no relay stands here after {_RELAY_SEC:g} s")
        time.sleep(_LOOK_SEC)
    return str(address.decode())


def _has_ended(job: str) -> bool:
    """Tell whether Ray knows that a job's driver has ended, in order or not."""
    jobs = getattr(ray._private.state, "jobs", list)  # private, as of Ray 2.60; the public one needs the dashboard
    return any(each["JobID"] == job and each["IsDead"] for each in jobs())


def _say_who_it_becomes(member: membership.Membership) -> None:
    """Let the process be known by its actor's name as soon as Ray makes it one."""
    context = ray.get_runtime_context()

    def loading(load: Callable[..., object]) -> Callable[..., object]:
        # Ray loads an actor's class in the process that becomes one, before it makes the actor; and in those that get a
        # handle of one, which are told apart by having no actor's name.
        def load_actor_class(job_id: object, descriptor: Any) -> object:
            name = context.get_actor_name()
            if name is not None and "actor" not in member.options.coords:
                member.relabel({**member.options.coords, "actor": name or descriptor.class_name})
            return load(job_id, descriptor)

        return load_actor_class

    _wrap(ray._private.worker.global_worker.function_actor_manager, "load_actor_class", loading)


def _stay_off_the_console(handover: ConsoleHandover) -> None:
    """Take off the console handlers, too, that Ray makes with the first task, for a job's `ray.LoggingConfig`."""

    def configuring(configure: Callable[..., object]) -> Callable[..., object]:
        def configure_and_take(config: object) -> None:
            configure(config)
            handover.take()

        return configure_and_take

    module = sys.modules.get("ray._private.ray_logging.logging_config")
    _wrap(getattr(module, "_logging_configurator", None), "configure", configuring)


def _wrap(owner: Any, name: str, wrapped: Callable[[Callable[..., object]], Callable[..., object]]) -> None:
    """Let a method of one object do more. Ray 2.60 has no hooks for it; where these are not in their places, it is left out."""
    method = getattr(owner, name, None)
    if method is not None:
        setattr(owner, name, wrapped(method))
        _wraps.append((owner, name))


def _leave() -> None:
    """The client has gone: log and print as before."""
    global _handover
    with _turn:
        member = membership.current()
        uninstall()
        while _wraps:
            delattr(*_wraps.pop())
        if _handover is not None:
            _handover.give_back()
            _handover = None
        if member is not None and "actor" in member.options.coords:
            for stream in (sys.stdout, sys.stderr):
                print(f":actor_name:{member.options.coords['actor']}", file=stream)  # Ray's log monitor missed its own mark
