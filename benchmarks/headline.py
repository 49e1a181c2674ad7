"""Draws docs/headline.svg, the plot in the README, from the figures in docs/performance.md: ``python -m benchmarks.headline``.

A bar says how many records meshlog_handler delivers in the time in which another way delivers one. Both were measured in
the same run.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from . import plot

_DOCS: Final = Path(__file__).parents[1] / "docs"
_LINES: Final = {
    "loguru, enqueue=True": "the same against loguru",
    "Dask, forward_logging": "Dask, `forward_logging`",
    "QueueHandler, multiprocessing.Queue": "4 procs, delivered a second, against the recipe",
    "Monarch, logging_option": "Monarch, `logging_option`",
    "Ray, log_to_driver": "Ray, `log_to_driver`",
}
"""What a line of a table in docs/performance.md begins with, by the name in the plot."""


def recorded(page: str) -> dict[str, float]:
    """Return the recorded ratios by name. Raises `ValueError` if the page has none for a name."""
    ratios: dict[str, float] = {}
    for name, begin in _LINES.items():
        found = re.search(rf"^\| {re.escape(begin)}[^|]*\|.*?\| \**([\d.]+)x", page, re.MULTILINE)
        if found is None:
            raise ValueError(f"docs/performance.md has no ratio in a line that begins with {begin!r}")
        ratios[name] = float(found[1])
    return ratios


def main() -> int:
    """Draw the plot."""
    undrawn = plot.draw_ratios(
        _DOCS / "headline.svg",
        recorded((_DOCS / "performance.md").read_text()),
        "Records a second of 4 processes: ours over theirs",
    )
    if undrawn:
        sys.stderr.write(f"no plot: {undrawn}\n")
    return 1 if undrawn else 0


if __name__ == "__main__":
    sys.exit(main())
