"""The actor of `beside_monarch`."""

from __future__ import annotations

from monarch.actor import Actor, endpoint


class Printer(Actor):
    """Prints."""

    @endpoint
    def repeat(self, count: int) -> None:
        """Print a numbered line, `count` times."""
        for number in range(count):
            print("mark", number)

    @endpoint
    def vary(self, kinds: list[str], count: int) -> None:
        """Print lines of all kinds in turn."""
        for number in range(count):
            print("mark", kinds[number % len(kinds)] % number)
