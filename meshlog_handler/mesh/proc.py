"""Proc: one proc of a mesh, as its client sees it."""

from __future__ import annotations

import socket
from collections import deque

from .pending_call import End, PendingCall
from .process import Process
from .rpc import CallFrameReader
from .start_methods import ProcIdentity


class ProcHandle:
    """One proc, as its client sees it.

    Guarded by the watcher's lock: `outbox`, `pending`, `end`, `exitcode`. The watcher thread's own: the rest, once it watches.
    """

    def __init__(self, identity: ProcIdentity) -> None:
        self.identity = identity
        self.rank = identity.rank
        self.child: Process | None = None
        self.sock: socket.socket | None = None
        self.reader = CallFrameReader()
        self.outbox: deque[memoryview] = deque()
        self.pending: dict[int, PendingCall] = {}
        self.end: End | None = None
        self.exitcode: int | None = None
        self.gone = False
        self.events = 0

    @property
    def pid(self) -> int | None:
        """Its process id, once it has one."""
        return self.child.pid if self.child is not None else None

    def send(self) -> bool:
        """With the lock held: send of the outbox what the socket takes; tell whether something is left."""
        while self.outbox and self.sock is not None:
            try:
                count = self.sock.send(self.outbox[0])
            except BlockingIOError:
                return True
            except OSError:
                self.outbox.clear()  # it reads no more: its end, or its silence, is noticed elsewhere
                return False
            if count < len(self.outbox[0]):
                self.outbox[0] = self.outbox[0][count:]
            else:
                self.outbox.popleft()
        return False
