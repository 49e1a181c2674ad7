"""Scan Python's standard library on four ranks, and watch them on one console.

    python examples/scan_stdlib.py [--ranks N] [--limit FILES] [--log-dir DIR]

Each rank parses its share of several thousand files with `ast`, and logs a line per file with plain `logging`. The console
shows the lines grouped; the log directory has the complete logs, one file per rank and stream.
"""

from __future__ import annotations

import argparse
import ast
import logging
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path

from meshlog_handler import current_rank, this_host

log = logging.getLogger("scan")


def scan(files: list[str], world_size: int) -> list[tuple[int, int, str]]:
    """Parse this rank's share of `files`; return ``(lines, functions, file)`` of each file. Runs in every process."""
    logging.captureWarnings(True)  # warnings of the parser become records, too
    warnings.simplefilter("always")
    share = files[current_rank() :: world_size]
    found = []
    for number, file in enumerate(share, 1):
        source = Path(file).read_bytes()
        try:
            tree = ast.parse(source, filename=file)
        except (SyntaxError, ValueError) as mistake:
            log.warning("cannot be parsed: %s: %s", Path(file).name, type(mistake).__name__)
            continue
        lines = source.count(b"\n")
        functions = sum(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in ast.walk(tree))
        log.info("parsed %d lines, %d functions", lines, functions)
        print(f"\rfile {number} of {len(share)}", end="", flush=True)
        found.append((lines, functions, file))
    print(f"\rfile {len(share)} of {len(share)}: share done")
    return found


def main() -> None:
    """Distribute the files, collect the results, and print the largest files."""
    options = argparse.ArgumentParser(description="Scan the standard library on many ranks.")
    options.add_argument("--ranks", type=int, default=4, help="number of processes (default 4)")
    options.add_argument("--limit", type=int, default=None, help="largest number of files to scan (default: all)")
    options.add_argument("--log-dir", default=None, help="directory for the complete logs (default: a new temporary directory)")
    asked = options.parse_args()

    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(str(path) for path in library.rglob("*.py") if "site-packages" not in path.parts)[: asked.limit]
    log_dir = asked.log_dir or tempfile.mkdtemp(prefix="scan-")
    started = time.perf_counter()

    with this_host().spawn_procs(per_host={"procs": asked.ranks}, log_dir=log_dir) as procs:
        procs.logging_option(aggregate_window_sec=1.0, level=logging.INFO).get()
        shares = procs.call(scan, files, asked.ranks).get()
        procs.flush().get()
        stats = procs.logging.stats()

    found = sorted((each for share in shares for each in share), reverse=True)
    print(f"\n{'lines':>8} {'functions':>9}  the largest of {len(found):,} modules")
    for lines, functions, file in found[:10]:
        print(f"{lines:8,} {functions:9,}  {Path(file).relative_to(library)}")
    print(
        f"\n{stats.received:,} records from {asked.ranks} ranks in {time.perf_counter() - started:.1f} s, "
        f"{stats.dropped} dropped; complete files in {log_dir}:"
    )
    for path in sorted(Path(log_dir).glob("rank-*")):
        print(f"  {path.name:<16} {path.stat().st_size:>10,} bytes")


if __name__ == "__main__":
    main()
