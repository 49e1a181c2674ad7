"""Authentication: a connection without the key is refused, delays no other connection, and finds the key nowhere."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import meshlog_handler
from meshlog_handler import ConnectError, LogClient, LogRelay, ProcMesh, SettingError, this_host
from meshlog_handler.client.peers.registry import FIRST_UNGRANTED
from meshlog_handler.errors import ProtocolError
from meshlog_handler.protocol.frames import CONTROL, DATA, HEAD, MAX_FRAME
from meshlog_handler.protocol.messages import Hello
from meshlog_handler.protocol.relay_messages import RankGranted
from meshlog_handler.testing import CollectedLogs, collected
from meshlog_handler.transport import channel, listener
from meshlog_handler.transport.channel import Address, abstract, authenticate, connect
from meshlog_handler.transport.listener import MAX_OF_ONE, MAX_PENDING
from meshlog_handler.transport.runs import FILE
from meshlog_handler.worker import this_process
from meshlog_handler.worker.member import JoinOptions
from tests.leaks import open_fds
from tests.waiting import until

from . import workers
from .hostile import Honest, Peer, entries, honest, joined, knock
from .procs import DEADLINE, importing, join_all, started

SHORT = 0.4


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[Honest]:
    """Two honest workers that have joined already; from now on, the time for a handshake is short."""
    with honest() as both:
        monkeypatch.setattr(listener, "HANDSHAKE_SEC", SHORT)
        before = len(open_fds())
        yield both
        both.are_heard()
        both.are_counted()
        until(lambda: len(open_fds()) <= before, DEADLINE, "the client to close its end")


def is_hung_up_on(sock: socket.socket) -> bool:
    """Wait until the other end has closed the connection."""
    with contextlib.closing(sock), contextlib.suppress(ConnectionError):  # it closed with unread bytes of this end
        while sock.recv(65536):
            continue
    return True


def pending_connections(logs: CollectedLogs) -> int:
    """Return the number of connections that have not joined."""
    return logs.client._listener.pending


def test_a_worker_can_join_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with honest() as others, monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(MAX_OF_ONE + 1):
            knock(others.address).close()
        with joined(others.address) as peer:
            peer.log(entries("without a thread"))
            others.until_shown("without a thread")


def test_a_connection_with_a_wrong_key_is_refused(
    others: Honest, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, tell = list[str](), others.logs.client.error_reports.tell

    def note(kind: str, text: str) -> None:
        tell(kind, text)
        told.append(text)

    monkeypatch.setattr(others.logs.client._listener, "_tell", note)
    monkeypatch.setattr(listener, "HANDSHAKE_SEC", DEADLINE)  # else the connection may be refused for being slow
    address = Address.parse(others.address)
    for key in (bytes(32), address.key[:-1] + bytes([address.key[-1] ^ 1]), address.key[:16]):
        with contextlib.closing(knock(others.address)) as sock, pytest.raises(ProtocolError):
            authenticate(sock, key)
        with pytest.raises(ConnectError, match="the other end does not know the key"):
            this_process.join(JoinOptions(str(address._replace(key=key))))
    # The threads of the listener write this after the connection has its answer.
    until(lambda: len(told) == 6, DEADLINE)
    said = capfd.readouterr().err  # once: what is written while it is read is lost
    assert said.count("a connection was refused: ProtocolError: the other end does not know the key") == 6
    assert address.key.hex() not in said


def test_a_worker_that_lost_its_place_in_a_crowd_tries_again(others: Honest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client closes its first two connections, because it has no processor time to send anything."""
    monkeypatch.setattr(listener, "MAX_PENDING", 1)
    monkeypatch.setattr(listener, "_SILENT_SEC", 0.0)
    closed: list[bool] = []

    def authenticate_late(sock: socket.socket, key: bytes) -> socket.socket:
        if len(closed) < 2:
            with knock(others.address):  # takes the place
                poll = select.poll()
                poll.register(sock, 0)  # only for the end of the connection
                closed.append(bool(poll.poll(DEADLINE * 1000)))
        return authenticate(sock, key)

    monkeypatch.setattr(channel, "authenticate", authenticate_late)
    hello = Hello(os.getpid(), "here", None, None, "", (), forwarding=False, started=0.0, observer=True)
    link, _ = connect(Address.parse(others.address), hello, ())
    link.close()
    link.forget()
    assert closed == [True, True]


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\x00",
        b"\x00\x00\x00\x20",
        b"\x7f\xff\xff\xff" + b"x" * 100,
        b"\xff\xff\xff\xff\x7f" + b"\xff" * 7,
        b"GET / HTTP/1.0\r\n\r\n",
    ],
    ids=["silence", "a byte", "a length", "a huge length", "a length of 64 bits", "another protocol"],
)
def test_a_connection_that_does_not_prove_the_key_is_closed(others: Honest, first: bytes) -> None:
    sock = knock(others.address)
    sock.sendall(first)
    others.are_heard()
    assert is_hung_up_on(sock)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        HEAD.pack(MAX_FRAME + 1, CONTROL),
        HEAD.pack(0, CONTROL),
        HEAD.pack(9, DATA) + b"a stretch",
        HEAD.pack(5, CONTROL) + b"wild",
        HEAD.pack(500, CONTROL),
    ],
    ids=["silence", "a huge length", "no kind", "other things first", "what is no message", "half a message"],
)
def test_an_authenticated_connection_without_a_valid_hello_is_closed(others: Honest, first: bytes) -> None:
    sock = authenticate(knock(others.address), Address.parse(others.address).key)
    sock.sendall(first)
    others.are_heard()
    assert is_hung_up_on(sock)


