"""The clients that run in this process: to be told of a fork, and not to be captured by themselves."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class LiveClient(Protocol):
    """What is kept of a client."""

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped, in this process."""

    @property
    def shows(self) -> bool:
        """Whether it shows logs in this process; a relay passes them on."""

    def forget(self) -> None:
        """In a forked child: close copies of what is the parent's."""


_clients: weakref.WeakSet[LiveClient] = weakref.WeakSet()


def add(client: LiveClient) -> None:
    """Note that a client runs."""
    _clients.add(client)


def discard(client: LiveClient) -> None:
    """Note that a client was stopped."""
    _clients.discard(client)


def any_running() -> bool:
    """Tell whether this process shows logs itself."""
    return any(client.running and client.shows for client in tuple(_clients))


def _after_fork_in_child() -> None:
    for client in tuple(_clients):
        client.forget()
    _clients.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
