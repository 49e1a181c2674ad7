"""The clients that run in this process: they are notified of forks, and do not capture their own output."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class LiveClient(Protocol):
    """The part of a client that this module uses."""

    @property
    def running(self) -> bool:
        """Whether the client was started, and not stopped, in this process."""

    @property
    def shows(self) -> bool:
        """Whether the client shows logs in this process; a relay forwards them."""

    def forget(self) -> None:
        """In a forked child: close the copies of the parent's descriptors."""


_clients: weakref.WeakSet[LiveClient] = weakref.WeakSet()


def add(client: LiveClient) -> None:
    """Add a client that was started."""
    _clients.add(client)


def discard(client: LiveClient) -> None:
    """Remove a client that was stopped."""
    _clients.discard(client)


def any_running() -> bool:
    """Return whether a client shows logs in this process."""
    return any(client.running and client.shows for client in tuple(_clients))


def _after_fork_in_child() -> None:
    for client in tuple(_clients):
        client.forget()
    _clients.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
