"""The programs of `benchmarks.chaos`: a client, and on each host a keeper that starts a relay and workers again and again.

::

    worker -> HostRelay -- TCP, which is cut --> Tunnel -> LogClient
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .chaos_account import Arrived

if TYPE_CHECKING:
    from meshlog_handler import LogClient
    from meshlog_handler.worker.member import Membership

LOGGER: Final = "chaos"
WORDS: Final = 4
"""Numbers that a worker writes: its rank and one, calls that returned, microseconds of the longest one, whether it ended."""

_PIECE: Final = 256 * 1024
_LOOK_SEC: Final = 0.05
_CONNECT_SEC: Final = 5.0
_END_SEC: Final = 90.0
_LARGE: Final = 100_000
_LAUNCHED: Final = 10_000


class Arrivals(logging.Handler):
    """Follows the numbers of each worker."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, Arrived] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Count one record. Runs on the client's thread."""
        if record.name == LOGGER and isinstance(record.args, tuple):
            name, number = record.args[:2]
            self.of.setdefault(str(name), Arrived()).take(int(number))  # type: ignore[call-overload]  # it was logged as int


def client() -> None:
    """Run the client; answer the orders from stdin, each with a line of JSON."""
    from meshlog_handler import LogClient

    arrivals = Arrivals()
    with LogClient(arrivals, aggregate_window_sec=None) as made, socket.create_server(("", 0)) as listening:
        threading.Thread(target=_accept, args=(listening, made.address), daemon=True).start()
        answer_orders(made, arrivals, {"address": made.address, "port": listening.getsockname()[1]})


def answer_orders(made: LogClient, arrivals: Arrivals, answer: Any, leave: Callable[[], object] = lambda: None) -> None:
    """Print the first answer, and then one for each order from stdin. At the end, `leave` is called before the account."""
    from meshlog_handler import FlushTimeout

    while True:
        print(json.dumps(answer), flush=True)
        order, timeout = json.loads(sys.stdin.readline())
        began = time.monotonic()
        try:
            receipt = made.flush(timeout)
        except FlushTimeout as missing:
            receipt = missing.receipt
        answer = {"seconds": time.monotonic() - began, "missing": receipt.missing, "hosts": receipt.hosts}
        if order == "end":
            leave()
            dropped = {rank: each.total_dropped for rank, each in made.stats().items() if rank is not None}
            of = {name: [each.last, each.count, each.twice, each.late, *each.absent] for name, each in arrivals.of.items()}
            print(json.dumps({**answer, "arrived": of, "dropped": dropped}), flush=True)
            return


def _accept(listening: socket.socket, address: str) -> None:
    """Carry the bytes of each relay that connects to the client."""
    from meshlog_handler.client.relay.tunnel import Tunnel

    tunnels: list[tuple[Any, socket.socket]] = []
    while True:
        try:
            sock, _ = listening.accept()
        except OSError:  # it was closed
            return
        for tunnel, its in [each for each in tunnels if each[0].ended]:
            tunnel.close()
            its.close()
        tunnels = [each for each in tunnels if not each[0].ended]
        tunnels.append((Tunnel(address, partial(_take, sock), sock.sendall).start(), sock))


def _take(sock: socket.socket, timeout: float) -> bytes:
    sock.settimeout(None)
    data = sock.recv(_PIECE)
    if not data:
        raise ConnectionResetError("the relay is gone")
    return data


def relay(name: str, directory: Path, there: str, port: str) -> None:
    """Run the relay of a host until SIGTERM."""
    from meshlog_handler.client.relay.tunnel import HostRelay
    from meshlog_handler.errors import ClosedError

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sock = socket.create_connection((there, int(port)), _CONNECT_SEC)
    sock.settimeout(None)
    made = HostRelay(os.environ.pop("CHAOS_UPSTREAM"))

    def up() -> None:
        with contextlib.suppress(ClosedError):  # the relay has ended
            while True:
                sock.sendall(made.take(1.0))
        sock.shutdown(socket.SHUT_WR)

    def down() -> None:
        with contextlib.suppress(ClosedError):  # as above
            while data := sock.recv(_PIECE):
                made.give(data)
            os._exit(1)  # the client has closed the connection

    carrying = threading.Thread(target=up, daemon=True)
    carrying.start()
    threading.Thread(target=down, daemon=True).start()
    _write(directory / f"{name}.relay", f"{os.getpid()} {made.address}")
    while made.client.running and signal.sigtimedwait({signal.SIGTERM}, 0.2) is None:
        continue
    made.close(_END_SEC)
    carrying.join(_END_SEC)


