"""Faults, each tried many times. Not collected by pytest: a run takes minutes and ends with a table. See `__main__`.

::

    fault -> Scene: a client that counts, workers that log -> Counts: sent, received, lost, duplicated, the longest call
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .faults import Fault

_ROOMS = ("signals", "points", "inside", "families", "endings", "clients", "disks", "meshes")


def all_faults() -> dict[str, Fault]:
    """Return every fault, by name."""
    for room in _ROOMS:
        import_module(f"{__name__}.{room}")
    from .faults import FAULTS

    return FAULTS