def test_a_peer_that_claims_a_capture_and_sends_no_descriptors_is_closed(others: Honest) -> None:
    peer = Peer(others.address, captured=("stdout",))
    others.are_heard()
    assert peer.is_hung_up_on()
    peer.close()


def test_a_slow_connection_is_closed_before_its_handshake_completes(others: Honest) -> None:
    """Each byte arrives in time, but the whole message does not."""
    with contextlib.closing(knock(others.address)) as sock:
        words = iter(b"\x00\x00\x00\x40" + b"x" * 10_000)

        def refused() -> bool:
            try:
                sock.sendall(bytes([next(words)]))
            except ConnectionError:
                return True
            return False

        until(refused, DEADLINE, "the client to hang up", interval=SHORT / 20)


def test_many_unauthenticated_connections_do_not_keep_a_worker_from_joining(others: Honest) -> None:
    threads = set(threading.enumerate())
    crowd = [knock(others.address) for _ in range(3 * MAX_PENDING)]  # this process may have any number
    until(lambda: pending_connections(others.logs) == MAX_PENDING, DEADLINE, "no room for another connection")
    others.are_heard()
    with started("fork", workers.log_numbered, [(others.address, 3, "return")]) as procs:
        most = 0
        while procs[0].is_alive():
            most = max(most, pending_connections(others.logs))
            procs[0].join(0.01)
        assert join_all(procs) == [0]
    assert most <= MAX_PENDING
    assert set(threading.enumerate()) <= threads, "a connection costs no thread"
    others.until_shown("number 2")
    assert all(map(is_hung_up_on, crowd))


def there_are(logs: CollectedLogs, count: int) -> bool:
    """Return whether so many connections have not joined."""
    return pending_connections(logs) == count


@contextlib.contextmanager
def pids_told(monkeypatch: pytest.MonkeyPatch, pids: Iterator[int]) -> Iterator[None]:
    """Let the kernel seem to report these processes, one for each connection of this process."""
    told: dict[int, int] = {}

    def pid_of(sock: socket.socket) -> int:
        if sock.fileno() not in told:
            told[sock.fileno()] = next(pids)
        return told[sock.fileno()]

    with monkeypatch.context() as patch:
        patch.setattr(listener, "peer_pid", pid_of)
        yield


