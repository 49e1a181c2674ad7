"""The version of the package, defined only here."""

from __future__ import annotations

__version__ = "0.1.0"
