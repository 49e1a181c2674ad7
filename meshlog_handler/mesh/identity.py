"""The identity of this process in a mesh: its rank and its coordinates."""

from __future__ import annotations

import os

from .. import settings
from ..errors import SettingError
from ..protocol.immutable import Immutable


class ProcIdentity(Immutable):
    """The identity of a proc. `local_rank` and `local_world_size` count the procs of the mesh on this host."""

    rank: int  # from 0, in the whole mesh
    local_rank: int
    world_size: int
    local_world_size: int
    coords: dict[str, int]
    mesh: str  # token of the mesh, unique to it

    def environ(self) -> dict[str, str]:
        """Return the environment variables that launchers and torch.distributed use for it."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
        }


_identity: ProcIdentity | None = None


def set_identity(identity: ProcIdentity) -> None:
    """Set the identity of this process. Call it once, before any other code runs in the process."""
    global _identity
    _identity = identity
    os.environ.update(identity.environ())


def current_rank() -> int:
    """Return the rank of this process in its mesh, or the rank that a launcher assigned (``RANK`` and similar variables).

    Raises
    ------
    SettingError
        If the process has no rank.
    """
    if _identity is not None:
        return _identity.rank
    rank = settings.rank()
    if rank is None:
        raise SettingError(
            f"this process (pid {os.getpid()}) has no rank: no mesh started it, and none of "
            f"{', '.join(settings.RANK_VARIABLES)} is set. Call current_rank() in a function that runs on the procs, as in "
            f"proc_mesh.call(function), or start this process with a launcher such as torchrun."
        )
    return rank


def current_coords() -> dict[str, int]:
    """Return the position of this process in its mesh by dimension, such as ``{"hosts": 0, "gpus": 1}``.

    Raises
    ------
    SettingError
        If no mesh started this process.
    """
    if _identity is None:
        raise SettingError(
            f"this process (pid {os.getpid()}) has no coordinates: no mesh started it. Call current_coords() in a function "
            f"that runs on the procs, as in proc_mesh.call(function)."
        )
    return dict(_identity.coords)
