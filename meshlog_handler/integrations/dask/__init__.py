"""Dask: the process with the `distributed.Client` shows what the workers of the cluster log and print. See `attach`.

Workers import the files of this folder in several threads at once. So importing the folder imports none of them: each public
name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...system.lazy_imports import load

if TYPE_CHECKING:
    from .cluster import attach as attach

_HOMES = {"attach": "cluster"}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load(f"integrations.dask.{_HOMES[name]}", name)
