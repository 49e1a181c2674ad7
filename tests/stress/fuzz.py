"""A coverage-guided fuzzer looks for bytes that break the decoders::

    pip install atheris
    python -m tests.stress.fuzz decoders -max_total_time=600
    python -m tests.stress.fuzz source -max_total_time=600 /some/directory/for/its/finds

Arguments after the target go to libFuzzer. It exits with an error, and leaves the bytes in a file, if a decoder raises
anything except `ProtocolError`, takes a long time or uses much memory. `decoders`: frames, data, messages, entries. `source`:
all of them together, as one proc's input, including its effect on counters and inbox.

atheris is not a dependency of the tests: it exists for few platforms, and it runs until it is stopped.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any, Final

_MAX_ITEMS: Final = 1000


def _import_watched() -> Any:
    """Return the package's modules, instrumented so that the fuzzer sees which branches they take."""
    import atheris

    with atheris.instrument_imports(include=["meshlog_handler"]):
        from meshlog_handler import errors
        from meshlog_handler.client.flushes import receipt
        from meshlog_handler.client.peers import peer
        from meshlog_handler.journal import layout
        from meshlog_handler.protocol import codec, decode, entries, frames, messages

    class Watched:
        fuzzer = atheris

    for module in (entries, errors, frames, layout, messages, receipt, peer, decode, codec):
        setattr(Watched, module.__name__.rpartition(".")[2], module)
    return Watched


def decoders(watched: Any) -> Callable[[bytes], None]:
    """Return a function that passes bytes to one of the decoders; the first byte chooses the decoder."""
    messages, refused = watched.messages, watched.errors.ProtocolError

    def records(data: bytes) -> None:
        thawer = watched.decode.Thawer({"rank": 0}, lambda _: data[:200])
        items: list[Any] = []
        at = 0
        while at < len(data):
            at = thawer.decode(data, at, _MAX_ITEMS, items)
        for _, template, values in items[:_MAX_ITEMS]:
            if template is not None:
                template.text(values)
                template.signature(values)
                template.build(values).getMessage()

    def cut(data: bytes) -> None:
        reader = watched.frames.FrameReader()
        for begin in range(0, len(data), 7):
            reader.feed(data[begin : begin + 7])

    def unpack(data: bytes) -> None:
        value = watched.codec.unpack(data)
        assert watched.codec.unpack(watched.codec.pack(value)) is not None or value is None

    def decode(data: bytes) -> None:
        messages.decode(data, messages.Message)

    chosen = (records, records, cut, unpack, decode)

    def test(data: bytes) -> None:
        if data:
            with contextlib.suppress(refused):  # the only allowed answer to malformed bytes
                chosen[data[0] % len(chosen)](data[1:])

    return test


def source(watched: Any) -> Callable[[bytes], None]:
    """Return a function that acts as a proc: it sends whole frames with kinds and payloads from the bytes, or raw bytes."""
    frames, start, refused = watched.frames, watched.layout.START, watched.errors.ProtocolError
    hello = watched.messages.Hello(1, "here", 0, None, "", (), True, 0.0)

    def test(data: bytes) -> None:
        given = watched.fuzzer.FuzzedDataProvider(data)
        proc = watched.peer.Source(None, hello, 0, "", {}, {}, 1000, 1)
        at, received = start, 0
        with contextlib.suppress(refused):  # a client would now close its connection
            while given.remaining_bytes():
                kind = given.ConsumeIntInRange(0, 4)
                payload = given.ConsumeBytes(given.ConsumeIntInRange(0, 400))
                if kind == frames.DATA:
                    payload = frames.POSITION.pack(given.ConsumeIntInRange(0, 3), at) + payload
                    at += len(payload) - frames.POSITION.size
                proc.receive(frames.frame(kind, payload) if kind else payload)
                items: list[Any] = []
                with contextlib.suppress(refused):  # it is left out
                    proc.take(_MAX_ITEMS, items)
                received += sum(template is not None for _, template, _ in items)
                assert proc.stats.received == received
                assert proc.inbox_bytes == sum(len(piece.data) for piece in proc.inbox)
                proc.drop_report()

    return test


def main() -> None:
    """Run the fuzzer."""
    targets = {target.__name__: target for target in (decoders, source)}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(f"usage: python -m tests.stress.fuzz {{{','.join(targets)}}} [libFuzzer's options] [directory of finds]")
    try:
        watched = _import_watched()
    except ModuleNotFoundError as missing:
        sys.exit(f"{missing}: pip install atheris")
    watched.fuzzer.Setup([sys.argv[0], *sys.argv[2:]], targets[sys.argv[1]](watched))
    watched.fuzzer.Fuzz()


if __name__ == "__main__":
    main()
