"""A filter that the settings name."""

from __future__ import annotations

import logging


class NoHealth(logging.Filter):
    """Hides questions for health."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is of another kind."""
        return "/health" not in record.getMessage()
