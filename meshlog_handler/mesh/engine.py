"""The interface that a mesh of processes implements to get its logging. See `ProcMesh` and `integrations`.

::

    LoggingManager.init(engine) -> LoggingMeshClient.spawn -> LogClient, engine.join(address)
                                -> set_mode
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

Coords = Mapping[int, Mapping[str, int | str]]
"""For each rank, its position (or a name) by dimension, such as ``{"gpus": 1}``."""


@runtime_checkable
class Engine(Protocol):
    """A mesh of processes to which `LoggingManager.init` can give its logging."""

    @property
    def token(self) -> str:
        """The token that the procs join with. It is unique to the mesh."""

    @property
    def coords(self) -> Coords | None:
        """The coordinates of each rank; None if the number of procs varies and each proc gets a rank when it joins."""

    def join(self, address: str) -> None:
        """Make every proc join the client at `address` with `token`; a proc that cannot reach that address joins a relay.

        Returns when all existing procs have joined. A proc that starts later joins by itself. Blocks.
        """
