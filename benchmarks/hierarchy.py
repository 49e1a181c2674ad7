"""A job of many hosts, as the client above their relays sees it: lines and records a second, a flush, memory.

The procs are simulated: 100 of them below each of 100 hosts. Everything above them is real: each host's connection
(`Uplink`), its journal and forwarder, its grouping, the digests it passes on, its answer to a flush, and the client, in a
separate process with a handler that counts. "Grouped below" is 10 lines of each rank in one window, as from a training
loop; "each by itself" is the same passed on without a window. Rates are from the first line to the last one shown, with
the hosts and the client on the same machine. Processor time is that of the client's thread alone. Memory is the growth
of the client's process.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final

from .crew import Crew, Gate
from .rounds import Row, Scale
from .server import more_descriptors, server

RANKS_EACH: Final = 100
_LINES: Final = 10
_FEEDERS: Final = 2
_TEMPLATE: Final = "step %d loss=%.3f"


def measure(scale: Scale) -> list[Row]:
    """Measure a job of many hosts, with grouping below and without."""
    hosts = scale.pick(100, 10)
    work = f"{hosts} hosts x {RANKS_EACH} ranks"
    runs = [(_run(hosts, 1.0), _run(hosts, None)) for _ in range(scale.few)]
    names = {"lines": "a second", "client's processor time": "µs a line", "flush, idle": "ms", "client's memory": "kB a rank"}
    return [
        Row(f"{work}, {how}", name, unit, [run[at][name] for run in runs])
        for at, how in enumerate(("grouped below", "each by itself"))
        for name, unit in names.items()
    ]


def _run(hosts: int, window: float | None) -> dict[str, float]:
    lines = hosts * RANKS_EACH * _LINES
    with server(window) as client:
        before = client.state().memory
        with Crew(feed, [(client.address, each, window) for each in _shares(hosts)]) as crew:
            crew.ready()
            crew.ask()
            joined = client.state()
            began = time.perf_counter()
            crew.go("feed")
            crew.ready()
            client.flush()
            client.wait(joined.count + lines)
            elapsed = time.perf_counter() - began
            after = client.state()
            flushes = [client.flush() for _ in range(3)]
            crew.go("end")
            crew.results()
    return {
        "lines": lines / elapsed,
        "client's processor time": (after.cpu - joined.cpu) / lines * 1e6,
        "flush, idle": min(flushes) * 1e3,
        "client's memory": (after.memory - before) / (hosts * RANKS_EACH) / 1e3,
    }


def _shares(hosts: int) -> list[range]:
    each = hosts // _FEEDERS
    return [range(first, first + each) for first in range(0, each * _FEEDERS, each)]


class Host:
    """A host's relay, without the procs."""

    def __init__(self, address: str, number: int, window: float | None) -> None:
        from meshlog_handler.client.relay.uplink import Uplink
        from meshlog_handler.dispatch.dispatcher import Dispatcher
        from meshlog_handler.dispatch.sink import Sink
        from meshlog_handler.dispatch.sinks import Sinks
        from meshlog_handler.protocol.relay_messages import DownstreamJoined

        self.ranks = range(number * RANKS_EACH, (number + 1) * RANKS_EACH)
        directory: Any = SimpleNamespace(path="")  # it has none
        self._uplink = Uplink(address, None, directory)
        self._show = Dispatcher(Sinks(Sink((self._uplink.handler,), window=window)), digests=True)
        self._lock = threading.Lock()
        self._items = list(_lines(self.ranks))
        self._uplink.start(self._carry_out, lambda: None, lambda: None)
        for rank in self.ranks:
            self._uplink.send(DownstreamJoined(rank, "", 1000 + rank, f"host-{number}", {}))

    def _carry_out(self, order: Any) -> None:
        from meshlog_handler.protocol.relay_messages import DownstreamReached, FlushDownstream

        if isinstance(order, FlushDownstream):
            with self._lock:
                self._show.flush()
                self._uplink.send(DownstreamReached(order.request, tuple(self.ranks), (), (), 0, {}, 0))
                self._uplink.append_flush(order.request)
                self._pass()

    def _pass(self) -> None:
        """Send a boundary: everything up to here may be shown."""
        from meshlog_handler.protocol.relay_messages import DownstreamPassed

        self._uplink.send(DownstreamPassed(0, *self._uplink.stream.journal.place, (), ()))

    def feed(self) -> None:
        """Forward the lines of all ranks in one window."""
        with self._lock:
            now = time.monotonic()
            for items in self._items:
                self._show.dispatch(items, now)
            self._show.flush()
            self._pass()

    def leave(self) -> None:
        """Close everything."""
        self._uplink.leave()


def _lines(ranks: range) -> Iterator[list[Any]]:
    """Yield what a relay has read from each of its ranks."""
    from meshlog_handler.protocol.decode import RecordDecoder
    from meshlog_handler.protocol.encode import SchemaTable, encode_record
    from meshlog_handler.protocol.entries import MARK

    for rank in ranks:
        table = SchemaTable()
        parts: list[bytes] = []
        for number in range(_LINES):
            record = logging.LogRecord("train", logging.INFO, __file__, 1, _TEMPLATE, (number, rank / 1000), None)
            frozen = encode_record(record, table)
            frozen.commit_schema()
            parts += frozen.data, bytes((MARK,))
        items: list[Any] = []
        data = b"".join(parts)
        identity = {"rank": rank, "local_rank": rank, "hostname": "host", "coords": {}}
        RecordDecoder(identity, lambda _: b"").decode(data, 0, 1 << 30, items)
        yield items


def feed(gate: Gate, address: str, numbers: range, window: float | None) -> None:
    """In a feeder: simulate these hosts."""
    more_descriptors()
    os.environ["MESHLOG_JOURNAL_SIZE"] = str(256 * 1024)
    gate.wait()
    hosts = [Host(address, number, window) for number in numbers]
    while gate.wait() != "end":
        for host in hosts:
            host.feed()
    for host in hosts:
        host.leave()
