"""Ray: what tasks and actors log and print, on all nodes of a cluster, is shown by the driver.

::

    ray.init()
    logs = attach()                  # for tasks submitted, and actors made, from here on
    logs.set_level("DEBUG", "app")   # as on any mesh
    logs.drain_and_stop()            # or never: it ends with the driver

Their worker processes join as they start, each as a rank of its own. What they print is no longer in the files that Ray
follows, so that ``log_to_driver`` shows nothing a second time.
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
from .worker import NAMESPACE, join_actor, key_of, this_process
from .worker import join as join

PREFIX: Final = "[{rank} {coords[node]}/{coords[actor]}] "
"""What stands before a line on the console: rank, node and actor; a task's worker has a dash in place of an actor."""

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
        What shows the records in this process; None is the console, with rank, node and actor before each line.
    log_dir : str or path or None
        Directory for a complete file per rank and stream.
    actors : iterable of actor handles
        Actors that were made before, by this job or another: they join now. Those that are busy join after their call; they
        are waited for up to 5 seconds, and a message on stderr says which have not joined, and why.
    hooked : bool
        The job's own ``worker_process_setup_hook`` calls `join`.
    relay : bool
        Let all workers join a relay on their node, those that could reach this process as well.

    Returns
    -------
    LoggingMeshClient
        Its `drain_and_stop` detaches. To attach once more is to get the same again; `handlers`, if given, take the place
        of those there are, and `actors` join.

    Raises
    ------
    SettingError
        If Ray is not initialised here, or cannot be given a hook any more; the message says what to do.

    Notes
    -----
    Ranks are given in the order in which worker processes join. Processes that Ray had started before are left to
    themselves: tasks from here on run in new ones.
    """
    if not ray.is_initialized():
        raise SettingError("Ray does not run in this process. Call ray.init() before attach().")
    if ray_client.is_connected():
        raise SettingError("this process is a Ray Client's (ray://), its driver runs elsewhere. Attach where that runs.")
    driver = this_process()
    for other in set(_attached) - {driver}:
        _attached.pop(other)[1].drain_and_stop()  # of a cluster that this process has left
    if driver in _attached and _attached[driver][1].client.running:
        job, logs = _attached[driver]
        if handlers is not None:
            logs.client.set_handlers(tuple(handlers))
        job.join_actors(actors)
        return logs
    atexit.unregister(_end)
    atexit.register(_end)  # after Ray's own, so that it runs before that: relays must still be reached
    job = _Job(actors, hooked, relay)
    logs = attach_engine(job, job.leave, handlers, log_dir, MARKS)
    _attached[driver] = job, logs
    if logs.client.console is not None and settings.prefix_with_rank():
        logs.client.console.setFormatter(MeshFormatter(prefix=PREFIX))
    return logs


def _end() -> None:
    while _attached:
        _attached.popitem()[1][1].drain_and_stop()


class _Job:
    """The job of this driver, as an engine."""

    coords = None

    def __init__(self, actors: Iterable[Any], hooked: bool, relay: bool) -> None:
        context = ray.get_runtime_context()
        self.token = os.urandom(8).hex()
        self._job: str = context.get_job_id()
        self._driver = this_process()
        self._actors = tuple(actors)
        self._hooked = hooked or is_hooked()
        self._relay = relay
        self._relays: NodeRelays | None = None

    def join(self, address: str) -> None:
        """Let workers know the client, and start to join."""
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
        """Let existing actors join; report those that have not joined after a few seconds."""
        asked = {actor.__ray_call__.remote(join_actor, self._job, self.token): actor for actor in actors}
        done, busy = ray.wait(list(asked), num_returns=len(asked), timeout=_ACTORS_SEC) if asked else ([], [])
        for each in busy:
            diagnose(f"{asked[each]} is busy. What it logs is shown once its call has ended and it has joined.")
        for each in done:
            if not ray.get(each):
                diagnose(f"{asked[each]} has not joined: it forwards to another client, or cannot reach this one.")

    def leave(self, timeout: float) -> None:
        """Let no more workers join, and end the relays. Those that joined leave when they see the client go."""
        _attached.pop(self._driver, None)
        hook_off(self._driver)
        if self._connected:
            internal_kv._internal_kv_del(key_of(self._job), namespace=NAMESPACE)
        if self._relays is not None:
            self._relays.close(timeout if self._connected else 0.0)

    @property
    def _connected(self) -> bool:
        return bool(ray.is_initialized() and this_process() == self._driver)