@pytest.mark.parametrize("proved", [False, True], ids=["without the key", "with the key"])
def test_at_the_limit_the_process_with_the_most_connections_gives_one_up(proved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can keep another from joining: a process with a connection to spare has to give it up."""
    monkeypatch.setattr(listener, "MAX_PENDING", 40)
    monkeypatch.setattr(listener, "_SILENT_SEC", DEADLINE)
    with honest() as others, contextlib.ExitStack() as stack:
        key = Address.parse(others.address).key
        crowd = [5_000_000 + number % 20 for number in range(40)]  # no process has such an id
        with pids_told(monkeypatch, iter([*crowd, os.getppid()])):
            for number in range(40):
                sock = stack.enter_context(knock(others.address))
                if proved:
                    authenticate(sock, key)
                until(partial(there_are, others.logs, number + 1), DEADLINE)
            with contextlib.closing(Peer(others.address)) as newcomer:
                newcomer.join()
            assert pending_connections(others.logs) == 39
        others.are_heard()


CROWD = """
import os, socket, sys, time
sockets, parent, count = [], int(sys.argv[2]), int(sys.argv[3])
own = os.getpid()
for _ in range(count - 1):
    if os.fork() == 0:
        parent = own
        break
while os.getppid() == parent:
    time.sleep(0.25 if count > 1 else 0)
    for number in range(200 // count + 10):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect((sys.argv[1], "\\0" + sys.argv[4])[number % 2])
        except OSError:
            sock.close()
            break
        sockets.append(sock)
    for sock in tuple(sockets):
        try:
            gone = not sock.recv(4096)
        except OSError as failure:
            gone = not isinstance(failure, BlockingIOError)
        if gone:
            sock.close()
            sockets.remove(sock)
"""
"""Connects as fast as it can to both sockets, sends nothing, and reconnects when its connection is closed."""


@contextlib.contextmanager
def crowd(address: str, count: int = 1) -> Iterator[None]:
    """Run processes that connect again and again without the key."""
    path, name = Address.parse(address).path, abstract(Address.parse(address)).removeprefix("\0")
    words = [sys.executable, "-c", CROWD, path, str(os.getpid()), str(count), name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()  # all have ended


@contextlib.contextmanager
def looks_of_the_listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Yield the results of `Listener.accept` on the client's thread: whether the listener may stay open."""
    accept, found = listener.Listener.accept, list[bool]()

    def look(self: listener.Listener) -> bool:
        found.append(accept(self))
        return found[-1]

    with monkeypatch.context() as patch:
        patch.setattr(listener.Listener, "accept", look)
        yield found


def test_a_process_that_keeps_reconnecting_does_not_keep_workers_from_joining(monkeypatch: pytest.MonkeyPatch) -> None:
    with looks_of_the_listener(monkeypatch) as looks, honest() as others, crowd(others.address):
        until(lambda: pending_connections(others.logs) == MAX_OF_ONE, DEADLINE, "the crowd")
        until(lambda: False in looks, DEADLINE, "the listener to be left out for a while")
        before, began = len(looks), time.monotonic()
        with started("fork", workers.log_numbered, [(others.address, 3, "return")] * 3) as procs:
            assert join_all(procs) == [0, 0, 0]
        others.until_shown("number 2")
        others.are_heard()
        passed = time.monotonic() - began
        assert len(looks) - before <= passed / 0.05 + 2, "it does not look more often than it listens"
        assert pending_connections(others.logs) <= MAX_OF_ONE


def test_a_client_without_free_descriptors_does_not_poll_its_listener_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with looks_of_the_listener(monkeypatch) as looks, honest() as others, contextlib.ExitStack() as stack:
        waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fd for fd, _ in open_fds()) + 1, limits[1]))
        with contextlib.suppress(OSError):  # no descriptor is left
            while True:
                stack.callback(os.close, os.dup(0))
        waiting.connect(Address.parse(others.address).path)
        until(lambda: looks.count(False) > 3, DEADLINE, "the client to look for a descriptor")
        began, before = time.monotonic(), len(looks)
        others.are_heard()
        assert len(looks) - before <= (time.monotonic() - began) / 0.05 + 2
        stack.close()
        until(lambda: looks[-1], DEADLINE, "the client to let it come")
        waiting.close()


def test_unauthenticated_connections_do_not_keep_a_client_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SEC", 300.0)
    with collected() as logs:
        crowd = [knock(logs.address) for _ in range(10)]
        until(lambda: pending_connections(logs) == 10, DEADLINE, "all to be connected")
    assert pending_connections(logs) == 0
    assert all(map(is_hung_up_on, crowd))


# README, "What is guaranteed": Access is restricted.
def test_only_the_user_can_access_the_run_directory_socket_and_journals() -> None:
    umask = os.umask(0)
    try:
        with honest() as others:
            socket_path = Path(Address.parse(others.address).path)
            assert mode(socket_path) == 0o600
            assert stat.S_ISSOCK(socket_path.stat().st_mode)
            assert mode(socket_path.parent) == mode(socket_path.parent.parent) == 0o700
            journals = list(socket_path.parent.glob("*.journal"))
            assert len(journals) == 2
            assert {mode(path) for path in journals} == {0o600}
    finally:
        os.umask(umask)


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


# -- the key -------------------------------------------------------------------------------------------------------------


