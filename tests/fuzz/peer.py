"""Peers, one after another. Each joins as a proc does, sends real frames with changed fields, and disconnects."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from meshlog_handler.errors import ProtocolError
from meshlog_handler.protocol.codec import pack
from meshlog_handler.protocol.entries import DEFINE, FLUSH, HEADER, LARGE, MARK, NUMBER, RECORD
from meshlog_handler.protocol.frames import CONTROL, DROPPED, HEAD, POSITION, frame
from meshlog_handler.transport.channel import set_kernel_timeout

from ..process.hostile import Peer, entries

NUMBERS = (0, 1, -1, 7, 255, 1 << 16, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 2000)
MESSAGES = (
    "Hello",
    "Welcome",
    "Flush",
    "Prepare",
    "Commit",
    "Answer",
    "Complete",
    "Patience",
    "Release",
    "Relabel",
    "Ending",
    "StackSignal",
    "StacksAnswer",
)
FIELDS = ("request", "error", "level", "logger", "coords", "uncaught", "rank", "pid", "config", "number", "parent", "thread")


class Chance:
    """Draws values and changes bytes; one seed always gives the same ones."""

    def __init__(self, seed: str) -> None:
        self.draw = random.Random(seed)

    def value(self, depth: int = 0) -> Any:
        """Return plain data that no proc would send."""
        makers: tuple[Callable[[], Any], ...] = (
            lambda: self.draw.choice(NUMBERS),
            lambda: self.draw.choice(("", "x" * 100_000, "%1500000000d", "\x1b[2J\0\n", "%s" * 1000, "\ud800")),
            lambda: self.draw.choice((None, True, float("nan"), float("inf"), b"\xff" * 100)),
            lambda: tuple(self.value(depth + 1) for _ in range(self.draw.randrange(4))) if depth < 40 else (),
            lambda: {self.draw.choice(FIELDS): self.value(depth + 1)} if depth < 40 else {},
        )
        return self.draw.choice(makers)()

    def number(self, bits: int) -> int:
        """Return an unsigned number of this many bits, often the smallest or largest one."""
        return self.draw.choice(NUMBERS) % (1 << bits)

    def packed(self, value: Any) -> bytes:
        """Return plain data as bytes, sometimes with some bytes changed."""
        try:
            data = pack(value)
        except (ValueError, TypeError, OverflowError, ProtocolError):  # no proc could send it, and this peer cannot either
            data = pack(None)
        return self.spoil(data) if self.draw.random() < 0.2 else data

    def spoil(self, data: bytes) -> bytes:
        """Return bytes with one field of 1, 4 or 8 bytes changed, or with parts cut, repeated or reordered."""
        at, size = self.draw.randrange(len(data) + 1), self.draw.choice((1, 4, 8))
        changes = (
            data[:at] + self.number(8 * size).to_bytes(size, "little") + data[at + size :],
            data[:at],
            data[at:] + data[:at],
            data[:at] + data,
        )
        return self.draw.choice(changes)

    def entry(self) -> bytes:
        """Return a journal entry."""
        body = struct.pack("<dd", time.time(), 0.0) + self.packed((self.value(), self.value(), self.value()))
        kind = self.draw.choice((DEFINE, RECORD, FLUSH, LARGE, self.number(8)))
        if kind in (FLUSH, LARGE):
            return NUMBER.pack(kind, self.number(16), 8, self.number(64)) + bytes([MARK])
        size = len(body) if self.draw.random() < 0.8 else self.number(32)
        return HEADER.pack(kind, self.number(16), size) + body + bytes([MARK])

    def record(self, index: int) -> bytes:
        """Return a schema and a record of it in which some fields are arbitrary."""
        plain = logging.LogRecord("fuzz", logging.WARNING, __file__, index, "%s", ("x",), None)
        fields = {**vars(plain), self.draw.choice(("msg", "levelno", "levelname", "name", "lineno", "thread")): self.value()}
        common = {name: fields[name] for name in fields if name not in ("created", "msecs", "args")}
        number = self.draw.randrange(1, 4)
        shape = self.packed(("", 0.0, common))
        body = struct.pack("<dd", self.draw.choice((time.time(), float("inf"), -1e300)), 0.0)
        body += self.packed(((self.value(),), {}, self.value()))
        return b"".join(
            HEADER.pack(kind, number, len(data)) + data + bytes([MARK]) for kind, data in ((DEFINE, shape), (RECORD, body))
        )

    def control(self) -> bytes:
        """Return a message, rarely a valid one."""
        fields = {self.draw.choice(FIELDS): self.value() for _ in range(self.draw.randrange(4))}
        return frame(CONTROL, self.packed((self.draw.choice((*MESSAGES, self.value())), fields)))

    def descriptors(self) -> list[int]:
        """Return two descriptors: the read ends of pipes, some of them blocking, or descriptors of any kind."""
        if self.draw.random() < 0.5:
            ends = [os.pipe() for _ in range(2)]
            for _, write in ends:
                os.set_blocking(write, False)
                os.write(write, self.spoil(b"printed \xff\r\x1b[2J\n" * 100)[:60_000])
                os.close(write)
            os.set_blocking(ends[0][0], self.draw.random() < 0.5)
            return [read for read, _ in ends]
        (read, write), (near, far), memory = os.pipe(), socket.socketpair(), os.memfd_create("fuzz")
        os.ftruncate(memory, 1 << 34)
        folder = os.open("/", os.O_RDONLY)
        made = [read, write, near.detach(), far.detach(), memory, folder]
        chosen = self.draw.sample(made, 2)
        for each in set(made) - set(chosen):
            os.close(each)
        return chosen

    def put_in_place(self, path: str) -> None:
        """Create something under the name of a journal or a side file."""
        with contextlib.suppress(FileExistsError):  # an earlier step did so
            kind = self.draw.randrange(5)
            if kind == 0:
                os.mkfifo(path)
            elif kind == 1:
                os.symlink("/dev/zero", path)
            elif kind == 2:
                os.mkdir(path)
            elif kind == 3:
                with open(path, "xb") as file:
                    os.truncate(file.fileno(), 1 << 34)
            else:
                with open(path, "xb") as file:
                    file.write(self.spoil(entries("in a file") * 20))


def steps(chance: Chance, peer: Peer) -> Iterator[bytes]:
    """Yield what one peer sends. Files in its journal's folder change meanwhile."""
    real = entries("one", "two", "three")
    for _ in range(chance.draw.randrange(1, 30)):
        kind = chance.draw.choices(range(8), (6, 6, 1, 1, 1, 1, 3, 6))[0]  # few of the steps that close a connection at once
        if kind == 0:
            peer.log(chance.spoil(real))
        elif kind == 1:
            peer.log(real + chance.entry())
        elif kind == 7:
            peer.log(chance.record(len(real)))
        elif kind == 2:
            yield chance.control()
        elif kind == 3:
            yield frame(DROPPED, chance.packed((chance.value(), chance.value(), chance.value())))
        elif kind == 4:
            yield frame(chance.number(8), POSITION.pack(chance.number(64), chance.number(32)) + real)
        elif kind == 5:
            yield HEAD.pack(chance.number(32), chance.number(8)) + real
        elif peer.journal:
            number = chance.draw.randrange(4)
            chance.put_in_place(peer.journal if not number else f"{peer.journal}.{number}")
            peer.log(NUMBER.pack(LARGE, 0, 8, number) + bytes([MARK]))


def attack(address: str, seed: str) -> None:
    """Run one peer."""
    chance = Chance(seed)
    fds = chance.descriptors() if chance.draw.random() < 0.5 else []
    peer = Peer(address, chance.draw.choice((7, None, 8)), ("stdout", "stderr") if fds else (), fds)
    for fd in fds:
        os.close(fd)
    with contextlib.closing(peer):
        set_kernel_timeout(peer.sock, 2.0)
        if chance.draw.random() < 0.8:  # otherwise it would send before its turn
            peer.join()
        for data in steps(chance, peer):
            peer.send(data)


def main(address: str, seed: str) -> None:
    """Run peers, one after another, until this process is ended; write a dot for each."""
    os.chdir(tempfile.gettempdir())
    number = 0
    while True:
        # The next peer tries, whether the client disconnected or did not answer.
        with contextlib.suppress(OSError, EOFError, ProtocolError, ValueError):
            attack(address, f"{seed}.{number}")
        number += 1
        os.write(1, b".")


if __name__ == "__main__":
    main(*sys.argv[1:])
