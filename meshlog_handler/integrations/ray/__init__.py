"""Ray: the driver shows what tasks and actors log and print, on all nodes of a cluster. See `attach`.

Workers import the files of this folder in several threads at once. So importing the folder imports none of them: each public
name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...system.lazy_imports import load

if TYPE_CHECKING:
    from .job import attach as attach
    from .worker import join as join

_HOMES = {"attach": "job", "join": "worker"}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load(f"integrations.ray.{_HOMES[name]}", name)
