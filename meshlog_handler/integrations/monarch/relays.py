"""The client's side of the relays on hosts that cannot reach its socket: the tunnels, and what replaces a relay.

::

    RelayActor on a host -- take, give: Monarch's messages, made again if there is no answer --> Tunnel, in this process

A message that is not answered is sent again. A relay that was killed is replaced by another one on its host, which goes on with
the workers there. One that has not answered for a minute gets another tunnel when it answers.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from monarch._rust_bindings.monarch_hyperactor.supervision import SupervisionError

from ...client.relay.attempts import Attempts
from ...client.relay.repeated_calls import RepeatingCalls
from ...client.relay.tunnel import Tunnel
from ...errors import ClosedError
from ...system.diagnostics import diagnose
from ...system.waits import capped, monotonic

START_SEC: Final = 60.0
_ANSWER_SEC: Final = 10.0
_LOOK_SEC: Final = 0.5
_END_SEC: Final = 10.0
_LEAST_SEC: Final = 0.1


class HostLink:
    """The relay on one host, and the tunnel to it.

    `supervisor` starts its process on the host of `proc`, one of the procs of the mesh there. `run` calls a function as the
    actor that has attached: Monarch needs to know it.
    """

    def __init__(self, host: str, *, supervisor: Any, proc: Any, client_address: str, run: Callable[..., Any]) -> None:
        self.host = host
        self._supervisor = supervisor
        self._proc = proc
        self._client_address = client_address
        self._run = run
        self._actor: Any = None
        self._number = 0
        self._calls: RepeatingCalls | None = None
        self._tunnel: Tunnel | None = None

    def start(self) -> str:
        """Start the relay and a tunnel to it; return the relay's address."""
        self._actor = self._run(
            lambda: self._supervisor.begin_relay.call_one(self._proc, self.host, self._client_address).get(START_SEC)
        )
        self._number = 0
        return self._connect()

    def _connect(self) -> str:
        actor, self._number = self._actor, self._number + 1
        self._calls = calls = RepeatingCalls(partial(self._ask, actor, tunnel=self._number), lambda: not self.ended)
        self._tunnel = Tunnel(self._client_address, take=calls.take, give=calls.give).start()
        address: str = self._run(lambda: actor.address.call_one().get(START_SEC))
        return address

    @property
    def ended(self) -> bool:
        """Whether nothing is transferred any more."""
        return self._tunnel is None or self._tunnel.ended

    def restore(self) -> None:
        """Connect to the relay again if it still runs. Otherwise start another one in its place. Raises anything."""
        self.cut()
        try:
            self._run(lambda: self._actor.address.call_one().get(_ANSWER_SEC))
        except Exception:  # it was killed, or cannot be reached: then neither can its host, and the next call raises
            self._run(lambda: self._supervisor.end_relay.call_one(self.host, _END_SEC).get(2 * _END_SEC))
            self.start()
        else:
            self._connect()

    def close(self, deadline: float) -> None:
        """Make the relay forward pending data, and stop it."""
        timeout = max(_LEAST_SEC, deadline - monotonic())
        try:
            if not self.ended:  # else its host may be gone, and an answer would be awaited
                self._run(lambda: self._actor.close.call_one(timeout).get(timeout))
                assert self._tunnel is not None
                self._tunnel.wait(timeout)
        finally:
            self.cut()

    def cut(self) -> None:
        """Close the tunnel."""
        if self._calls is not None and self._tunnel is not None:
            self._calls.end()
            self._tunnel.close()

    def _ask(self, actor: Any, what: str, **fields: Any) -> Any:
        try:
            return self._run(lambda: getattr(actor, what).call_one(**fields).get(_ANSWER_SEC))
        except SupervisionError as failure:
            raise ClosedError(f"the relay on {self.host} has ended: {failure}") from failure


class HostLinks:
    """The relays of a mesh. A thread restores those whose tunnel has ended."""

    def __init__(self) -> None:
        self._links: list[HostLink] = []
        self._attempts = Attempts()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meshlog-monarch-relays", daemon=True)

    def add(self, link: HostLink) -> str:
        """Start a relay; return its address."""
        self._links.append(link)
        return link.start()

    def watch(self) -> None:
        """Start the thread, if there are relays."""
        if self._links:
            self._thread.start()

    def lacks(self, host: str) -> bool:
        """Return whether the relay on a host has ended and cannot be replaced."""
        return self._attempts.lacks(host)

    def close(self, deadline: float) -> None:
        """Stop all relays. Each is tried; then the first error is raised."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(capped(deadline - monotonic()))
        with contextlib.ExitStack() as last_first:  # each runs even if others fail
            for link in self._links:
                last_first.callback(link.close, deadline)

    def _watch(self) -> None:
        while not self._ending.wait(_LOOK_SEC):
            for link in self._links:
                if link.ended and not self._ending.is_set() and self._attempts.due(link.host, monotonic()):
                    self._restore(link)

    def _restore(self, link: HostLink) -> None:
        try:
            link.restore()
            self._attempts.succeeded(link.host)
        except Exception as failure:  # Monarch may raise anything
            link.cut()
            then = self._attempts.failed(link.host, monotonic())
            if not self._ending.is_set():
                diagnose(f"the ranks on {link.host} have no relay: {type(failure).__name__}: {failure}; {then}")
