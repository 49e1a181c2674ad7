"""Settings for tests with real programs."""

from __future__ import annotations

collect_ignore = ["apps"]
"""Programs, one of which is a test suite."""
