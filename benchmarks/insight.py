"""What `insight()` costs a client when nobody asks: processor time for each record, with and without.

The client's side runs alone, in this process: the stream of four workers, as it would arrive from their sockets and pipes,
goes through `Peer` and `Dispatcher` to a handler that counts. "Without" is the same with a watch that does nothing. The decoder
counts in both cases: what that costs shows only in a comparison with an older version of the package.

Of f-strings and printed lines, the first 500 of each rank are all examined, and then 64 a second: in a short run, such as
that of ``--quick``, these 500 are a large part.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from .rounds import Row, Scale, in_turn

WITH: Final = "with"
WITHOUT: Final = "without"
UNIT: Final = "µs a record"
_PEERS: Final = 4
_BATCH: Final = 32 * 1024
_KINDS: Final[dict[str, list[tuple[str, Callable[[int], tuple[object, ...]]]]]] = {
    "one template": [("step %d loss=%.3f", lambda number: (number, 0.5))],
    "eight templates in turn": [(f"part {kind} of step %d loss=%.3f", lambda number: (number, 0.5)) for kind in range(8)],
    "with a text as argument": [("step %d of %s", lambda number: (number, "training"))],
}


def measure(scale: Scale) -> list[Row]:
    """Measure each kind of record, with a window of 1 s and without, and printed lines."""
    count = scale.pick(100_000, 30_000)
    rows: list[Row] = []
    for window, kind in itertools.product((1.0, None), (*_KINDS, "f-strings", "printed lines")):
        work = f"{kind}, {'no window' if window is None else 'window of 1 s'}"
        subjects = {name: partial(_run, kind, count, window, name == WITH) for name in (WITHOUT, WITH)}
        costs = in_turn(subjects, scale.rounds)
        rows += [Row(work, name, UNIT, each, (WITHOUT,) if name == WITH else ()) for name, each in costs.items()]
    return rows


def _run(kind: str, count: int, window: float | None, watched: bool) -> float:
    """Return the microseconds of processor time for each record or line."""
    from meshlog_handler.dispatch.dispatcher import Dispatcher
    from meshlog_handler.dispatch.sink import Sink
    from meshlog_handler.dispatch.sinks import Sinks

    from .handlers import Counter

    dispatcher = Dispatcher(Sinks(Sink([Counter(1 << 62)], window=window)))
    chunks = _printed(count // _PEERS) if kind == "printed lines" else _logged(kind, count // _PEERS)
    with _peers(watched) as peers:
        began = time.thread_time()
        for chunk in chunks:
            items: list[Any] = []
            for peer in peers:
                items += _taken(peer, chunk)
            items.sort(key=lambda item: item[0])
            dispatcher.dispatch(dispatcher.count(items, 0.0), 0.0)
        spent = time.thread_time() - began
    return spent / count * 1e6


def _taken(peer: Any, chunk: Any) -> list[Any]:
    from meshlog_handler.client.peers.output_pipes import _items

    if isinstance(chunk, list):
        return _items(peer, peer.pipes[0], chunk, time.time())
    items: list[Any] = []
    peer.receive(chunk)
    while peer.inbox:
        peer.take(2048, items)
    return items


class _Nothing:
    """A watch that does nothing."""

    def add_records(self, decoded: Any, now: float, total: int) -> None:
        decoded.texts.clear()

    def add_lines(self, items: Any, notable: Any, now: float, total: int) -> None:
        return


@contextmanager
def _peers(watched: bool) -> Iterator[list[Any]]:
    import os
    import socket

    from meshlog_handler.client.peers.peer import Peer
    from meshlog_handler.protocol.messages import Hello

    pairs = [socket.socketpair() for _ in range(_PEERS)]
    pipes = [os.pipe() for _ in range(_PEERS)]
    hello = Hello(os.getpid(), "here", None, None, "", (), True, 0.0)
    peers = []
    for rank, ((here, _), (reader, _)) in enumerate(zip(pairs, pipes, strict=True)):
        peer = Peer(
            here, hello, rank=rank, journal="", pipes={"stdout": reader}, coords={}, max_line=65536, process=os.getpid()
        )
        if not watched:
            peer.watch = _Nothing()  # type: ignore[assignment]  # it has what the client calls
        peers.append(peer)
    try:
        yield peers
    finally:
        for end in itertools.chain.from_iterable(pairs):
            end.close()
        for fd in itertools.chain.from_iterable(pipes):
            os.close(fd)


def _printed(count: int) -> list[Any]:
    from meshlog_handler.lines.framer import LineFramer

    framer = LineFramer()
    return [
        framer.feed(b"".join(b"step %d loss=0.2500 and a word or two to go\n" % number for number in range(at, at + 700)), 0.0)
        for at in range(0, count, 700)
    ]


def _logged(kind: str, count: int) -> list[bytes]:
    """Return frames with records, each of about 32 KiB."""
    from meshlog_handler.journal.layout import START
    from meshlog_handler.protocol.encode import SchemaTable, encode_record
    from meshlog_handler.protocol.entries import MARK
    from meshlog_handler.protocol.frames import DATA, POSITION, frame

    table = SchemaTable()
    frames, data, position = [], bytearray(), START
    for number in range(count):
        template, args = (f"step {number} loss=0.5", lambda number: ()) if kind == "f-strings" else _pick(kind, number)
        line = 7 + number % len(_KINDS.get(kind, (None,)))
        record = logging.LogRecord("app", logging.INFO, "/srv/app.py", line, template, args(number), None, "work")
        record.created = float(number) / 1000
        encoded = encode_record(record, table)
        encoded.commit_schema()
        data += encoded.data
        data.append(MARK)
        if len(data) > _BATCH or number == count - 1:
            frames.append(frame(DATA, POSITION.pack(1, position) + bytes(data)))
            position += len(data)
            data.clear()
    return frames


def _pick(kind: str, number: int) -> tuple[str, Callable[[int], tuple[object, ...]]]:
    kinds = _KINDS[kind]
    return kinds[number % len(kinds)]
