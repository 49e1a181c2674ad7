"""The captured lines that a relay has read and its upstream client has not confirmed. Client thread only.

A record stays in the journal of its worker until then. A line that was read from a pipe does not: if the relay leaves, it is
lost, and the next relay counts it.
"""

from __future__ import annotations

from collections import Counter, deque

from ...protocol.record import MeshInfo


class LinesUnderway:
    """Counts the lines by rank, in parts that end with the boundaries of the relay (see `Checkpoints`)."""

    def __init__(self) -> None:
        self._since = Counter[int]()  # since the last boundary
        self._sent: deque[tuple[int, Counter[int]]] = deque()

    def passed(self, info: MeshInfo) -> None:
        """Count what is passed on, if it is a captured line or a group of them."""
        if info.stream is None or info.progress:
            return
        ranks = info.ranks or (() if info.rank is None else (info.rank,))
        if ranks:
            each, rest = divmod(info.count or 1, len(ranks))
            for place, rank in enumerate(ranks):  # of a group, only the sum is known
                self._since[rank] += each + (place < rest)

    def boundary(self, number: int) -> None:
        """End a part."""
        if self._since:
            self._sent.append((number, self._since))
            self._since = Counter()

    def confirmed(self, number: int) -> None:
        """Forget the parts up to a boundary: the upstream client has them."""
        while self._sent and self._sent[0][0] <= number:
            self._sent.popleft()

    def left(self) -> dict[int, int]:
        """Return how many lines of each rank are not confirmed."""
        return dict(sum((part for _, part in self._sent), Counter(self._since)))
