"""Leaving a mesh takes no longer than it may, whoever does not answer."""

from __future__ import annotations

from typing import Any

import pytest

from meshlog_handler.errors import ClosedError
from meshlog_handler.mesh import control


class Unanswered:
    """A clock, and a client whose flushes and an engine whose ends take all of their time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.took: list[tuple[str, float]] = []

    def _take(self, what: str, timeout: float) -> None:
        self.took.append((what, timeout))
        self.now += timeout

    def flush(self, timeout: float) -> None:
        self._take("flush", timeout)
        raise ClosedError("no rank answers")

    def leave(self, timeout: float) -> None:
        self._take("leave", timeout)
        raise TimeoutError

    def stop(self, timeout: float) -> None:
        self._take("stop", timeout)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Unanswered:
    made = Unanswered()
    monkeypatch.setattr(control, "monotonic", lambda: made.now)
    monkeypatch.setattr(control, "deadline_after", lambda seconds: made.now + seconds)
    return made


@pytest.mark.parametrize(
    ("timeout", "took"),
    [
        (60.0, [("flush", 30.0), ("leave", 30.0), ("stop", 1.0)]),
        (0.5, [("flush", 1.0), ("leave", 1.0), ("stop", 1.0)]),
    ],
)
def test_silent_ranks_leave_time_for_the_others(silent: Unanswered, timeout: float, took: list[Any]) -> None:
    client: Any = silent
    control._End(client, [silent.leave])(timeout)
    assert silent.took == took


def test_engines_that_share_a_client_share_the_time(silent: Unanswered) -> None:
    client: Any = silent
    control._End(client, [silent.leave, silent.leave])(8.0)
    assert silent.took == [("flush", 4.0), ("leave", 4.0), ("flush", 1.0), ("leave", 1.0), ("stop", 1.0)]
