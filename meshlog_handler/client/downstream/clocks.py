"""How far the clock of another host is ahead. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

_SAMPLES: Final = 32


class ClockEstimate:
    """How far this host's clock is ahead of another's, from messages that went there and back."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)

    def add(self, sent: float, there: float, received: float) -> None:
        """Add a message: when it was sent and answered by this clock, and when it was there by the other one."""
        if received >= sent:  # else this clock was set meanwhile
            self._samples.append((received - sent, (sent + received) / 2 - there))

    @property
    def ahead(self) -> float:
        """Seconds; 0 if the clocks may be equal. The error is at most half of the time of the fastest message."""
        seconds, ahead = min(self._samples, default=(0.0, 0.0))
        return ahead if abs(ahead) > seconds / 2 else 0.0
