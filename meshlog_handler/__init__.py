"""Logs of many Python processes, shown by one of them, through the standard library's `logging`.

Folders, from the bottom up. Each says in its ``__init__`` what lives there and what it may import:

- ``system``: descriptors, waits, forks, exits; ``protocol``: records and messages as data.
- ``journal``: records that the client does not have yet; ``transport``: how a worker and a client connect.
- ``grouping``, ``lines``, ``output``: similar lines, printed lines, how shown records look.
- ``worker``: the side that logs; ``dispatch`` and ``client``: the side that shows.
- ``handler``, ``installation``, ``console_handlers``: how a process takes part.
- ``notebook``, ``mesh``, ``integrations``, ``cli``, ``testing``: what is built on them.

A record: `handler` -> `worker.record_stream` -> `protocol.encode` -> `journal.writer` -> `worker.forwarder` ->
`transport.channel` -> `client.reactor` -> `client.peer` -> `protocol.decode` -> `dispatch.pacer` -> `dispatch.dispatcher` ->
`dispatch.sink` -> the handlers.

Every import is deferred until a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__
from .system.lazy_imports import load

if TYPE_CHECKING:
    from .client.log_client import LogClient as LogClient
    from .client.receipt import FlushReceipt as FlushReceipt
    from .client.relay import LogRelay as LogRelay
    from .client.stats import RankStats as RankStats
    from .errors import BusyError as BusyError
    from .errors import ClosedError as ClosedError
    from .errors import ConfigRefused as ConfigRefused
    from .errors import ConnectError as ConnectError
    from .errors import FlushTimeout as FlushTimeout
    from .errors import ForwardingDisabledWarning as ForwardingDisabledWarning
    from .errors import MeshlogError as MeshlogError
    from .errors import ProtocolError as ProtocolError
    from .errors import RankDied as RankDied
    from .errors import RankError as RankError
    from .errors import RemoteTraceback as RemoteTraceback
    from .errors import SettingError as SettingError
    from .handler import MeshHandler as MeshHandler
    from .installation import install as install
    from .installation import uninstall as uninstall
    from .mesh.control import LoggingMeshClient as LoggingMeshClient
    from .mesh.future import MeshFuture as MeshFuture
    from .mesh.manager import LoggingManager as LoggingManager
    from .mesh.proc_mesh import HostMesh as HostMesh
    from .mesh.proc_mesh import ProcMesh as ProcMesh
    from .mesh.proc_mesh import this_host as this_host
    from .mesh.start_methods import current_coords as current_coords
    from .mesh.start_methods import current_rank as current_rank
    from .output.console import ConsoleHandler as ConsoleHandler
    from .output.formatter import MeshFormatter as MeshFormatter
    from .output.json_formatter import JsonFormatter as JsonFormatter
    from .worker.forwarder import LogForwarder as LogForwarder
    from .worker.runtime import LoggerRuntime as LoggerRuntime

_HOMES = {
    "BusyError": "errors",
    "ClosedError": "errors",
    "ConfigRefused": "errors",
    "ConnectError": "errors",
    "ConsoleHandler": "output.console",
    "FlushReceipt": "client.receipt",
    "FlushTimeout": "errors",
    "ForwardingDisabledWarning": "errors",
    "HostMesh": "mesh.proc_mesh",
    "JsonFormatter": "output.json_formatter",
    "LogClient": "client.log_client",
    "LogForwarder": "worker.forwarder",
    "LogRelay": "client.relay",
    "LoggerRuntime": "worker.runtime",
    "LoggingManager": "mesh.manager",
    "LoggingMeshClient": "mesh.control",
    "MeshFormatter": "output.formatter",
    "MeshFuture": "mesh.future",
    "MeshHandler": "handler",
    "MeshlogError": "errors",
    "ProcMesh": "mesh.proc_mesh",
    "ProtocolError": "errors",
    "RankDied": "errors",
    "RankError": "errors",
    "RankStats": "client.stats",
    "RemoteTraceback": "errors",
    "SettingError": "errors",
    "current_coords": "mesh.start_methods",
    "current_rank": "mesh.start_methods",
    "install": "installation",
    "this_host": "mesh.proc_mesh",
    "uninstall": "installation",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a worker that only logs pays for nothing else."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = load(home, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
