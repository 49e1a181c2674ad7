"""Observers, relays and browsers that mean harm: each costs itself its connection, and nobody is kept waiting."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from meshlog_handler import LogClient
from meshlog_handler.cli.page.live import LivePage
from meshlog_handler.cli.page.server import PageServer
from meshlog_handler.cli.view.observer import Observer, runs
from meshlog_handler.client.observers import observers
from meshlog_handler.protocol.codec import pack
from meshlog_handler.protocol.frames import CONTROL, HEAD, MAX_CONTROL, FrameReader, frame
from meshlog_handler.protocol.messages import Goodbye, Hello, Message
from meshlog_handler.protocol.observer_messages import MAX_BACKLOG, AskAbout, AskFlush, AskLevel, AskStacks, Follow
from meshlog_handler.protocol.relay_messages import (
    DownstreamEnded,
    DownstreamJoined,
    DownstreamReached,
    DownstreamReplies,
    DownstreamStacks,
    RankRequest,
)
from meshlog_handler.transport.channel import Address, Link, connect
from tests.waiting import until

from .hostile import Honest, honest
from .procs import DEADLINE

BIG = (1 << 63) - 1


def joined(address: str, *, observer: bool = False) -> Link:
    """Join as an observer, or as a relay."""
    hello = Hello(os.getpid(), "far", None, None, "", (), not observer, 0.0, relay=not observer, observer=observer)
    return connect(Address.parse(address), hello, ())[0]


def observing(address: str) -> socket.socket:
    sock: socket.socket = joined(address, observer=True).release()
    sock.settimeout(DEADLINE)
    return sock


def asked(message: Message, count: int) -> bytes:
    return frame(CONTROL, message.encode()) * count


def follows_again(sock: socket.socket) -> None:
    sock.sendall(asked(Follow(0, None, MAX_BACKLOG), 2000))


def asks_and_does_not_read(sock: socket.socket) -> None:
    sock.sendall(asked(AskAbout(1), 3000))


def asks_for_stacks_that_take_an_hour(sock: socket.socket) -> None:
    sock.sendall(asked(AskStacks(1, tuple(range(1000)), 3600.0), 100))


def waits_an_hour_for_flushes(sock: socket.socket) -> None:
    sock.sendall(asked(AskFlush(1, 3600.0), 100))


def sets_levels_of_many_loggers(sock: socket.socket) -> None:
    for number in range(200):
        sock.sendall(asked(AskLevel(1, 10, f"{number:0>1000}", (100_000,), None), 1))


def begins_a_message(sock: socket.socket) -> None:
    sock.sendall(HEAD.pack(observers.MAX_ASKED, CONTROL) + bytes(1000))


def sends_a_deep_message(sock: socket.socket) -> None:
    deep: Any = ("AskAbout", {"request": ((((1,),),),)})
    sock.sendall(frame(CONTROL, pack(deep)))


HARMS = [
    follows_again,
    asks_and_does_not_read,
    asks_for_stacks_that_take_an_hour,
    waits_an_hour_for_flushes,
    sets_levels_of_many_loggers,
    begins_a_message,
    sends_a_deep_message,
]


@pytest.fixture(scope="module")
def both() -> Iterator[Honest]:
    """Two honest workers, for all tests of this file."""
    with honest() as both:
        yield both


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_an_observer_keeps_nobody_waiting(harm: Callable[[socket.socket], None], both: Honest) -> None:
    with closing(observing(both.address)) as sock:
        harm(sock)
        began = time.monotonic()
        both.are_heard()
        with Observer.connect(both.address) as other:
            assert other.about()["ranks"] == (0, 1)
        assert time.monotonic() - began < 5.0
    until(lambda: not both.logs.client._loop.observers._observers, what="the client to forget it")


def test_what_waits_for_an_observer_that_does_not_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "MAX_UNREAD", 10_000)
    with LogClient() as client, closing(observing(client.address)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(asked(AskAbout(1), 3000))

        def waiting() -> tuple[int, int]:
            return client.ask(lambda: next((len(each.outbox), each.open) for each in client._loop.observers._observers))

        until(lambda: waiting()[0] > 10_000 and not waiting()[1], what="its outbox to be full")
        assert waiting()[0] < 20_000
        frames, count = FrameReader(MAX_CONTROL), 0
        while count < 3000:  # it reads again: all questions are answered
            count += len(list(frames.feed(sock.recv(65536))))


RELAYED: dict[str, Callable[[], list[Message]]] = {
    "ranks that join and end": lambda: [
        message
        for rank in range(1000)
        for message in (
            DownstreamJoined(1000 + rank, f"mesh-{rank}", 7, "far", {}),
            DownstreamEnded(1000 + rank, COUNTERS, 0),
        )
    ],
    "the largest numbers": lambda: [
        DownstreamJoined(1000, "", BIG, "far", {"gpus": BIG}),
        DownstreamJoined(1001, "", -BIG, "far", {"gpus": -BIG}),
        DownstreamReached(
            BIG, (), (), (), BIG, {1000: {**COUNTERS, "received": BIG}, 1001: {**COUNTERS, "received": BIG}}, BIG
        ),
        DownstreamEnded(1001, {**COUNTERS, "dropped": {"full": BIG}}, BIG),
    ],
    "answers that nobody asked for": lambda: (
        [DownstreamReplies(number, tuple((rank, None) for rank in range(1000))) for number in range(100)]
        + [DownstreamStacks(number, ((0, 0), (1, BIG)), (b"",)) for number in range(100)]
    ),
    "requests for ranks": lambda: [RankRequest(number) for number in range(2000)],
}
COUNTERS: dict[str, Any] = {
    "pid": 1,
    "alive": True,
    "received": 1,
    "replayed": 0,
    "duplicates": 0,
    "lines": 0,
    "dropped": {},
    "last_seq": 0,
    "last_seen": 0.0,
}


@pytest.mark.parametrize("messages", RELAYED.values(), ids=RELAYED)
def test_a_relay_keeps_nobody_waiting(messages: Callable[[], list[Message]], both: Honest) -> None:
    link = joined(both.address)
    reading = threading.Thread(target=_read, args=(link,))
    reading.start()
    try:
        for message in messages():
            link.send_message(message)
        began = time.monotonic()
        both.are_heard()
        with Observer.connect(both.address) as observer:
            assert observer.about()["records"] > 0
            observer.stats()
        assert time.monotonic() - began < 5.0
    finally:
        link.send_message(Goodbye())
        link.close()
        reading.join(DEADLINE)
        link.forget()
    both.are_heard()


def _read(link: Link) -> None:
    try:
        while True:
            link.receive(None)
    except (OSError, EOFError):
        return


REQUESTS = {
    "no request": b"\0" * 100_000,
    "a long line": b"GET /" + b"x" * 200_000,
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
    "an old protocol": b"GET /\r\n",
    "an odd protocol": b"GET / HTTP/9.9999999999999999999\r\n\r\n",
    "a body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n",
    "an address": b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    "half of a request": b"GET / HTTP/1.1\r\nHost: ",
}


def test_no_request_ends_the_page_of_a_run() -> None:
    with LogClient() as client, ExitStack() as closing_all:
        (run,) = [each for each in runs() if each.address == client.address]
        page = LivePage(run)
        server = PageServer(page)
        page.start()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            for data in REQUESTS.values():
                sock = closing_all.enter_context(socket.create_connection(("127.0.0.1", server.server_port), DEADLINE))
                try:
                    sock.sendall(data)
                except ConnectionError:  # it was refused before all was sent
                    continue
            with socket.create_connection(("127.0.0.1", server.server_port), DEADLINE) as sock:
                sock.sendall(f"GET /{server.token}/ HTTP/1.1\r\nHost: {server.names[0]}\r\n\r\n".encode())
                assert sock.recv(15) == b"HTTP/1.1 200 OK"
            assert client.flush(5.0).missing == ()
        finally:
            closing_all.close()
            server.shutdown()
            server.server_close()
            page.close()
            thread.join(DEADLINE)