def command_lines() -> str:
    """Return the command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process has ended
            found.append(path.read_bytes().decode(errors="replace"))
    assert any("pytest" in words for words in found)
    return "\n".join(found)


@pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="command lines are read from /proc")
def test_the_key_is_in_no_command_line() -> None:
    with LogClient(logging.NullHandler()) as client:
        key = Address.parse(client.address).key.hex()
        program = "import meshlog_handler, sys; meshlog_handler.install(capture=False); print('in', flush=True); input()"
        words = [sys.executable, "-c", program]
        env = importing(client.environ())
        with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as proc:
            assert proc.stdout is not None
            assert proc.stdout.readline() == b"in\n"
            assert key not in command_lines()
            proc.communicate(b"\n")
        for method in ("spawn", "forkserver"):
            with started(method, workers.log_numbered, [(client.address, 1, "return")]) as procs:
                assert key not in command_lines()
                assert join_all(procs) == [0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_key_of_a_mesh_is_in_one_private_file_and_in_no_command_line_or_repr(
    method: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mesh: ProcMesh = this_host().spawn_procs({"gpus": 2}, start_method=method, log_dir=str(tmp_path))
    with mesh:
        mesh.initialized.get(DEADLINE)
        client = mesh.logging.client
        address = Address.parse(client.address)
        assert address.key.hex() not in command_lines()
        mesh.call(print, "printed").get(DEADLINE)
        mesh.flush(timeout=DEADLINE).get(DEADLINE)
        for each in (mesh, mesh.logging, client, address, client.stats(), JoinOptions(str(address))):
            hide(address.key, repr(each).encode())
        kept = [path for path in (*tmp_path.rglob("*"), *Path(address.path).parent.iterdir()) if path.is_file()]
        assert len(kept) >= 4, "journals and files of lines"
        (private,) = [path for path in kept if path.name == FILE]
        assert private.stat().st_mode & 0o777 == 0o600
        for path in kept:
            if path != private:
                hide(address.key, path.read_bytes())
    said = capfd.readouterr()
    hide(address.key, (said.out + said.err).encode())


@pytest.mark.usefixtures("restored_logging")
def test_the_key_is_in_no_error_message(capfd: pytest.CaptureFixture[str]) -> None:
    with collected() as logs:
        address = Address.parse(logs.address)
    with pytest.raises(ConnectError) as gone:
        this_process.join(JoinOptions(str(address)))
    with pytest.raises(SettingError) as odd:
        Address.parse(str(address).replace("meshlog://", "http://"))
    meshlog_handler.install(str(address))
    for text in (str(gone.value), str(odd.value), repr(gone.value), capfd.readouterr().err):
        hide(address.key, text.encode())


def hide(key: bytes, data: bytes) -> None:
    """Fail if `data` contains the key."""
    for spelled in (key, key.hex().encode(), repr(key).encode()):
        assert spelled not in data


def test_a_client_without_free_descriptors_does_not_blame_the_worker() -> None:
    before = open_fds()
    with contextlib.ExitStack() as closing:
        ours, theirs = (closing.enter_context(sock) for sock in socket.socketpair())
        pipe = os.pipe()
        for fd in pipe:
            closing.callback(os.close, fd)
        socket.send_fds(theirs, [b"F"], pipe)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        closing.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with open(os.devnull) as lowest:
            # The limit leaves room for one of the two descriptors.
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + 1, hard))
        with pytest.raises(OSError, match="this process has no file descriptor left"):
            listener._receive_fds(ours, 2)
    assert open_fds() == before


def test_a_worker_that_waits_for_its_rank_keeps_no_other_from_joining(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay asks its upstream client for ranks, which here answers to no request."""
    waiting: list[Callable[[RankGranted], None]] = []
    monkeypatch.setattr(listener, "RANK_SEC", DEADLINE)
    monkeypatch.setattr(listener, "MAX_PENDING", MAX_OF_ONE)
    with collected() as logs, LogRelay(logs.address) as relay, contextlib.ExitStack() as stack:
        monkeypatch.setattr(logs.client._loop.relays, "claim", lambda journal, granted: waiting.append(granted))
        with pids_told(monkeypatch, itertools.repeat(os.getppid())):  # this process itself needs no rank
            guests = [stack.enter_context(contextlib.closing(Peer(relay.address, rank=None))) for _ in range(MAX_OF_ONE)]
            until(lambda: len(waiting) == MAX_OF_ONE, DEADLINE)
            # These have sent everything: they are not pending, and take no other's place.
            with contextlib.closing(knock(relay.address)) as more:
                authenticate(more, Address.parse(relay.address).key)
        with joined(relay.address, rank=5) as peer:
            peer.log(entries("not kept waiting"))
            logs.wait_for(lambda records: any(record.getMessage() == "not kept waiting" for record in records), DEADLINE)
        for number, grant in enumerate(waiting):
            grant(RankGranted(0, 100 + number))
        assert {each.join().rank for each in guests} == set(range(100, 100 + MAX_OF_ONE))


