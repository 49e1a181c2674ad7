"""The engines' own log forwarding with the work of `rate`: ``python -m benchmarks.engines --ray-python PATH ...``

Each engine has its own environment, created by one of

::

    python -m venv /tmp/ray     && /tmp/ray/bin/pip install ray
    python -m venv /tmp/dask    && /tmp/dask/bin/pip install "dask[distributed]"
    python -m venv /tmp/monarch && /tmp/monarch/bin/pip install torchmonarch

`engine_programs` runs there: 4 procs that log. Ours does the same work in turn with the engines. Its handler also writes
lines to a pipe: the clock runs from "go" until the last line has been read from the pipe. Ray and Monarch forward text,
Dask and ours forward records.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Final

from .crew import DEADLINE
from .rounds import Spread, in_turn, tell

ENGINES: Final = ("ray", "dask", "monarch")
OURS: Final = "meshlog_handler"
_PROCS: Final = 4
# Monarch's procs also write to the terminal: only forwarded lines are counted.
_MARKS: Final = {"monarch": "] [actor="}
_CALL: Final = re.compile(r"call (\d+\.\d)")
_PROGRAM: Final = Path(__file__).with_name("engine_programs.py")


def run(command: list[str], calls: int) -> tuple[float, float]:
    """Return the lines a second that the program's engine showed, and the microseconds of a call in its procs."""
    environment = {**os.environ, "RAY_DEDUP_LOGS": "0", "PYTHONUNBUFFERED": "1"}
    began = ended = call = 0.0
    lines, mark = 0, _MARKS.get(command[-1], "step ")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, str(calls)], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env=environment, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        too_late = threading.Timer(DEADLINE, program.kill)
        too_late.start()
        for line in program.stdout:
            # Several threads of an engine may write into the middle of each other's lines.
            if line == "go\n":
                began = time.perf_counter()
            elif found := _CALL.search(line):
                call = float(found[1])
            if "step " in line:
                lines += line.count(mark)
                ended = time.perf_counter()
            if lines >= _PROCS * calls and call:
                break
        too_late.cancel()
        program.stdin.close()
        program.stdout.close()
    if lines < _PROCS * calls:
        raise RuntimeError(f"{command[0]}: {lines:,} of {_PROCS * calls:,} lines came")
    return lines / (ended - began), call


def main(words: list[str] | None = None) -> int:
    """Measure the engines whose interpreters are given, and our package; print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description="The engines' own, beside ours.")
    for name in ENGINES:
        parser.add_argument(f"--{name}-python", metavar="PATH", help=f"an interpreter that has {name}")
    parser.add_argument("--calls", type=int, default=10_000, metavar="N", help="in each of the 4 procs (10,000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    chosen = parser.parse_args(words)
    commands = {OURS: [sys.executable, str(_PROGRAM), "ours"]}
    for name in ENGINES:
        interpreter = getattr(chosen, f"{name}_python")
        if interpreter is None:
            tell(f"{name}: left out, no --{name}-python is given")
        else:
            commands[name] = [interpreter, str(_PROGRAM), name]
    runs = in_turn({name: partial(run, command, chosen.calls) for name, command in commands.items()}, chosen.rounds)
    print(f"4 procs x {chosen.calls:,}\n\n| | lines a second | µs a call | ours is |\n|---|---:|---:|---:|")
    ours = [rate for rate, _ in runs[OURS]]
    for name, results in runs.items():
        times = Spread.of([mine / rate for mine, (rate, _) in zip(ours, results, strict=True)]).median
        rate, call = (Spread.of(values).median for values in zip(*results, strict=True))
        print(f"| {name} | {rate:,.0f} | {call:.1f} | {times:.1f} times as fast |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
