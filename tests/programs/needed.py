"""What a module of these tests needs: it is skipped where that is missing, and fails where it was promised."""

from __future__ import annotations

from types import ModuleType

from tests.engines import needed

PROGRAMS = "MESHLOG_PROGRAMS"
"""Names the packages that an environment was made for, separated by commas: their tests are not skipped there."""


def need(name: str) -> ModuleType:
    """Import a package for the module, or the test, that calls this; see `tests.engines.needed.need`."""
    return needed.need(name, PROGRAMS)
