"""A peer that knows the key and sends invalid data loses its own connection, and nothing else ends.

The client keeps running. It runs no code from such a peer, and keeps no memory and no descriptors for it.
Other workers lose nothing.
"""

from __future__ import annotations

import contextlib
import copyreg
import multiprocessing
import os
import pickle
import re
import resource
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshlog_handler import ConsoleHandler, FlushTimeout, LogClient, MeshFormatter, RankStats
from meshlog_handler.client.flushes.completions import MAX_COMPLETIONS
from meshlog_handler.client.peers.reactor import MAX_CONNECTED
from meshlog_handler.errors import ProtocolError
from meshlog_handler.journal.layout import HEADER as JOURNAL_HEADER
from meshlog_handler.journal.layout import START
from meshlog_handler.journal.reader import JournalReader
from meshlog_handler.journal.writer import Journal
from meshlog_handler.protocol.codec import Text, pack, unpack
from meshlog_handler.protocol.decode import RecordDecoder
from meshlog_handler.protocol.entries import DEFINE, HEADER, LARGE, RECORD, number_entry
from meshlog_handler.protocol.frames import CONTROL, DATA, DROPPED, HEAD, MAX_CONTROL, MAX_FRAME, frame
from meshlog_handler.protocol.messages import (
    Answer,
    Complete,
    Ending,
    Flush,
    Goodbye,
    Hello,
    Prepare,
    Welcome,
    decode,
    level_config,
)
from meshlog_handler.protocol.relay_messages import DownstreamJoined
from meshlog_handler.system.error_reports import AT_ONCE
from meshlog_handler.testing import RecordCollector
from meshlog_handler.transport.channel import Address, authenticate, read_frame
from tests.leaks import open_fds
from tests.waiting import until

from .hostile import RANK, Peer, bombs, entries, honest, join_many_times, joined, knock, stretch
from .procs import DEADLINE, join_all, started

NEST = b"[\x01\x00\x00\x00"

# Data that makes the client close the connection.
INVALID = {
    "a frame without a kind": HEAD.pack(0, DATA),
    "a huge length": HEAD.pack(0xFFFFFFFF, DATA),
    "a length just beyond the limit": HEAD.pack(MAX_FRAME + 1, DATA),
    "frames of no kind": frame(99, b"what is this"),
    "a stretch without its position": frame(DATA, b"0123"),
    "a stretch that skips": stretch(1, START + 1000, b"abc"),
    "a position that is none": stretch(1, 0xFFFFFFFF, b"abc"),
    "a message that nests deep": frame(CONTROL, NEST * 100 + b"N"),
    "drops that nest deeper than any stack": frame(DROPPED, NEST * 500_000 + b"N"),
    "a list that is longer than the memory": frame(CONTROL, b"[\xff\xff\xff\xff" + b"N" * 100),
    "a dict whose keys cannot be keys": frame(CONTROL, b"{\x01\x00\x00\x00[\x00\x00\x00\x00N"),
    "an order": frame(CONTROL, Flush(1).encode()),
    "a configuration": frame(CONTROL, Prepare(1, {"version": 1}).encode()),
    "a welcome": frame(CONTROL, Welcome(0, "/etc/passwd", ()).encode()),
    "a request to be flushed without a valid time": frame(CONTROL, Complete(1, float("nan")).encode()),
    "a second hello": frame(CONTROL, Hello(1, "", 0, 0, "", (), True, 0.0).encode()),
    "a message by an unknown name": frame(CONTROL, pack(("Shutdown", {}))),
    "a message whose name is no text": frame(CONTROL, pack((["Answer"], {"request": 1, "error": None}))),
    "a message whose field has a wrong type": frame(CONTROL, pack(("Answer", {"request": "1", "error": None}))),
    "a message that lacks a field": frame(CONTROL, pack(("Answer", {"request": 1}))),
    "a message with a field too many": frame(CONTROL, pack(("Goodbye", {"__class__": "Welcome"}))),
    "a message that is none": frame(CONTROL, pack("Goodbye")),
    "an empty message": frame(CONTROL, b""),
    "drops that are none": frame(DROPPED, pack("all")),
    "drops for an unknown reason": frame(DROPPED, pack((("boredom", 20, 1),))),
    "drops that are not counted": frame(DROPPED, pack((("full", 20, "many"),))),
    "more drops than there are levels": frame(DROPPED, pack(tuple(("full", level, 1) for level in range(2000)))),
}

