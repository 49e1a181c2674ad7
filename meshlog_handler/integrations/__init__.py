"""Adapters to the engines that run many processes: one file or folder each, imported only when used.

The mesh of an engine implements `Engine` and gets its logging from `attach`. Workers on the client's machine join the client
directly. Other workers join a relay on their host, and the engine transfers the relay's bytes (see `client.relay.tunnel`).

May import: errors, settings, system, protocol, journal, transport, grouping, insight, lines, output, worker, dispatch, client,
handler, installation, notebook, mesh.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any, Final

from ..mesh.control import LoggingMeshClient
from ..mesh.engine import Coords as Coords
from ..mesh.engine import Engine as Engine
from ..mesh.manager import LoggingManager
from ..output.named_handlers import ShownBy
from ..system.lazy_imports import importing, needing

_ENGINES: Final = {"dask": "dask", "monarch": "monarch", "ray": "ray", "torchrun": "torch"}
"""The adapters, and the extra of this package that installs what each needs."""


def attach(
    engine: Engine,
    leave: Callable[[float], object],
    handlers: Iterable[ShownBy] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    hide: Sequence[str] = (),
) -> LoggingMeshClient:
    """Start the logging of a mesh. Blocks.

    Parameters
    ----------
    engine : Engine
        The mesh.
    leave : Callable[[float], object]
        Called with a timeout in seconds: detaches every worker, and stops relays and tunnels.
    handlers, log_dir, hide
        See `LoggingManager`.

    Returns
    -------
    LoggingMeshClient
        Its `drain_and_stop` detaches.
    """
    client = LoggingManager(handlers, log_dir, hide).init(engine)
    client.on_stop(leave)
    return client


def __getattr__(name: str) -> Any:
    """Import the adapter to an engine when it is first used."""
    if name not in _ENGINES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with importing(), needing(_ENGINES[name]):
        return import_module(f"{__name__}.{name}")