def test_workers_get_different_ranks_if_the_upstream_client_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listener, "RANK_SEC", 0.05)
    with collected() as logs, LogRelay(logs.address) as relay:
        monkeypatch.setattr(logs.client._loop.relays, "claim", lambda journal, granted: None)
        with pids_told(monkeypatch, itertools.repeat(os.getppid())), contextlib.ExitStack() as stack:
            peers = [stack.enter_context(joined(relay.address, rank=None)) for _ in range(2)]
            ranks = {peer.rank for peer in peers}
            until(lambda: ranks <= logs.client.stats().keys(), DEADLINE, "the client to know who is below")
        assert len(ranks) == 2
        assert all(rank is not None and rank >= FIRST_UNGRANTED for rank in ranks)
        assert relay._uplink is not None
        assert relay._uplink._claims == {}
    assert "the upstream client gave no rank for a new process" in capfd.readouterr().err


def test_two_hundred_processes_that_keep_reconnecting_do_not_keep_a_worker_from_joining() -> None:
    with honest() as others, crowd(others.address, 200):
        until(lambda: pending_connections(others.logs) == MAX_PENDING, DEADLINE, "no room for another connection")
        with started("fork", workers.log_numbered, [(others.address, 3, "return")]) as procs:
            assert join_all(procs) == [0]
        others.until_shown("number 2")
        others.are_heard()


INTRUDER = """
import os, socket, sys
os.setgroups([])
os.setuid(65534)
for name in (sys.argv[1], "\\0" + sys.argv[2]):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        try:
            sock.connect(name)
            print(sock.recv(100))
        except OSError as failure:
            print(type(failure).__name__)
try:
    print(os.listdir(os.path.dirname(sys.argv[1])))
except OSError as failure:
    print(type(failure).__name__)
"""
"""Becomes another user, and tries to connect to both sockets, and to look into the directory."""


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root can become another user")
def test_another_user_can_neither_find_the_socket_nor_connect(others: Honest) -> None:
    address = Address.parse(others.address)
    words = [sys.executable, "-S", "-c", INTRUDER, address.path, abstract(address).removeprefix("\0")]
    said = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=DEADLINE, check=True).stdout.split()
    assert said[0] == said[2] == "PermissionError"
    assert said[1] in ("b''", "ConnectionResetError"), "the name can be seen in /proc, but nothing is sent"


def test_a_connection_of_another_user_gets_nothing(others: Honest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "peer_uid", lambda sock: os.getuid() + 1)
    with contextlib.closing(knock(others.address)) as sock, contextlib.suppress(ConnectionError):  # as above
        assert sock.recv(100) == b""
    monkeypatch.undo()


class Blocked(logging.Handler):
    """Waits at the first record."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Wait until the test goes on."""
        self.reached.set()
        assert self.go.wait(DEADLINE)


def test_workers_can_join_a_relay_whose_upstream_client_reads_nothing() -> None:
    handler, count = Blocked(), 1000  # less than may be on the way to the client
    records = entries(*("x" * 1000 for _ in range(count)))
    with LogClient(handler) as client, LogRelay(client.address) as relay, contextlib.ExitStack() as stack:
        first = stack.enter_context(joined(relay.address, rank=1))
        first.log(entries("first"))
        assert handler.reached.wait(DEADLINE)
        first.log(records)
        until(lambda: relay.client.stats()[1].received == 1 + count, DEADLINE)
        for rank in range(2, 6):
            stack.enter_context(joined(relay.address, rank=rank))
        handler.go.set()
        until(lambda: {1, 2, 3, 4, 5} <= {*client.ranks("")}, DEADLINE)


def test_a_rejected_connection_leaves_nothing_for_the_garbage_collector(others: Honest) -> None:
    gc.collect()
    gc.disable()
    try:
        assert all(map(is_hung_up_on, [knock(others.address) for _ in range(5)]))
        others.are_heard()
        assert [each for each in gc.get_objects() if type(each) is listener._Handshake] == []
    finally:
        gc.enable()
