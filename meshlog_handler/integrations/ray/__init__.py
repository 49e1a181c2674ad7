"""Ray: the driver shows what tasks and actors log and print, on all nodes of a cluster. See `attach`.

Workers import the files of this folder in several threads at once. So importing the folder imports none of them: each public
name is imported when it is first used.

May import of the integrations: the files beside this folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...system.lazy_imports import exporter

if TYPE_CHECKING:
    from .job import attach as attach
    from .worker import join as join

__all__ = ["attach", "join"]

__getattr__ = exporter(__name__, {"attach": "integrations.ray.job", "join": "integrations.ray.worker"}, extra="ray")
