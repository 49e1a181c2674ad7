"""Logs of many Python processes, shown by one of them, through the standard library's logging.

Rooms, from the ground up; each imports only from those below, and every import is deferred until a name is used:

- ``errors ranks settings``: exceptions by whose fault, ranks as text, the environment.
- ``wire entries freeze thaw relayed journal frames messages ledger orders lines similar aggregate ...``: pure data.
- ``context future channel rundir rendezvous exits capture report console rank_files ...``: machines.
- ``stream forwarder runtime source reception show below relays client membership uplink handler``: the roles.
- ``relay worker engine mesh_client manager procs proc_main proc_mesh notebook``: assembly.
- ``integrations cli testing``: the outside.

A record's way: `handler` -> `freeze` -> `journal` -> `forwarder` -> `channel` -> `reception` -> `thaw` -> `show`; from the
`show` of a relay on: `uplink` -> `relayed` -> `journal` -> ... -> `show` of the client above.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__
from .loading import load

if TYPE_CHECKING:
    from .client import LogClient as LogClient
    from .console import ConsoleHandler as ConsoleHandler
    from .context import current_coords as current_coords
    from .context import current_rank as current_rank
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
    from .formatter import MeshFormatter as MeshFormatter
    from .forwarder import LogForwarder as LogForwarder
    from .future import MeshFuture as MeshFuture
    from .handler import MeshHandler as MeshHandler
    from .json_formatter import JsonFormatter as JsonFormatter
    from .manager import LoggingManager as LoggingManager
    from .mesh_client import LoggingMeshClient as LoggingMeshClient
    from .proc_mesh import HostMesh as HostMesh
    from .proc_mesh import ProcMesh as ProcMesh
    from .proc_mesh import this_host as this_host
    from .receipt import FlushReceipt as FlushReceipt
    from .relay import LogRelay as LogRelay
    from .runtime import LoggerRuntime as LoggerRuntime
    from .stats import RankStats as RankStats
    from .worker import install as install
    from .worker import uninstall as uninstall

_HOMES = {
    "BusyError": "errors",
    "ClosedError": "errors",
    "ConfigRefused": "errors",
    "ConnectError": "errors",
    "ConsoleHandler": "console",
    "FlushReceipt": "receipt",
    "FlushTimeout": "errors",
    "ForwardingDisabledWarning": "errors",
    "HostMesh": "proc_mesh",
    "JsonFormatter": "json_formatter",
    "LogClient": "client",
    "LogForwarder": "forwarder",
    "LogRelay": "relay",
    "LoggerRuntime": "runtime",
    "LoggingManager": "manager",
    "LoggingMeshClient": "mesh_client",
    "MeshFormatter": "formatter",
    "MeshFuture": "future",
    "MeshHandler": "handler",
    "MeshlogError": "errors",
    "ProcMesh": "proc_mesh",
    "ProtocolError": "errors",
    "RankDied": "errors",
    "RankError": "errors",
    "RankStats": "stats",
    "RemoteTraceback": "errors",
    "SettingError": "errors",
    "current_coords": "context",
    "current_rank": "context",
    "install": "worker",
    "this_host": "proc_mesh",
    "uninstall": "worker",
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
