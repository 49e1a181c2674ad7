"""Test peers that send hand-made frames, which no real worker sends, and honest workers that run beside them."""

from __future__ import annotations

import array
import contextlib
import logging
import multiprocessing
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from meshlog_handler.journal.layout import START
from meshlog_handler.protocol.encode import SchemaTable, encode_record
from meshlog_handler.protocol.frames import CONTROL, DATA, MAX_CONTROL, data_head, frame
from meshlog_handler.protocol.messages import Hello, Welcome, decode
from meshlog_handler.testing import CollectedLogs, collected
from meshlog_handler.transport.channel import Address, authenticate, read_frame, set_kernel_timeout

from . import workers
from .procs import DEADLINE, started

RANK: Final = 7
"""The default rank of these peers."""


def knock(address: str) -> socket.socket:
    """Connect, and send nothing."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    set_kernel_timeout(sock, DEADLINE)
    sock.connect(Address.parse(address).path)
    return sock


class Peer:
    """A test peer that has the key, joins, and then sends any bytes."""

    def __init__(
        self,
        address: str,
        rank: int | None = RANK,
        captured: tuple[str, ...] = (),
        fds: Sequence[int] = (),
        **more: Any,
    ) -> None:
        self.sock = authenticate(knock(address), Address.parse(address).key)
        self.at = START
        self.journal = ""
        self.rank = rank
        hello = Hello(os.getpid(), "here", rank, None, "", captured, True, 0.0)
        self.send(frame(CONTROL, hello.replaced(**more).encode()))
        if fds:
            with contextlib.suppress(ConnectionError):  # the client may have closed the connection because of the Hello message
                self.sock.sendmsg([b"F"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])

    def join(self) -> Peer:
        """Read the Welcome message, which has the path of the journal and the rank."""
        welcome = decode(read_frame(self.sock, MAX_CONTROL)[1], Welcome)
        self.journal, self.rank = welcome.journal, welcome.rank
        return self

    def send(self, data: bytes) -> None:
        """Send bytes, unless the client has closed the connection."""
        with contextlib.suppress(ConnectionError):  # the client has closed the connection, as it should
            self.sock.sendall(data)

    def log(self, data: bytes, generation: int = 1) -> None:
        """Send bytes as the next part of the stream."""
        self.send(data_head(generation, self.at, len(data)) + data)
        self.at += len(data)

    def is_hung_up_on(self) -> bool:
        """Wait until the client closes the connection, and return True; messages of the client are ignored."""
        with contextlib.suppress(ConnectionError):  # it closed with unread bytes of this end
            while self.sock.recv(65536):
                continue
        return True

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


@contextmanager
def joined(address: str, rank: int | None = RANK) -> Iterator[Peer]:
    """Yield a peer that has joined."""
    peer = Peer(address, rank)
    with contextlib.closing(peer):
        yield peer.join()


def join_many_times(address: str, count: int, answer: Any) -> None:
    """Open connections that join, up to `count`; send how many the client accepts, close them, and do it again."""
    for _ in range(2):
        accepted = 0
        with contextlib.ExitStack() as closing, contextlib.suppress(EOFError, ConnectionError):  # refused
            while accepted < count:
                closing.enter_context(contextlib.closing(Peer(address))).join()
                accepted += 1
        answer.send(accepted)


def entries(*texts: str) -> bytes:
    """Return the entries of some records, with the definition of their schema."""
    shapes, data = SchemaTable(), bytearray()
    for text in texts:
        record = logging.LogRecord("hostile", logging.INFO, __file__, 1, "%s", (text,), None)
        frozen = encode_record(record, shapes)
        frozen.commit_schema()
        data += frozen.data
    return bytes(data)


def stretch(generation: int, start: int, data: bytes) -> bytes:
    """Return a DATA frame."""
    head = data_head(generation, start, len(data))
    assert head[4] == DATA
    return head + data


class Honest:
    """Two workers that log on demand, and the client that shows their records."""

    def __init__(self, logs: CollectedLogs, pids: Sequence[int | None], go: Sequence[Any], done: Any) -> None:
        self.logs = logs
        self.pids = pids
        self._go = go
        self._done = done
        self._expected = ["early"]

    @property
    def address(self) -> str:
        """The address of the client."""
        return self.logs.address

    def are_heard(self) -> None:
        """Let each worker log once more; check that a flush completes, and that all records were shown once and in order."""
        for go in self._go:
            go.release()
        for _ in self._go:
            assert self._done.acquire(timeout=DEADLINE)
        self._expected.append(f"late {len(self._expected) - 1}")
        receipt = self.logs.flush(DEADLINE, lambda proc: proc.rank in (0, 1))
        assert (receipt.acked, receipt.missing, receipt.dead, receipt.dropped) == ((0, 1), (), (), 0)
        for pid in self.pids:
            records = [record for record in tuple(self.logs.records) if record.process == pid]
            assert [record.getMessage() for record in records] == self._expected
            assert len({vars(record)["rank"] for record in records}) == 1
            assert {record.name for record in records} == {workers.NAME}
        assert {vars(record)["rank"] for record in tuple(self.logs.records) if record.process in self.pids} == {0, 1}

    def until_shown(self, text: str) -> None:
        """Wait until a record with this text has been shown."""
        self.logs.wait_for(lambda records: any(record.getMessage() == text for record in records), DEADLINE)

    def are_counted(self) -> None:
        """Check that the counters of both ranks count only the records of these workers."""
        stats = self.logs.client.stats()
        for rank in (0, 1):
            counted = stats[rank]
            assert (counted.received, counted.duplicates, counted.dropped) == (len(self._expected), 0, {})


@contextmanager
def honest() -> Iterator[Honest]:
    """Yield two honest workers that run; check at the start and at the end that their records arrive."""
    context: Any = multiprocessing.get_context("fork")
    ready, done, go = context.Semaphore(0), context.Semaphore(0), [context.Semaphore(0) for _ in range(2)]
    with (
        collected() as logs,
        started("fork", workers.log_at_each_go, [(logs.address, ready, each, done, 1000) for each in go]) as procs,
    ):
        for _ in procs:
            assert ready.acquire(timeout=DEADLINE)
        both = Honest(logs, [proc.pid for proc in procs], go, done)
        both.are_heard()
        yield both
        both.are_heard()


def bombs(path: str) -> dict[str, bytes]:
    """Return pickles that make the directory `path` when they are loaded: one for each opcode that names a global.

    The pickles with extensions need ``copyreg.add_extension("os", "mkdir", 240)``.
    """
    made, made_with = pickle.dumps(_Made(path), 2), pickle.dumps(_MadeWith(path), 4)
    os.rmdir(path)
    text = path.encode()
    short = b"\x8c" + bytes([len(text)]) + text
    return {
        "GLOBAL": b"cos\nmkdir\n(V" + text + b"\ntR.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + short + b"\x85R.",
        "INST": b"(V" + text + b"\nios\nmkdir\n.",
        "OBJ": b"(cos\nmkdir\nV" + text + b"\no.",
        "EXT1": b"\x80\x02\x82\xf0V" + text + b"\n\x85R.",
        "EXT2": b"\x80\x02\x83\xf0\x00V" + text + b"\n\x85R.",
        "EXT4": b"\x80\x02\x84\xf0\x00\x00\x00V" + text + b"\n\x85R.",
        "NEWOBJ": made,
        "NEWOBJ_EX": made_with,
    }


class _Made:
    """Makes a directory when an instance is created."""

    def __new__(cls, path: str) -> _Made:
        if not os.path.isdir(path):
            os.mkdir(path)
        return super().__new__(cls)

    def __init__(self, path: str) -> None:
        self.path = path

    def __getnewargs__(self) -> tuple[str]:
        return (self.path,)


class _MadeWith(_Made):
    """The same as `_Made`, with keyword arguments."""

    def __new__(cls, path: str) -> _MadeWith:
        super().__new__(cls, path)
        return object.__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, str]]:
        return (), {"path": self.path}
