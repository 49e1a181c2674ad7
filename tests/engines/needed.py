"""The engines that these test modules need. A module is skipped if its engine is missing, and fails if it was promised."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest

ENGINES = "MESHLOG_ENGINES"
"""Names the engines that an environment was built for, separated by commas: their tests are never skipped there."""


def need(name: str, promises: str = ENGINES) -> ModuleType:
    """Import an engine for the test module that calls this at its top.

    Parameters
    ----------
    name : str
        Name of the module, such as ``torch``.
    promises : str
        The environment variable that may name it.

    Raises
    ------
    ImportError
        If it cannot be imported although the variable names it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as failure:
        if name in os.environ.get(promises, "").split(","):
            raise
        pytest.skip(f"needs {name}: {failure}", allow_module_level=True)
