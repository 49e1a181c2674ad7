"""Ray: the driver shows what tasks and actors log and print, on all nodes of a cluster.

::

    ray.init()
    logs = attach()                  # for tasks submitted, and actors created, from here on
    logs.set_level("DEBUG", "app")   # as on any mesh
    logs.drain_and_stop()            # optional: it ends with the driver

Worker processes join as they start, each with a separate rank. Their output is not written to the files that Ray monitors,
so ``log_to_driver`` shows nothing twice.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Iterable
from typing import Any, Final

import ray
from ray.experimental import internal_kv
from ray.util.client import ray as ray_client

from ... import settings
from ...errors import SettingError
from ...mesh.control import LoggingMeshClient
from ...output.formatter import MeshFormatter
from ...output.named_handlers import ShownBy
from ...system.diagnostics import diagnose
from .. import attach as attach_engine
from .hook import hook_in, hook_off, is_hooked
from .nodes import MARKS, NodeRelays
from .worker import NAMESPACE, join_actor, key_of, process_name

PREFIX: Final = "[{rank} {coords[node]}/{coords[actor]}] "
"""Prefix of a line on the console: rank, node and actor. The worker of a task has a dash in place of the actor."""

_FAILED_SEC: Final = 1.0
_ACTORS_SEC: Final = 5.0

_attached: dict[str, tuple[_Job, LoggingMeshClient]] = {}


def attach(
    handlers: Iterable[ShownBy] | None = None,
    *,
    log_dir: str | os.PathLike[str] | None = None,
    actors: Iterable[Any] = (),
    hooked: bool = False,
    relay: bool = False,
) -> LoggingMeshClient:
    """Show here, on the driver, what the worker processes of this job log and print.

    Parameters
    ----------
    handlers : iterable of logging.Handler or None
        The handlers that show the records in this process; None is the console, with rank, node and actor before each line.
    log_dir : str or path or None
        Directory for a complete file per rank and stream.
    actors : iterable of actor handles
        Existing actors, of this job or another, that join now. A busy actor joins after its current call. `attach` waits up
        to 5 seconds, and a message on stderr names each actor that has not joined, with the reason.
    hooked : bool
        Whether the job's own ``worker_process_setup_hook`` calls `join`.
    relay : bool
        Whether all workers join a relay on their node, even those that can reach this process.

    Returns
    -------
    LoggingMeshClient
        Its `drain_and_stop` detaches. A second call returns the same object; `handlers`, if given, replace the current ones,
        and `actors` join.

    Raises
    ------
    SettingError
        If Ray is not initialised here, or no longer accepts a hook; the message gives the remedy.

    Notes
    -----
    Worker processes get ranks in the order in which they join. Processes that Ray started earlier do not join: later tasks
    run in new processes.
    """
    hooked, relay = settings.check_flag(hooked, "hooked"), settings.check_flag(relay, "relay")
    if not ray.is_initialized():
        raise SettingError("Ray is not initialised in this process. Call ray.init() before attach().")
    if ray_client.is_connected():
        raise SettingError("this process uses Ray Client (ray://), and its driver is another process. Call attach() there.")
    driver = process_name()
    for other in set(_attached) - {driver}:
        _attached.pop(other)[1].drain_and_stop()  # attached to a cluster that this process has left
    if driver in _attached and _attached[driver][1].client.running:
        job, logs = _attached[driver]
        if handlers is not None:
            logs.client.set_handlers(tuple(handlers))
        job.join_actors(actors)
        return logs
    atexit.unregister(_detach_all)
    atexit.register(_detach_all)  # registered after Ray's handler, to run before it: relays must still be reachable
    job = _Job(actors, hooked, relay)
    logs = attach_engine(job, job.leave, handlers, log_dir, MARKS)
    _attached[driver] = job, logs
    if logs.client.console is not None and settings.prefix_with_rank():
        logs.client.console.setFormatter(MeshFormatter(prefix=PREFIX))
    return logs


def _detach_all() -> None:
    while _attached:
        _attached.popitem()[1][1].drain_and_stop()


class _Job:
    """The `Engine` of the job of this driver."""

    coords = None

    def __init__(self, actors: Iterable[Any], hooked: bool, relay: bool) -> None:
        context = ray.get_runtime_context()
        self.token = os.urandom(8).hex()
        self._job: str = context.get_job_id()
        self._driver = process_name()
        self._actors = tuple(actors)
        self._hooked = hooked or is_hooked()
        self._relay = relay
        self._relays: NodeRelays | None = None

    def join(self, address: str) -> None:
        """Publish the address of the client, and make new workers join."""
        entry = json.dumps({"address": address, "token": self.token, "relay": self._relay})
        internal_kv._internal_kv_put(key_of(self._job), entry.encode(), namespace=NAMESPACE)
        self._relays = NodeRelays(self._job, address, self._relay)
        try:
            if not self._hooked:
                hook_in(self._driver)
            self._relays.start()
            self.join_actors(self._actors)
        except BaseException:
            self.leave(_FAILED_SEC)
            raise

    def join_actors(self, actors: Iterable[Any]) -> None:
        """Make existing actors join; report those that have not joined within a few seconds."""
        asked = {actor.__ray_call__.remote(join_actor, self._job, self.token): actor for actor in actors}
        done, busy = ray.wait(list(asked), num_returns=len(asked), timeout=_ACTORS_SEC) if asked else ([], [])
        for each in busy:
            diagnose(f"{asked[each]} is busy. It joins, and its logs are shown, after its current call.")
        for each in done:
            try:
                joined = ray.get(each)
            except ray.exceptions.RayError as failure:  # the actor has died, or restarts
                reason = str(failure).partition("\n")[0]
                diagnose(f"{asked[each]} did not join: {reason} Call attach(actors=[...]) again when it works.")
            else:
                if not joined:
                    diagnose(f"{asked[each]} did not join: it forwards to another client, or cannot reach this one.")

    def leave(self, timeout: float) -> None:
        """Stop workers from joining, and stop the relays. Joined workers detach when they lose the client."""
        _attached.pop(self._driver, None)
        hook_off(self._driver)
        if self._connected:
            internal_kv._internal_kv_del(key_of(self._job), namespace=NAMESPACE)
        if self._relays is not None:
            self._relays.close(timeout if self._connected else 0.0)

    @property
    def _connected(self) -> bool:
        return bool(ray.is_initialized() and process_name() == self._driver)
