"""Adapters to the engines that run many processes: one file each, imported only where it is used.

An engine's mesh offers what `Engine` asks for, and gets its logging by `attach`. Procs on the client's machine join it
directly; elsewhere they join a relay on their host, whose bytes the engine carries (see `hosts`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from ..mesh.control import LoggingMeshClient
from ..mesh.engine import Coords as Coords
from ..mesh.engine import Engine as Engine
from ..mesh.manager import LoggingManager
from ..output.named_handlers import ShownBy


def attach(
    engine: Engine,
    leave: Callable[[float], object],
    handlers: Iterable[ShownBy] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    hide: Sequence[str] = (),
) -> LoggingMeshClient:
    """Give a mesh its logging; `drain_and_stop` of what is returned detaches. Blocks.

    Parameters
    ----------
    engine : Engine
        The mesh.
    leave : Callable[[float], object]
        Lets every proc leave, within so many seconds, and ends relays and tunnels.
    handlers, log_dir, hide
        As of `LoggingManager`.
    """
    client = LoggingManager(handlers, log_dir, hide).attach(engine)
    client.on_stop(leave)
    return client
