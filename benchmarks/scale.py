"""How the costs of a job behind relays grow: 100 to 10,000 ranks, 1 to 100 relays, one client.

The ranks are simulated, as in `growth`: connections of two feeder processes that speak the real protocol, and send the same
bytes. The relays are real `LogRelay` objects, in two processes, and the client is real, in a separate process with a handler
that counts. Records a second are those of 100 records of each rank, from the first one sent to the last one shown, with all
five processes on one machine. Processor time is that of the client's thread alone, which is what one client has to bear on any
machine. "Grouped" is with a window of 1 s, "each" without one. Memory is the growth of the client's process.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import Any, Final

from .crew import Crew, Gate
from .growth import FEEDERS, stream_of
from .rounds import Row, Scale, tell
from .server import many_connections, more_descriptors, server

_EACH: Final = 100
_UNITS: Final = {
    "joining": "ms a rank",
    "joining, client's processor time": "µs a rank",
    "each, shown": "records a second",
    "each, client's processor time": "µs a record",
    "grouped, shown": "records a second",
    "grouped, client's processor time": "µs a record",
    "client's memory": "kB a rank",
    "flush, idle": "ms",
    "flush, client's processor time": "µs a rank",
    "insight": "ms",
}


def measure(scale: Scale) -> list[Row]:
    """Measure each number of ranks behind each number of relays."""
    sizes = scale.pick(((100, (1, 10, 100)), (1_000, (1, 10, 100)), (10_000, (10, 100))), ((100, (1, 10)),))
    rows: list[Row] = []
    for ranks, numbers in sizes:
        for relays in numbers:
            work = f"{ranks:,} ranks behind {relays}"
            tell(f"  {work}")
            runs = [_run(ranks, relays) for _ in range(1 if ranks > 1_000 else scale.few)]
            rows += [Row(work, name, unit, [run[name] for run in runs]) for name, unit in _UNITS.items()]
    return rows


def _run(ranks: int, relays: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for window, how in ((None, "each"), (1.0, "grouped")):
        with server(window) as client:
            before = client.state()
            shares = [(client.address, len(range(first, relays, 2))) for first in range(min(2, relays))]
            with Crew(relay, shares) as tree:
                addresses = [address for some in tree.ready() for address in some]
                calls = [(addresses, ranks // FEEDERS * feeder, ranks // FEEDERS) for feeder in range(FEEDERS)]
                with Crew(feed, calls) as crew:
                    crew.ready()
                    began = time.perf_counter()
                    crew.ask()
                    found["joining"] = (time.perf_counter() - began) / ranks * 1e3
                    joined = client.state()
                    found["joining, client's processor time"] = (joined.cpu - before.cpu) / ranks * 1e6
                    began = time.perf_counter()
                    crew.ask("feed")
                    flush(client, crew)
                    client.wait(joined.count + ranks * _EACH)
                    found[f"{how}, shown"] = ranks * _EACH / (time.perf_counter() - began)
                    after = client.state()
                    found[f"{how}, client's processor time"] = (after.cpu - joined.cpu) / (ranks * _EACH) * 1e6
                    found["client's memory"] = (after.memory - before.memory) / ranks / 1e3
                    found["flush, idle"] = min(flush(client, crew) for _ in range(3)) * 1e3
                    found["flush, client's processor time"] = (client.state().cpu - after.cpu) / ranks / 3 * 1e6
                    found["insight"] = min(client.insight() for _ in range(3)) * 1e3
                    crew.go("end")
                    crew.results()
                tree.go()
                tree.results()
    return found


def flush(client: Any, crew: Crew) -> float:
    """Have the client flush while the ranks answer; return the seconds."""
    crew.go("flush")
    seconds: float = client.flush()
    crew.ready()
    return seconds


def relay(gate: Gate, address: str, count: int) -> None:
    """Run relays."""
    from meshlog_handler import LogRelay

    more_descriptors()
    many_connections()
    os.environ["MESHLOG_JOURNAL_SIZE"] = str(256 * 1024)
    relays = [LogRelay(address).start() for _ in range(count)]
    gate.wait([each.address for each in relays])
    for each in relays:
        each.stop()


def feed(gate: Gate, addresses: list[str], first: int, ranks: int) -> None:
    """In a feeder: simulate this many ranks."""
    from meshlog_handler.journal.layout import START, Range
    from meshlog_handler.protocol.entries import FLUSH, number_entry
    from meshlog_handler.protocol.messages import Hello
    from meshlog_handler.transport.channel import Address, Link, connect

    more_descriptors()
    stream = stream_of(_EACH)
    links: list[Link] = []
    gate.wait()
    for rank in range(first, first + ranks):
        hello = Hello(os.getpid(), socket.gethostname(), rank, rank, "", (), True, time.time())
        links.append(connect(Address.parse(addresses[rank % len(addresses)]), hello, ())[0])
    positions = [START] * ranks
    while (order := gate.wait()) != "end":
        sent = [stream] * ranks if order == "feed" else [number_entry(FLUSH, version) for version in _asked(links)]
        for at, link in enumerate(links):
            link.send_data(Range(1, positions[at], sent[at]))
            positions[at] += len(sent[at])
    for link in links:
        link.close()


def _asked(links: list[Any]) -> Iterator[int]:
    """Yield the versions of the flush that all relays ask for. Other messages are passed over."""
    from meshlog_handler.protocol.messages import Flush, Message, decode

    for link in links:
        message: Message | None = None
        while not isinstance(message, Flush):
            received = link.receive(60.0)
            if received is None:
                raise TimeoutError("a relay asks for no flush")
            message = decode(received, Message)
        yield message.request
