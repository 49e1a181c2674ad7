"""Logs of many Python processes, shown by one of them, through the standard library's `logging`.

- `MeshHandler`: a handler for `logging.config` and for existing programs.
- `LogClient`: shows the logs of other processes in this one; `install` makes a process forward its logs.
- `this_host`, `ProcMesh`: functions on N local processes, with their logs. `current_rank` tells a process which one it is.
- `ConsoleHandler`, `MeshFormatter`, `JsonFormatter`: how shown records look.
- `LogRelay`: a client that passes records on to another client, for many hosts.
- `integrations`: Ray, Dask, Monarch, torchrun; `testing`: helpers for tests; `notebook`: cells.
- ``meshlog run``, ``meshlog exec``, ``meshlog tail``: the command line.

Every import is deferred until a name is used. CONTRIBUTING.md describes the folders, and the path of a record through them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__
from .system.lazy_imports import exporter, importing

if TYPE_CHECKING:
    from .client.flushes.receipt import FlushReceipt as FlushReceipt
    from .client.log_client import LogClient as LogClient
    from .client.peers.stats import RankStats as RankStats
    from .client.relay.log_relay import LogRelay as LogRelay
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
    from .insight.hang import Hang as Hang
    from .insight.report import Insight as Insight
    from .insight.stacks import Stacks as Stacks
    from .installation import complete as complete
    from .installation import install as install
    from .installation import uninstall as uninstall
    from .mesh.control import LoggingMeshClient as LoggingMeshClient
    from .mesh.future import MeshFuture as MeshFuture
    from .mesh.identity import current_coords as current_coords
    from .mesh.identity import current_rank as current_rank
    from .mesh.manager import LoggingManager as LoggingManager
    from .mesh.proc_mesh import HostMesh as HostMesh
    from .mesh.proc_mesh import ProcMesh as ProcMesh
    from .mesh.proc_mesh import this_host as this_host
    from .output.console import ConsoleHandler as ConsoleHandler
    from .output.formatter import MeshFormatter as MeshFormatter
    from .output.json_formatter import JsonFormatter as JsonFormatter
    from .worker.forwarder import LogForwarder as LogForwarder
    from .worker.journal_queue import JournalQueue as JournalQueue
    from .worker.runtime import LoggerRuntime as LoggerRuntime

_HOMES = {
    "BusyError": "errors",
    "ClosedError": "errors",
    "ConfigRefused": "errors",
    "ConnectError": "errors",
    "ConsoleHandler": "output.console",
    "FlushReceipt": "client.flushes.receipt",
    "FlushTimeout": "errors",
    "ForwardingDisabledWarning": "errors",
    "Hang": "insight.hang",
    "HostMesh": "mesh.proc_mesh",
    "Insight": "insight.report",
    "JournalQueue": "worker.journal_queue",
    "JsonFormatter": "output.json_formatter",
    "LogClient": "client.log_client",
    "LogForwarder": "worker.forwarder",
    "LogRelay": "client.relay.log_relay",
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
    "RankStats": "client.peers.stats",
    "RemoteTraceback": "errors",
    "SettingError": "errors",
    "Stacks": "insight.stacks",
    "complete": "installation",
    "current_coords": "mesh.identity",
    "current_rank": "mesh.identity",
    "install": "installation",
    "this_host": "mesh.proc_mesh",
    "uninstall": "installation",
}

_SUBPACKAGES = ("integrations", "notebook", "testing")

__all__ = [*_HOMES]

_import_at_first_use = exporter(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a worker that only logs pays for nothing else."""
    if name in _SUBPACKAGES:
        with importing():
            return import_module(f"{__name__}.{name}")
    return _import_at_first_use(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
