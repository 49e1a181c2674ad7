"""The command: ``python -m benchmarks [names...] [--rounds N] [--quick] [--out DIR]``."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import time
from pathlib import Path

from . import plot, table
from .rounds import Scale, Section, tell

NAMES = (
    "call",
    "rate",
    "queues",
    "captured",
    "aggregation",
    "flush",
    "latency",
    "footprint",
    "startup",
    "growth",
    "hierarchy",
    "scale",
    "insight",
)


def main(words: list[str] | None = None) -> int:
    """Run the chosen benchmarks and write the results; return 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What meshlog_handler costs, beside its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure, of {', '.join(NAMES)}; all unless given")
    parser.add_argument("--rounds", type=int, default=None, metavar="N", help="turns for each subject (5; with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes in all")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR", help="where results go")
    chosen = parser.parse_args(words)
    unknown = [name for name in chosen.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    rounds = chosen.rounds if chosen.rounds is not None else 3 if chosen.quick else 5
    if rounds < 1:
        parser.error(f"--rounds {rounds}: at least one")
    scale = Scale(rounds, chosen.quick)
    about = table.environment(scale)
    sections: list[Section] = []
    failed: list[str] = []
    for name in chosen.names or NAMES:
        tell(f"{name} ...")
        module = importlib.import_module(f".{name}", __package__)
        began = time.perf_counter()
        section = Section(name, inspect.cleandoc(module.__doc__ or ""))
        try:
            section.rows = module.measure(scale)
        except (RuntimeError, TimeoutError, OSError) as failure:
            # The other results are still useful. This failure is named, and the command fails.
            tell(f"{name} FAILED: {type(failure).__name__}: {failure}")
            failed.append(name)
            continue
        section.seconds = time.perf_counter() - began
        sections.append(section)
        table.write(chosen.out, about, sections)
    undrawn = plot.draw(chosen.out / "results.svg", sections) if sections else "nothing was measured"
    if undrawn:
        tell(f"no plot: {undrawn}")
    table.show(sections)
    tell(f"written to {chosen.out}")
    if failed:
        tell(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
