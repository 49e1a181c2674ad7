"""What a mesh of processes must offer so that it gets its logging. `ProcMesh` is the first to offer it; see `integrations`.

::

    LoggingManager.attach(engine):  start the client -> engine.join(address) -> first mode
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

Coords = Mapping[int, Mapping[str, int | str]]
"""By rank, its position (or a name) by dimension, such as ``{"gpus": 1}``."""


class Engine(Protocol):
    """A mesh of processes, to be attached by `LoggingManager.attach`."""

    @property
    def token(self) -> str:
        """What its procs join under; no two meshes have the same."""

    @property
    def coords(self) -> Coords | None:
        """Its ranks; None if its procs come and go: they are given ranks as they join."""

    def join(self, address: str) -> None:
        """Let every proc join the client at `address`, or a relay where that cannot be reached, under `token`.

        Returns when those that there are have joined; those that come later join by themselves. Blocks.
        """