def worker(slot: str, name: str, directory: Path) -> None:
    """Log until told to stop, as one worker: slowly, fast, or in bursts."""
    from meshlog_handler import ConnectError, install
    from meshlog_handler.worker import this_process

    told = telling(name, directory)
    host = name.rpartition("-")[0]
    address = (directory / f"{host}.relay").read_text().split()[1]
    if int(host[-1]) % 2:
        os.environ["RANK"] = f"{_LAUNCHED + 10 * int(host[-1]) + int(slot)}"
    until = time.monotonic() + _END_SEC
    while (member := this_process.current()) is None:
        try:
            install(address, capture=False)
        except ConnectError:  # its relay was killed
            if time.monotonic() > until:
                raise
            time.sleep(_LOOK_SEC)
    log_numbers(member, told, name, int(slot), directory)


def telling(name: str, directory: Path) -> memoryview[int]:
    """Make the file of a worker; return its words."""
    path = directory / "workers" / name.replace("/", "+")
    path.write_bytes(bytes(8 * WORDS))
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")


def log_numbers(member: Membership, told: memoryview[int], name: str, kind: int, directory: Path) -> None:
    """Log until told to stop, slowly, fast, or in bursts; tell what was sent."""
    stream = member.stream
    assert stream is not None
    told[0] = (member.rank or 0) + 1
    chance, log = random.Random(name), logging.getLogger(LOGGER)
    log.setLevel(logging.INFO)
    number = 0
    most, pause = ((2, 0.2), (20, 0.05), (3000, 2.0))[kind % 3]
    while not (directory / "stop").exists() and not stream.client_gone:
        for _ in range(chance.randint(1, most)):
            number += 1
            size = _LARGE if chance.random() < 0.001 else chance.randrange(300)
            began = time.monotonic()
            log.info("%s %d %s", name, number, "x" * size)
            told[2] = max(told[2], int((time.monotonic() - began) * 1e6))
            told[1] = number
            if stream.client_gone:  # it goes on alone
                break
        time.sleep(chance.random() * 2 * pause)
    told[3] = 1


def keep(name: str, directory: Path, there: str, port: str, slots: str) -> None:
    """On a host: start the relay, and a worker in each slot, and others in the place of those that end; until told to stop."""
    relays: list[subprocess.Popen[bytes]] = []
    workers: dict[int, subprocess.Popen[bytes]] = {}
    lives = 0
    known = directory / f"{name}.relay"
    while True:
        stopping = (directory / "stop").exists()
        if not relays or relays[-1].poll() is not None:
            relays[:] = [_start("relay", name, str(directory), there, port)]
        for slot in range(int(slots)):
            if known.exists() and not stopping and (slot not in workers or workers[slot].poll() is not None):
                lives += 1
                workers[slot] = _start("worker", str(slot), f"{name}-{slot}/{lives}", str(directory))
        if stopping and all(each.poll() is not None for each in workers.values()):
            break
        time.sleep(_LOOK_SEC)
    until = time.monotonic() + _END_SEC
    while not known.read_text().startswith(f"{relays[-1].pid} ") and time.monotonic() < until:
        if relays[-1].poll() is not None:
            relays[:] = [_start("relay", name, str(directory), there, port)]
        time.sleep(_LOOK_SEC)
    relays[-1].terminate()
    relays[-1].wait(_END_SEC)


def _start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "benchmarks.chaos_programs", *words])


def _write(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


if __name__ == "__main__":
    _programs: dict[str, Callable[..., None]] = {"client": client, "relay": relay, "worker": worker, "keep": keep}
    _programs[sys.argv[1]](*(Path(word) if word.startswith("/") else word for word in sys.argv[2:]))
