"""Grouping: lines a second into a window of 1 s, of 1, 50, 200 and 2,000 kinds in turn, from four processes.

A kind is eight words, drawn at random with a fixed seed, and a number that changes from line to line. "As
records": each kind is a logging call with its own template in its own source line, as in a program. "As printed
lines": the same texts are printed, and the client must find out which are similar. Both run until a flush reports
that all lines were shown, and the counts on the shown lines add up. "Aggregator alone": the texts of the printed lines are
given to the class without processes or pipes, which is the cost of grouping itself. The limit is the same without a window.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from .captured import use_plain_stdout
from .crew import DEADLINE, Crew, Gate
from .handlers import Counter
from .peers import MESH
from .rounds import Row, Scale, in_turn

UNIT: Final = "lines/s"
RECORDS: Final = "as records"
PRINTED: Final = "as printed lines"
ALONE: Final = "Aggregator alone"
_PROCS: Final = 4
_MANY: Final = 4000


def measure(scale: Scale) -> list[Row]:
    """Measure both ways with each number of kinds; the numbers of kinds take turns."""
    kinds = [1, 50, 200, 2000]
    lines = scale.pick(20_000, 8_000)
    rows: list[Row] = []
    for how in (RECORDS, PRINTED):
        subjects: dict[str, Callable[[], float]] = {"no window": partial(_run, how, 50, lines, None)}
        for count in kinds:
            subjects[name(count)] = partial(_run, how, count, lines, 1.0)
        rows += _rows(f"{_PROCS} procs x {lines:,}, {how}", in_turn(subjects, scale.few), "no window")
    alone = {name(count): partial(_alone, count, scale.pick(100_000, 30_000)) for count in kinds}
    return rows + _rows(ALONE, in_turn(alone, scale.few), name(1))


def name(kinds: int) -> str:
    """Return the table's name for this number of kinds."""
    return f"window, {kinds:,} kind{'s' * (kinds > 1)}"


def _rows(work: str, runs: dict[str, list[float]], base: str) -> list[Row]:
    return [Row(work, subject, UNIT, rates, () if subject == base else (base,)) for subject, rates in runs.items()]


def _run(how: str, kinds: int, lines: int, window: float | None) -> float:
    from meshlog_handler import LogClient

    total = _PROCS * lines
    counter = Counter(total)
    with (
        LogClient(counter, aggregate_window_sec=window) as client,
        Crew(emit, [(client.address, how, kinds, lines)] * _PROCS) as crew,
    ):
        crew.ready()
        began = crew.go()
        crew.results()
        client.flush(DEADLINE)
        seconds = time.perf_counter() - began
        if counter.count != total:
            raise RuntimeError(f"{counter.count:,} lines are told of where there were {total:,}")
    return total / seconds


def emit(gate: Gate, address: str, how: str, kinds: int, lines: int) -> None:
    """In a process: log or print `lines` lines, with the kinds in turn."""
    from meshlog_handler import install

    if how == RECORDS:
        info = MESH.join(address)
        each = _calls(kinds)
    else:
        use_plain_stdout()
        install(address)
        info = print
        each = _prints(kinds)
    gate.wait()
    whole, rest = divmod(lines, kinds)
    each(info, 0, whole)
    for number in range(rest):
        _prints(1)(info, number, number + 1) if how == PRINTED else info("the rest %d", number)


def templates(kinds: int) -> list[str]:
    """Return texts for this number of kinds, each with a placeholder for a number."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(_MANY)]
    return [" ".join(draw.choices(words, k=8)) + " step %d" for _ in range(kinds)]


def _calls(kinds: int) -> Callable[[Any, int, int], None]:
    """Return a function with a logging call for each kind, in a separate source line."""
    calls = "".join(f"        info({template!r}, number)\n" for template in templates(kinds))
    return _compiled(calls)


def _prints(kinds: int) -> Callable[[Any, int, int], None]:
    calls = "".join(f"        info({template!r} % number)\n" for template in templates(kinds))
    return _compiled(calls)


def _compiled(calls: str) -> Callable[[Any, int, int], None]:
    space: dict[str, Any] = {}
    exec(compile(f"def each(info, first, last):\n    for number in range(first, last):\n{calls}", "kinds.py", "exec"), space)
    each: Callable[[Any, int, int], None] = space["each"]
    return each


class _Line:
    """A template of one rank, as the client makes it from captured lines."""

    group = None
    source = None
    scope = ("stdout", logging.INFO)
    levelno = logging.INFO

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def args(self, values: str) -> tuple[object, ...]:
        return ()

    def text(self, values: str) -> str:
        return values

    def when(self, values: str) -> float:
        return 0.0

    def signature(self, values: str) -> None:
        return None

    def build(self, values: str) -> logging.LogRecord:
        return logging.LogRecord("stdout", logging.INFO, "", 0, values, (), None)


def _alone(kinds: int, lines: int) -> float:
    from meshlog_handler.grouping.aggregator import Aggregator

    each = templates(kinds)
    ranks = [_Line(rank) for rank in range(_PROCS)]
    given = [(ranks[number % _PROCS], each[number % kinds] % number) for number in range(lines)]
    aggregator = Aggregator(1.0)
    began = time.perf_counter()
    for template, text in given:
        aggregator.add(template, text, 0.0)
    aggregator.flush()
    seconds = time.perf_counter() - began
    if aggregator.shown != lines:
        raise RuntimeError(f"{aggregator.shown:,} lines are told of where there were {lines:,}")
    return lines / seconds
