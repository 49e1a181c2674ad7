"""How often a live page is made: it takes little from the ranks, and is not late because the machine is busy."""

from __future__ import annotations

import pytest

from meshlog_handler.cli.page.live import pause_after


@pytest.mark.parametrize(
    ("seconds", "used", "size", "pause"),
    [
        (0.01, 0.01, 10_000, 1.0),
        (0.5, 0.5, 100_000, 4.0),  # one ninth of a processor
        (4.0, 0.1, 100_000, 4.0),  # the ranks have the processors
        (0.1, 0.1, 3_000_000, 3.0),  # a million bytes a second
    ],
)
def test_a_page_takes_a_share_of_a_processor_and_not_of_the_time(seconds: float, used: float, size: int, pause: float) -> None:
    assert pause_after(seconds, used, size) == pause
