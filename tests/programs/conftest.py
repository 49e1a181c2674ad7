"""Settings for tests with real programs."""

from __future__ import annotations

collect_ignore = ["apps"]
"""The test programs; one of them is itself a test suite."""
