"""ProcHandle: the client's view of one proc."""

from __future__ import annotations

import socket
from collections import deque

from .identity import ProcIdentity
from .pending_call import End, PendingCall
from .process import Process
from .rpc import CallFrameReader


class ProcHandle:
    """The client's view of one proc."""

    def __init__(self, identity: ProcIdentity) -> None:
        # The supervisor's lock guards `outbox`, `pending`, `end` and `exitcode`. After `Supervisor.add`, all other attributes
        # belong to the supervisor thread.
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
        """The process id; None before the process has started."""
        return self.child.pid if self.child is not None else None

    def send(self) -> bool:
        """Send as much of the outbox as the socket accepts; return whether data is left. The caller holds the lock."""
        while self.outbox and self.sock is not None:
            try:
                count = self.sock.send(self.outbox[0])
            except BlockingIOError:
                return True
            except OSError:
                self.outbox.clear()  # the supervisor reports the closed connection or the exit
                return False
            if count < len(self.outbox[0]):
                self.outbox[0] = self.outbox[0][count:]
            else:
                self.outbox.popleft()
        return False
