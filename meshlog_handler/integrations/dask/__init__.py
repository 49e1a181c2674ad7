"""Dask: the process with the `distributed.Client` shows what the workers of the cluster log and print. See `attach`.

Workers import the files of this folder in several threads at once. So importing the folder imports none of them: each public
name is imported when it is first used.

May import of the integrations: the files beside this folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...system.lazy_imports import exporter

if TYPE_CHECKING:
    from .cluster import attach as attach

__all__ = ["attach"]

__getattr__ = exporter(__name__, {"attach": "integrations.dask.cluster"}, extra="dask")