# Data with valid frames and invalid entries. The client skips it.
UNREADABLE = {
    "entries of no kind": b"\x63" * 100,
    "a record of a shape that was not defined": HEADER.pack(RECORD, 999, 16) + bytes(16),
    "a record that is cut": HEADER.pack(RECORD, 1, 4000) + b"abc",
    "a shape that is no data": HEADER.pack(DEFINE, 1, 8) + b"\xff" * 8,
    "a shape that is other data": HEADER.pack(DEFINE, 1, len(pack(7))) + pack(7),
    "a shape with codes of its own": (body := pack(("P0q", 0.0, {}))) and HEADER.pack(DEFINE, 1, len(body)) + body,
    "a shape that nests deeper than any stack": HEADER.pack(DEFINE, 1, len(NEST) * 10_000 + 1) + NEST * 10_000 + b"N",
    "a side file that is not there": number_entry(LARGE, 12345),
    "a side file by a number that is none": number_entry(LARGE, (1 << 64) - 1),
}


@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
def test_invalid_data_closes_the_connection_of_its_sender(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with honest() as others:
        with joined(others.address) as peer:
            peer.log(entries("before"))
            others.until_shown("before")
            peer.send(data)
            peer.send(frame(CONTROL, Goodbye().encode()))
            assert peer.is_hung_up_on()
        others.are_heard()
        others.are_counted()
    said = capfd.readouterr().err
    assert said.count(f"meshlog: protocol error from rank {RANK} (pid {os.getpid()}); its connection is closed: ") == 1
    assert "goes on after" not in said


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_the_client_skips_entries_that_it_cannot_read(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with honest() as others:
        with joined(others.address) as peer:
            peer.log(entries("before"))
            peer.log(data)
            others.until_shown("before")
            others.are_heard()
        others.are_heard()
        others.are_counted()
    assert "goes on after" not in capfd.readouterr().err


@pytest.fixture
def _extension() -> Iterator[None]:
    """Let pickles name ``os.mkdir`` by a number."""
    copyreg.add_extension("os", "mkdir", 240)
    yield
    copyreg.remove_extension("os", "mkdir", 240)


@pytest.mark.usefixtures("_extension")
def test_no_pickle_runs_anywhere_in_the_data(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with honest() as others:
        for name, data in bombs(str(made)).items():
            pickle.loads(data)
            assert made.exists(), f"{name} would have run"
            made.rmdir()
            for decoder in (unpack, lambda data: decode(data, Answer, Goodbye), _thaw, _define):
                with pytest.raises(ProtocolError):
                    decoder(data)
            for sent in (frame(CONTROL, data), frame(DROPPED, data), data):
                with joined(others.address) as peer:
                    peer.send(sent)
                    peer.send(HEAD.pack(0, 0))
                    assert peer.is_hung_up_on()
            with joined(others.address) as peer:
                peer.log(data)
                peer.log(HEADER.pack(DEFINE, 1, len(data)) + data)
                others.are_heard()
            assert not made.exists()
        others.are_counted()


def _thaw(data: bytes) -> None:
    RecordDecoder({"rank": 0}, lambda _: b"").decode(data, 0, 1000, [])


def _define(data: bytes) -> None:
    _thaw(HEADER.pack(DEFINE, 1, len(data)) + data)


noise = st.binary(max_size=200)
frames = st.builds(frame, st.integers(0, 5), noise)
stretches = st.builds(stretch, st.integers(0, 3), st.sampled_from((START, START + 8, 0)), noise)
shaped = noise.map(lambda data: stretch(1, START, HEADER.pack(1 + len(data) % 4, len(data), len(data)) + data))


def test_random_bytes_have_no_effect(capfd: pytest.CaptureFixture[str]) -> None:
    with honest() as others:

        @settings(max_examples=100, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.one_of(noise, frames, stretches, shaped), max_size=6).map(b"".join))
        def attack(data: bytes) -> None:
            with joined(others.address) as peer:
                peer.send(data)

        attack()
        others.are_heard()
        others.are_counted()
        before = open_fds()
        attack()
        others.are_heard()
        until(lambda: len(open_fds()) <= len(before) + 2, DEADLINE, "the client to close what it opened")
    assert "goes on after" not in capfd.readouterr().err


def test_replayed_records_are_counted_and_not_shown_again() -> None:
    first, second = entries("one", "two"), entries("three")
    with honest() as others:
        with joined(others.address) as peer:
            peer.log(first)
            peer.send(stretch(1, START, first) * 3)
            peer.at = START
            peer.log(second, generation=2)
            peer.send(stretch(1, START, first))
            peer.send(stretch(2, START, second))
            peer.send(frame(CONTROL, Goodbye().encode()))
            others.are_heard()
        until(lambda: not others.logs.client.stats()[RANK].alive, DEADLINE, "the peer to be taken leave of")
        stats = others.logs.client.stats()[RANK]
        assert (stats.received, stats.duplicates) == (3, 2 * 3 + 2 + 1)
        assert [record.getMessage() for record in others.logs.of_rank(RANK)] == ["one", "two", "three"]
        others.are_counted()


def test_a_peer_that_claims_the_rank_of_a_worker_takes_nothing_from_it() -> None:
    """A rank can have several processes, such as a worker and its children. All are shown; a flush waits for all of them."""
    with honest() as others:
        with joined(others.address, rank=0) as peer:
            peer.log(entries("I am rank 0"))
            others.until_shown("I am rank 0")
            with pytest.raises(FlushTimeout) as silent:
                others.logs.flush(0.5)
            assert silent.value.receipt.missing == (0,), "one of its processes does not answer"
            assert silent.value.receipt.acked == (1,)
            stats = others.logs.client.stats()
            assert stats[0].received == 2 + 1
            assert (stats[1].received, stats[1].dropped) == (2, {})
        others.are_heard()
        assert others.logs.flush(DEADLINE).acked == (0, 1)
        bearers = {record.process for record in others.logs.of_rank(0)}
        assert len(bearers) == 2
        assert os.getpid() in bearers, "who it was is to be seen: a record has the id of its process"


def test_acknowledgements_for_other_ranks_have_no_effect() -> None:
    with honest() as others, joined(others.address) as peer:
        for number in range(1, 50):
            peer.send(frame(CONTROL, Answer(number, None).encode()))
            peer.send(frame(CONTROL, Answer((1 << 32) + number, "no").encode()))
        peer.send(frame(CONTROL, Answer(-(1 << 70), "\udcff").encode()))
        others.are_heard()
        with pytest.raises(FlushTimeout) as silent:
            others.logs.flush(0.3)
        assert silent.value.receipt.missing == (RANK,)
        assert silent.value.receipt.acked == (0, 1)


def test_the_client_reads_large_amounts_of_data_in_turns_and_does_not_keep_them() -> None:
    answers = frame(CONTROL, Answer(1, "x" * 1000).encode()) * 250
    shapes = b"".join(HEADER.pack(DEFINE, number, len(body)) + body for number, body in _definitions())
    with honest() as others:
        with joined(others.address) as peer:
            peer.send(answers)
            others.are_heard()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(200):
                peer.send(answers)  # 50 MB
            others.are_heard()
            generation = 1
            for _ in range(20):
                peer.at = START
                peer.log(shapes, generation)  # 50 MB
                generation += 1
            peer.send(HEAD.pack(MAX_FRAME, DATA) + bytes(1000))  # the rest is never sent
            others.are_heard()
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 64 * 1024, f"{grown} KiB"
        others.are_heard()
        others.are_counted()


def _definitions() -> Iterator[tuple[int, bytes]]:
    common = {"levelno": 20, "levelname": "INFO", "name": "n", "pathname": "", "filename": "", "module": "", "lineno": 1}
    for number in range(2500):
        yield number, pack(("q", 0.0, {**common, "msg": f"{number} {'y' * 900}"}))


def test_a_peer_that_joins_many_times_counts_as_one_rank() -> None:
    with honest() as others:
        before = len(open_fds())
        for _ in range(100):
            with joined(others.address) as peer:
                peer.log(entries("again"))
        others.are_heard()
        until(lambda: len(open_fds()) <= before + 2, DEADLINE, "the client to close what it opened")
        receipt = others.logs.flush(DEADLINE)
        assert receipt.missing == ()
        assert receipt.acked == (0, 1, RANK), "it lives, and its journal was read"
        assert others.logs.client.stats()[RANK].received == 100
        others.are_counted()


def test_a_process_can_have_a_bounded_number_of_connections(capfd: pytest.CaptureFixture[str]) -> None:
    results, answer = multiprocessing.Pipe(duplex=False)
    with honest() as others, results, answer:
        with started("fork", join_many_times, [(others.address, MAX_CONNECTED + 10, answer)]) as procs:
            assert [results.recv(), results.recv()] == [MAX_CONNECTED, MAX_CONNECTED]
            join_all(procs)
        others.are_heard()
        others.are_counted()
    assert f"has {MAX_CONNECTED} connections already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("captured", "count"),
    [(("stdout",), 1), (("stdout", "stderr"), 1), (("stdout", "stdout"), 2), (("stdin",), 1), (("stdout",), 20)],
)
def test_the_client_refuses_and_closes_descriptors_that_are_not_the_expected_pipes(
    captured: tuple[str, ...], count: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        with honest() as others:
            before = len(open_fds())
            peer = Peer(others.address, captured=captured, fds=[file] * count)
            assert peer.is_hung_up_on()
            peer.close()
            others.are_heard()
            until(lambda: len(open_fds()) == before, DEADLINE, "the client to close what it was given")
            others.are_counted()
    finally:
        os.close(file)
    assert "a connection was refused: ProtocolError" in capfd.readouterr().err


def test_a_journal_that_is_not_a_regular_file_does_not_block_the_client() -> None:
    with honest() as others:
        peer = Peer(others.address)
        with contextlib.closing(peer):
            journal = peer.join().journal
            os.mkfifo(journal)
            peer.send(frame(CONTROL, Goodbye().encode()))
        others.are_heard()
        link = Peer(others.address)
        with contextlib.closing(link):
            os.symlink("/dev/zero", link.join().journal)
            link.send(frame(CONTROL, Goodbye().encode()))
        others.are_heard()
        until(lambda: not others.logs.client.stats()[RANK].alive, DEADLINE, "the peers to be taken leave of")
        os.unlink(journal) if os.path.exists(journal) else None


def test_a_sparse_journal_uses_little_memory(tmp_path: Path) -> None:
    path, size = tmp_path / "journal", 1 << 30
    Journal(str(path), 1 << 20).close()
    head = bytearray(path.read_bytes()[: JOURNAL_HEADER.size])
    magic, segments, _, pid = JOURNAL_HEADER.unpack(head)
    segment = (size - 4096) // segments // 4096 * 4096
    with path.open("wb") as file:
        file.write(JOURNAL_HEADER.pack(magic, segments, segment, pid))
        for index in range(segments):
            file.seek(4096 + index * segment)
            file.write((index + 1).to_bytes(8, "little"))
        file.truncate(4096 + segments * segment)
    tracemalloc.start()
    try:
        assert list(JournalReader(str(path)).ranges()) == []
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_pipe_that_is_set_to_blocking_mode_does_not_block_the_client() -> None:
    read_end, write_end = os.pipe()
    try:
        with honest() as others:
            peer = Peer(others.address, captured=("stdout",), fds=(read_end,))
            with contextlib.closing(peer):
                peer.join()
                os.set_blocking(read_end, True)  # all processes that have the pipe share this flag
                for number in range(20):
                    os.write(write_end, b"x" * 10)
                    os.set_blocking(read_end, True)
                    with contextlib.suppress(BlockingIOError):  # the client was faster
                        os.preadv(read_end, [bytearray(100)], -1, os.RWF_NOWAIT)
                    if number % 5 == 0:
                        others.are_heard()
            others.are_heard()
    finally:
        os.close(read_end)
        os.close(write_end)


def test_the_client_refuses_the_write_end_of_a_pipe() -> None:
    ends = os.pipe()
    try:
        with honest() as others:
            peer = Peer(others.address, captured=("stdout",), fds=(ends[1],))
            with contextlib.closing(peer):
                assert peer.is_hung_up_on()
            others.are_heard()
    finally:
        for end in ends:
            os.close(end)


UNSAFE = "\x1b]0;owned\x07\x9b31m\u202e\u2066\u2028\r\n\udc80"
"""Sets the title of the terminal, a colour, the direction of the text; ends the line."""

CONTROLS = set(UNSAFE) - set("]0;owned31m\n")
LOUD = UNSAFE + "x" * 1_000_000

# What a peer may say of itself, or in data that is refused.
SPOKEN = {
    "the name of a message": lambda peer: peer.send(frame(CONTROL, pack((LOUD, {})))),
    "a drop count": lambda peer: peer.send(frame(DROPPED, pack(((LOUD, 20, 1),)))),
    "a drop count that nests": lambda peer: peer.send(frame(DROPPED, pack(([LOUD.encode("utf-8", "surrogatepass")] * 3,)))),
    "the text of a value": lambda peer: peer.send(frame(DROPPED, pack((Text("", UNSAFE), 1)))),
    "codes of a schema": lambda peer: peer.log(define((LOUD, 0.0, {}))),
    "a key of a schema": lambda peer: peer.log(define(("", 0.0, {LOUD: 1}))),
    "an uncaught exception": lambda peer: peer.send(frame(CONTROL, Ending(LOUD).encode())),
}


def define(body: object) -> bytes:
    """Return a DEFINE entry."""
    data = pack(body)
    return HEADER.pack(DEFINE, 1, len(data)) + data


def check_safe(said: str) -> None:
    """Check that a text is short, and has no control or bidirectional character but line ends."""
    assert len(said) < 8 * 1024
    assert not CONTROLS & set(said)
    for line in said.splitlines():
        assert line.startswith(("meshlog: ", "    ")), "a peer cannot begin a line"


@pytest.mark.parametrize("say", SPOKEN.values(), ids=SPOKEN)
def test_what_a_peer_says_is_cut_and_escaped_before_it_is_printed(
    say: Callable[[Peer], None], capfd: pytest.CaptureFixture[str]
) -> None:
    with honest() as others:
        with joined(others.address) as peer:
            say(peer)
            others.are_heard()
        others.are_heard()
        shown = [record.getMessage() for record in others.logs.records if record.process not in others.pids]
    check_safe(capfd.readouterr().err)
    for text in shown:
        assert len(text) < 8 * 1024
        assert not CONTROLS & set(text)


def break_journal(peer: Peer) -> None:
    """Leave a journal that cannot be read."""
    Path(peer.join().journal).write_bytes(b"nothing of a journal")
    peer.send(frame(CONTROL, Goodbye().encode()))
    peer.sock.shutdown(socket.SHUT_WR)


# How a message of the client begins, what the Hello message has, and what the peer does then.
TIRESOME: dict[str, tuple[str, dict[str, Any], Callable[[Peer], None]]] = {
    "frames of no kind": ("protocol error from ", {}, lambda peer: peer.send(frame(99, b"what is this"))),
    "a long name": ("a connection was refused", {"hostname": LOUD[:1000]}, lambda peer: None),
    "no journal": ("the journal of ", {}, break_journal),
    "an observer": ("protocol error from an observer", {"observer": True}, lambda peer: peer.send(frame(99, b"what is this"))),
}


@pytest.mark.parametrize(("message", "hello", "act"), TIRESOME.values(), ids=TIRESOME)
def test_a_peer_that_reconnects_again_and_again_causes_few_messages(
    message: str, hello: dict[str, Any], act: Callable[[Peer], None], capfd: pytest.CaptureFixture[str]
) -> None:
    count = 3 * AT_ONCE
    with LogClient(RecordCollector()) as client:
        for number in range(count):
            with contextlib.closing(Peer(client.address, rank=number, **hello)) as peer:
                act(peer)
                assert peer.is_hung_up_on()
    lines = capfd.readouterr().err.splitlines()
    about = [line for line in lines if line.startswith(f"meshlog: {message}")]
    assert lines == about
    assert AT_ONCE < len(lines) <= AT_ONCE + 6
    named = [line for line in lines if ": " in line.removeprefix("meshlog: ")]
    unreported = [int(found[1]) for line in lines if (found := re.search(r"\((\d+) more like it were not reported\)$", line))]
    assert len(named) + sum(unreported) == count


@pytest.mark.parametrize("words", [{"hostname": LOUD}, {"mesh": LOUD}, {"captured": (LOUD,)}, {"launched": LOUD}])
def test_a_hello_with_long_names_is_refused(words: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    short = {name: value[:1000] if isinstance(value, str) else (value[0][:1000],) for name, value in words.items()}
    hello = Hello(os.getpid(), "here", RANK, None, "", (), True, 0.0)
    with honest() as others:
        for sent in (words, short) if "launched" not in words else (words,):
            sock = authenticate(knock(others.address), Address.parse(others.address).key)
            with contextlib.closing(sock), contextlib.suppress(ConnectionError):  # it closed with unread bytes of this end
                sock.sendall(frame(CONTROL, hello.replaced(**sent).encode()))
                assert sock.recv(1) == b""
        others.are_heard()
        others.are_counted()
    said = capfd.readouterr().err
    assert "a connection was refused: ProtocolError: " in said
    check_safe(said)


def test_the_name_of_a_relay_is_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    with honest() as others:
        with contextlib.closing(Peer(others.address, rank=None, relay=True, hostname=UNSAFE)) as relay:
            relay.join()
            relay.send(frame(CONTROL, DownstreamJoined(40, "", 1, UNSAFE, {}).encode()))
            others.are_heard()
            relay.send(HEAD.pack(0, 0))
            assert relay.is_hung_up_on()
        others.are_heard()
    said = capfd.readouterr().err
    assert "protocol error from the relay on \\x1b]0;owned\\x07" in said
    check_safe(said)


def test_a_prefix_shows_the_host_and_the_coordinates_of_a_peer_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    console = ConsoleHandler()
    console.setFormatter(MeshFormatter("{message}", style="{", prefix="[{hostname} {coords} {coords[a]}] "))
    with LogClient(console) as client:
        with contextlib.closing(Peer(client.address, hostname=UNSAFE, coords={"a": UNSAFE, UNSAFE: 1})) as peer:
            peer.join().log(entries("shown"))
            until(lambda: client.stats().get(RANK, RankStats(RANK, 0)).received == 1, DEADLINE)
        client.flush_soon(1.0, lambda member: False).result(DEADLINE)
    said = "".join(capfd.readouterr())
    assert "shown" in said
    assert not CONTROLS & set(said)
    assert said.count("\n") == 1


def test_a_frame_of_a_relay_has_a_limit(capfd: pytest.CaptureFixture[str]) -> None:
    with honest() as others:
        with contextlib.closing(Peer(others.address, rank=None, relay=True)) as relay:
            relay.join()
            relay.send(HEAD.pack(MAX_CONTROL + 1, CONTROL))
            assert relay.is_hung_up_on()
        others.are_heard()
    assert f"a frame of {MAX_CONTROL + 1} bytes" in capfd.readouterr().err


def test_a_worker_that_asks_for_too_many_flushes_is_disconnected(capfd: pytest.CaptureFixture[str]) -> None:
    with honest() as others, joined(others.address) as peer:
        requests = (frame(CONTROL, Complete(number, None).encode()) for number in range(1, MAX_COMPLETIONS + 2))
        peer.send(b"".join(requests))
        assert peer.is_hung_up_on()
        others.are_heard()
    assert f"more than {MAX_COMPLETIONS} flushes" in capfd.readouterr().err


def test_the_reason_why_a_command_failed_is_cut_and_escaped() -> None:
    with honest() as others, joined(others.address) as peer:
        command = Prepare(others.logs.client.next_request(), level_config(20, "app"), final=True)
        future = others.logs.client.send_command_soon(command, lambda member: member.rank == RANK)
        assert decode(read_frame(peer.sock, MAX_CONTROL)[1], Prepare) == command
        peer.send(frame(CONTROL, Answer(command.request, LOUD).encode()))
        (reason,) = future.result(DEADLINE).values()
    assert isinstance(reason, str)
    check_safe(f"meshlog: {reason}")
