"""Captured lines a second: lines printed by processes, passed to a handler that counts them.

"print" is one ``print()`` of 42 characters a line, flushed at its end, as on a terminal: a system call a line, which
limits the rate. "bulk" is the same lines in writes of 64 KiB, as from a C program or ``cat``: this is the most the
client can take. The standard library's way is a pipe for each process and, in the process that shows, a thread for
each pipe that logs line by line; it captures the descriptor, too. The limit is the same printing to the null device.
Ours frames, decodes, finds the level, and recognizes progress bars; the recipe splits at newlines.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from .crew import Crew, Gate
from .handlers import Counter, bare_logger
from .rounds import Row, Scale, in_turn

UNIT: Final = "lines/s"
LIMIT: Final = "null device (the limit)"
MESH: Final = "captured by MeshHandler's client"
RECIPE: Final = "pipe and thread a process"
_LINE: Final = "step 1234 loss=0.2500 and a word or two to go\n"
_BULK: Final = 64 * 1024


def measure(scale: Scale) -> list[Row]:
    """Measure printing on one process and on four, and bulk writing on four."""
    rows: list[Row] = []
    for how, procs, lines in (
        ("print", 1, scale.pick(60_000, 15_000)),
        ("print", 4, scale.pick(30_000, 8_000)),
        ("bulk", 4, scale.pick(150_000, 40_000)),
    ):
        subjects = {name: partial(_run, name, how, procs, lines) for name in (LIMIT, MESH, RECIPE)}
        runs = in_turn(subjects, min(scale.rounds, scale.pick(9, 2)))
        for name, rates in runs.items():
            bases = tuple(base for base in (LIMIT, RECIPE) if base != name and name != LIMIT)
            rows.append(Row(f"{procs} proc{'s' * (procs > 1)} x {lines:,} lines, {how}", name, UNIT, rates, bases))
    return rows


def _run(name: str, how: str, procs: int, lines: int) -> float:
    counter = Counter(procs * lines)
    listen = {LIMIT: _nowhere, MESH: _captured, RECIPE: _piped}[name]
    with listen(counter, procs) as tickets, Crew(write, [(name, ticket, how, lines) for ticket in tickets]) as crew:
        crew.ready()
        began = crew.go()
        if name != LIMIT:
            counter.wait()
            seconds = time.perf_counter() - began
        crew.results()
        if name == LIMIT:
            seconds = time.perf_counter() - began
    return procs * lines / seconds


@contextmanager
def _nowhere(counter: Counter, procs: int) -> Iterator[list[Any]]:
    yield [None] * procs


@contextmanager
def _captured(counter: Counter, procs: int) -> Iterator[list[Any]]:
    from meshlog_handler import LogClient

    with LogClient(counter) as client:
        yield [client.address] * procs


@contextmanager
def _piped(counter: Counter, procs: int) -> Iterator[list[Any]]:
    logger = bare_logger(counter)
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(procs)]
    threads = [threading.Thread(target=_read_lines, args=(logger, rank, pipe[0])) for rank, pipe in enumerate(pipes)]
    for thread in threads:
        thread.start()
    try:
        yield [writer for _, writer in pipes]
    finally:
        for _, writer in pipes:
            # The threads reach end of file when the last writer has closed its end.
            writer.close()
        for thread in threads:
            thread.join()
        for reader, _ in pipes:
            reader.close()


def _read_lines(logger: logging.Logger, rank: int, reader: Any) -> None:
    with open(reader.fileno(), errors="backslashreplace", closefd=False) as lines:
        for line in lines:
            logger.info("[rank %d] %s", rank, line.rstrip("\n"))


def write(gate: Gate, name: str, ticket: Any, how: str, lines: int) -> None:
    """In a process: capture or redirect the output, and print."""
    use_plain_stdout()
    if name == MESH:
        from meshlog_handler import install

        install(ticket)
    else:
        target = os.open(os.devnull, os.O_WRONLY) if ticket is None else ticket.fileno()
        os.dup2(target, 1)
        os.close(target) if ticket is None else ticket.close()
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it was opened just now
    gate.wait()
    if how == "print":
        text = _LINE.rstrip("\n")
        for _ in range(lines):
            print(text)
    else:
        each = _BULK // len(_LINE)
        chunk = (_LINE * each).encode()
        for _ in range(lines // each):
            _write_all(chunk)
        _write_all((_LINE * (lines % each)).encode())


def use_plain_stdout() -> None:
    """In a process: use a stdout as without PYTHONUNBUFFERED, which would make two writes of each line."""
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - from here on it is the process's stdout


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
