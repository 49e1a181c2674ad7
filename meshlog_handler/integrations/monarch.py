"""Monarch: what the procs of its `ProcMesh` log and print is shown here, as records, with their ranks and coordinates.

::

    attach(proc_mesh) -> _Watch, an actor in this process -> _Member, an actor in every proc, which joins the client

Frames go to the client past Monarch where both are on one machine; its endpoints carry who joins, who leaves and who died.
"""

from __future__ import annotations

import contextvars
import logging
import os
import re
import socket
import time
import weakref
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from monarch.actor import Actor, current_rank, endpoint, this_proc

from .. import membership, worker
from ..context import Identity
from ..handler import MeshHandler
from ..future import MeshFuture
from ..manager import LoggingManager
from ..mesh_client import LoggingMeshClient
from ..shape import Shape

if TYPE_CHECKING:
    from ..client import LogClient
    from ..named_handlers import ShownBy

_JOIN_SEC: Final = 60.0
_LEAVE_SEC: Final = 5.0
_CRASHED: Final = re.compile(r"crashed_ranks=\[([\d, ]+)\]")
_END: Final = re.compile(r"Killed\(sig=(?P<signal>\d+)|exited with non-zero code (?P<code>\d+)")

_attached: weakref.WeakValueDictionary[str, LoggingMeshClient] = weakref.WeakValueDictionary()


def attach(
    proc_mesh: Any,
    handlers: Iterable[ShownBy] | None = None,
    *,
    log_dir: str | os.PathLike[str] | None = None,
    stream_log_to_client: bool = True,
) -> MeshFuture[LoggingMeshClient]:
    """Show here what the procs of a Monarch `ProcMesh`, or of a slice of one, log and print.

    Parameters
    ----------
    proc_mesh : monarch.actor.ProcMesh
        Its ranks and coordinates are those of the records.
    handlers : iterable of logging.Handler or None
        What shows the records in this process; None is the console.
    log_dir : str or None
        Directory for a complete file per rank and stream.
    stream_log_to_client : bool
        Whether what the procs log and print is shown; `LoggingMeshClient.set_mode` changes it.

    Returns
    -------
    MeshFuture of LoggingMeshClient
        Its `drain_and_stop` detaches: the procs go on as they were before. Keep it: once it is collected, it does so, too.

    Notes
    -----
    While attached, what the procs print does not reach Monarch's own forwarding, which therefore shows nothing twice.
    """
    manager = LoggingManager(handlers, log_dir)
    context = contextvars.copy_context()  # it says on behalf of which actor Monarch is called
    return MeshFuture.run(lambda: context.run(_attach, proc_mesh, manager, stream_log_to_client), "attach")


def _attach(proc_mesh: Any, manager: LoggingManager, stream_log_to_client: bool) -> LoggingMeshClient:
    token = f"monarch-{os.urandom(6).hex()}"
    address = manager.prepare(token, Shape.of(proc_mesh.sizes).coords)
    client = _attached[token] = manager.client
    try:
        watch = this_proc().spawn("meshlog", _Watch, token)
        members = watch.begin.call_one(proc_mesh).get(_JOIN_SEC)
        client.before_end(partial(_detach, client.client, watch, members))
        hosts = [host for _, host in members.host.call().get(_JOIN_SEC)]
        members.join.call(address, token, local_ranks(hosts)).get(_JOIN_SEC)
        manager.init(stream_log_to_client)
    except BaseException:
        manager.stop(_LEAVE_SEC)
        raise
    return client


def _detach(client: LogClient, watch: Any, members: Any) -> None:
    # On a thread of its own: whoever detaches may be in an event loop, of which Monarch complains.
    MeshFuture.run(partial(_leave, client, watch, members), "detach").get(2 * _LEAVE_SEC)


def _leave(client: LogClient, watch: Any, members: Any) -> None:
    members.leave.broadcast()  # a call would wait until Monarch knows who is dead; the client knows it now
    deadline = time.monotonic() + _LEAVE_SEC
    while any(rank.alive for rank in client.stats().values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    watch.stop().get(_LEAVE_SEC)


class _Watch(Actor):
    """In the process that attaches: owns the members, so that the death of one is not the end of the program."""

    def __init__(self, token: str) -> None:
        self._token = token

    @endpoint
    def begin(self, proc_mesh: Any) -> Any:
        """Start a member in every proc."""
        self._members = proc_mesh.spawn("meshlog", _Member)
        return self._members

    def __supervise__(self, failure: Any) -> bool:
        """Tell the client how a proc ended; Monarch looks every ten seconds."""
        client = _attached.get(self._token)
        crashed, end = _CRASHED.search(repr(failure)), _END.search(repr(failure))
        if client is not None and crashed is not None and end is not None:
            exitcode = -int(end["signal"]) if end["signal"] else int(end["code"])
            for rank in crashed[1].split(","):
                client.client.report_exit(self._token, int(rank), exitcode)
        return True


class _Member(Actor):
    """In every proc: joins the client, and leaves it."""

    @endpoint
    def host(self) -> str:
        """Say where it is."""
        return socket.gethostname()

    @endpoint
    def join(self, address: str, token: str, local_ranks: list[tuple[int, int]]) -> None:
        """Forward what this proc logs and prints."""
        point = current_rank()
        local_rank, local_size = local_ranks[point.rank]
        self._token, self._level = token, logging.getLogger().level
        identity = Identity(point.rank, local_rank, len(local_ranks), local_size, dict(point), token)
        worker.join_mesh(address, identity, own_handlers=True, handler=_Handler)

    @endpoint
    def leave(self) -> None:
        """Be as before, unless somebody else has attached meanwhile."""
        member = membership.current()
        if member is not None and member.terms.mesh == self._token:
            worker.uninstall()
            logging.getLogger().setLevel(self._level)


class _Handler(MeshHandler):
    """Gets the message as it was logged: Monarch adds to every handler a filter that writes the actor in front of it.

    With the actor in it, no two ranks would log the same. It is an attribute, ``actor_prefix``, that Monarch sets as well.
    """

    def addFilter(self, filter: Any) -> None:
        """Add a filter; what it makes of the message, if it is Monarch's, is undone."""
        if type(filter).__module__.partition(".")[0] != "monarch":
            super().addFilter(filter)
        elif not any(isinstance(each, _Unprefixed) for each in self.filters):
            super().addFilter(_Unprefixed(filter))


class _Unprefixed(logging.Filter):
    def __init__(self, inner: logging.Filter) -> None:
        super().__init__()
        self._inner = inner

    def filter(self, record: logging.LogRecord) -> Any:
        msg, prefix = record.msg, getattr(record, "actor_prefix", None)
        if prefix and isinstance(msg, str):
            msg = msg.removeprefix(prefix)  # another handler has had it before
        passed = self._inner.filter(record)
        record.msg = msg
        return passed


def local_ranks(hosts: list[str]) -> list[tuple[int, int]]:
    """Return, for each rank, its number among those of its host, and how many these are."""
    sizes, seen = Counter(hosts), Counter[str]()
    ranks = []
    for host in hosts:
        ranks.append((seen[host], sizes[host]))
        seen[host] += 1
    return ranks
