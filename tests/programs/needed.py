"""The packages that these test modules need. A module is skipped if its package is missing, and fails if it was promised."""

from __future__ import annotations

from types import ModuleType

from tests.engines import needed

PROGRAMS = "MESHLOG_PROGRAMS"
"""Names the packages that an environment was built for, separated by commas: their tests are never skipped there."""


def need(name: str) -> ModuleType:
    """Import a package for the calling module or test; see `tests.engines.needed.need`."""
    return needed.need(name, PROGRAMS)
