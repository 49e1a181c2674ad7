"""Beside Monarch's own logging: ``python -m benchmarks.beside_monarch [--rounds N]``, in an environment with ``.[monarch]``.

One run on one real Monarch mesh of 4, in turns. Both show on file descriptor 1 of this process, which leads into a pipe that
is read and counted. Monarch's own lines are those its client prints, not those its host also passes through.

- A flush while nothing is printed: from the call to its return.
- 4 x 10,000 printed lines, streaming: until all have arrived, or none has arrived for 10 seconds. "Busy" is this process.
- 4 x 500 printed lines of 50 kinds, in a window of 1 s: until as many are reported, as lines and as counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from .aggregation import templates
from .rounds import tell

PROCS: Final = 4
LINES: Final = 10_000
KINDS: Final = 50
FEW: Final = 500
SILENCE: Final = 10.0
FLUSHES: Final = 20

_COUNTER: Final = r"""
import os, re
# "[2] mark", "[vm anon-2<...>] [2] mark", "[4 similar log lines] [ranks 0-3] mark"; and a coloured one of Monarch's
line_told = re.compile(rb"(?:\[(\d+) similar log lines\](?:\x1b\[0m)? )?\[(?:ranks? )?[\d,-]+\] mark")
told, rest = 0, b""
while data := os.read(0, 1 << 20):
    *lines, rest = (rest + data).split(b"\n")
    found = [int(match[1] or 1) for line in lines if (match := line_told.search(line))]
    if found:
        told += sum(found)
        os.write(1, b"%d\n" % told)
"""


class Shown:
    """The lines shown on descriptor 1 of this process, counted by a separate process; a line with a count adds that count."""

    def __init__(self) -> None:
        self._told = self._before = 0
        self._last = time.perf_counter()
        self._expected = 0
        self._reached = threading.Event()
        self._saved = os.dup(1)
        self._counter = subprocess.Popen([sys.executable, "-c", _COUNTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._counter.stdin is not None
        os.dup2(self._counter.stdin.fileno(), 1)
        self._counter.stdin.close()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._counter.stdout is not None
        for told in self._counter.stdout:
            self._told, self._last = int(told), time.perf_counter()
            if self._told - self._before >= self._expected:
                self._reached.set()

    def until(self, count: int, work: Callable[[], object]) -> tuple[float, float, int]:
        """Do `work`, then wait until `count` lines were reported, or no more arrive.

        Return the seconds that took, the processor seconds of this process, and the number of lines reported.
        """
        self._before, self._expected = self._told, count
        self._reached.clear()
        self._last = began = time.perf_counter()
        busy = time.process_time()
        work()
        while not self._reached.wait(0.5) and time.perf_counter() - self._last < SILENCE:
            continue
        return self._last - began, time.process_time() - busy, self._told - self._before

    def restore(self) -> None:
        """Restore the descriptor."""
        sys.stdout.flush()
        os.dup2(self._saved, 1)
        self._counter.terminate()
        self._counter.wait()


@contextmanager
def attached(procs: Any, window: float | None) -> Iterator[Any]:
    """Show logs through our client in this context."""
    from meshlog_handler.integrations.monarch import attach

    logs = attach(procs).get(60.0)
    logs.set_mode(True, window, "INFO")
    try:
        yield logs
    finally:
        logs.drain_and_stop()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside_monarch", description="Beside Monarch's own logging.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns for each (3)")
    rounds = parser.parse_args().rounds
    from monarch.actor import this_host
    from monarch.config import configure

    from .beside_monarch_actors import Printer

    shown = Shown()
    configure(enable_log_forwarding=True)
    procs = this_host().spawn_procs(per_host={"gpus": PROCS})
    printers = procs.spawn("printers", Printer)
    manager = procs._logging_manager  # its flush has no public name

    def theirs(window: int | None) -> None:
        asyncio.run(procs.logging_option(stream_to_client=True, aggregate_window_sec=window))

    def stream() -> None:
        printers.repeat.call(LINES).get(600.0)

    def vary() -> None:
        printers.vary.call(templates(KINDS), FEW).get(600.0)

    rows: dict[str, list[str]] = {}

    def note(what: str, seconds: float, busy: float, told: int, expected: int) -> None:
        text = f"{seconds:.2f} s, {busy:.2f} s of it busy"
        if told < expected:
            text += f", and only {told:,} lines"
        rows.setdefault(what, []).append(text)
        tell(f"  {what}: {text}")

    for turn in range(rounds):
        tell(f"round {turn + 1} of {rounds}")
        theirs(None)
        flushes = [_timed(lambda: manager._new_flush_handle().get(timeout=60.0)) for _ in range(FLUSHES)]
        rows.setdefault("Monarch: a flush, idle", []).append(_spread(flushes))
        note("Monarch: 4 x 10,000 lines", *shown.until(PROCS * LINES, stream), PROCS * LINES)
        theirs(1)
        note("Monarch: 4 x 500 lines of 50 kinds, window 1 s", *shown.until(PROCS * FEW, vary), PROCS * FEW)
        with attached(procs, None) as logs:
            flushes = [_timed(logs.flush) for _ in range(FLUSHES)]
            rows.setdefault("meshlog: a flush, idle", []).append(_spread(flushes))
            note("meshlog: 4 x 10,000 lines", *shown.until(PROCS * LINES, stream), PROCS * LINES)
            logs.set_mode(True, 1.0, "INFO")
            note("meshlog: 4 x 500 lines of 50 kinds, window 1 s", *shown.until(PROCS * FEW, vary), PROCS * FEW)
    procs.stop().get(60.0)
    shown.restore()
    for what, values in sorted(rows.items(), key=lambda row: row[0].partition(": ")[2]):
        print(f"{what}: {'; '.join(values)}")


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ms ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
