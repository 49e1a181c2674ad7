"""How the client's costs grow with the number of ranks: its processor time for a record, its memory, a flush.

Real processes, 1 to 256, share the same number of records, but log at least some hundreds each. Simulated ranks, 100 to
10,000 (or as many as the limit on open files allows, two for each rank), are connections made by two feeder processes
that speak the real protocol: handshake, hello, stretches of a stream, answers to flush sentinels. The whole client is
real. The simulation differs in one way: all ranks of a feeder have one process id and send the same bytes. Processor
time is that of the client's thread, which runs in a separate process with a handler that counts. Memory is the growth of
that process, including what the burst of records left behind. Joining is timed from the first rank to the last one's welcome.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from .crew import Crew, Gate
from .peers import MESH, TEMPLATE
from .rounds import Row, Scale, tell
from .server import Server, more_descriptors, server

if TYPE_CHECKING:
    from meshlog_handler.protocol.messages import Flush
    from meshlog_handler.transport.channel import Link

FEEDERS: Final = 2
CPU: Final = "client's processor time"
MEMORY: Final = "client's memory"
_PER_RANK: Final = 100


def measure(scale: Scale) -> list[Row]:
    """Measure each number of ranks, real and simulated, in turn."""
    rounds = scale.few
    rows: list[Row] = []
    total, least = scale.pick((64_000, 500), (20_000, 300))
    for procs in (1, 4, 16, 64, 256):
        tell(f"  {procs} processes")
        each = max(total // procs, least)
        rows += _rows(real_work(procs, each), [_real(procs, each) for _ in range(rounds)])
    most = min(10_000, (more_descriptors() - 200) // 2)
    for ranks in scale.pick((100, 1_000, most), (100, 1_000)):
        tell(f"  {ranks:,} simulated ranks")
        runs = [_simulated(ranks) for _ in range(rounds)]
        rows += _rows(f"{ranks:,} simulated ranks x {_PER_RANK} records", runs)
    return rows


def real_work(procs: int, each: int) -> str:
    """Return the table's name for this number of real processes."""
    return f"{procs} procs x {each:,} records"


def _rows(work: str, runs: list[dict[str, float]]) -> list[Row]:
    units = {
        CPU: "µs a record",
        MEMORY: "kB a rank",
        "joining": "ms a rank",
        "flush, idle": "ms",
    }
    return [Row(work, name, unit, [run[name] for run in runs]) for name, unit in units.items() if name in runs[0]]


def _real(procs: int, records: int) -> dict[str, float]:
    with server() as client, Crew(log, [(client.address, records)] * procs) as crew:
        crew.ready()
        result = _cost(client, procs, records, crew.ask)
        client.flush()
        result["flush, idle"] = min(client.flush() for _ in range(5)) * 1e3
        crew.go()
        crew.results()
    return result


def log(gate: Gate, address: str, records: int) -> None:
    """In a process: log."""
    info = MESH.join(address)
    gate.wait()
    for number in range(records):
        info(TEMPLATE, number, 0.5)
    gate.wait()


def _cost(client: Server, ranks: int, each: int, feed: Callable[[], object]) -> dict[str, float]:
    before = client.state()
    feed()
    client.wait(before.count + ranks * each)
    after = client.state()
    return {CPU: (after.cpu - before.cpu) / (ranks * each) * 1e6}


def _simulated(ranks: int) -> dict[str, float]:
    each = ranks // FEEDERS
    with server() as client:
        before = client.state().memory
        with Crew(feed, [(client.address, each * feeder, each) for feeder in range(FEEDERS)]) as crew:
            crew.ready()
            began = time.perf_counter()
            crew.ask()
            joined = time.perf_counter() - began
            result = _cost(client, each * FEEDERS, _PER_RANK, lambda: crew.ask("feed"))
            result[MEMORY] = (client.state().memory - before) / (each * FEEDERS) / 1e3
            result["joining"] = joined / (each * FEEDERS) * 1e3
            flushes = []
            for _ in range(3):
                crew.go("flush")
                flushes.append(client.flush())
                crew.ready()
            result["flush, idle"] = min(flushes) * 1e3
            crew.go("end")
            crew.results()
    return result


def feed(gate: Gate, address: str, first: int, ranks: int) -> None:
    """In a feeder: simulate this many ranks."""
    from meshlog_handler.journal.layout import START, Range
    from meshlog_handler.protocol.entries import FLUSH, number_entry
    from meshlog_handler.protocol.messages import Hello
    from meshlog_handler.transport.channel import Address, connect

    more_descriptors()
    stream = stream_of(_PER_RANK)
    links: list[Link] = []
    gate.wait()
    for rank in range(first, first + ranks):
        hello = Hello(os.getpid(), socket.gethostname(), rank, rank, "", (), True, time.time())
        links.append(connect(Address.parse(address), hello, ())[0])
    position = START
    while (order := gate.wait()) != "end":
        if order == "feed":
            for link in links:
                link.send_data(Range(1, position, stream))
            position += len(stream)
        else:
            size = 0
            for link in links:
                sentinel = number_entry(FLUSH, _asked_flush(link).request)
                link.send_data(Range(1, position, sentinel))
                size = len(sentinel)
            position += size
    for link in links:
        link.close()


def _asked_flush(link: Link) -> Flush:
    """Return the next request for a flush."""
    from meshlog_handler.protocol.messages import Flush, KeepWaiting, decode

    while True:
        asked = link.receive(60.0)
        if asked is None:
            raise TimeoutError("the client asks for no flush")
        message = decode(asked, Flush, KeepWaiting)
        if isinstance(message, Flush):
            return message


def stream_of(records: int) -> bytes:
    """Return this many records in the form in which a journal holds them."""
    from meshlog_handler.protocol.encode import SchemaTable, encode_record
    from meshlog_handler.protocol.entries import MARK

    shapes = SchemaTable()
    parts: list[bytes] = []
    for number in range(records):
        record = logging.LogRecord("benchmark", logging.INFO, __file__, 1, TEMPLATE, (number, 0.5), None)
        frozen = encode_record(record, shapes)
        frozen.commit_schema()
        parts += frozen.data, bytes((MARK,))
    return b"".join(parts)
