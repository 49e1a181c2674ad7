"""Run peers that have the key and send malformed data, and measure their effect on a correct worker::

    python -m tests.fuzz --seconds 20 --seed 1

It prints a table. It exits with 1 if a record of the worker did not arrive within a second, a flush with the worker did not
end, or the client's memory or its number of descriptors grew beyond the bound.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from meshlog_handler import FlushTimeout, LogClient, MeshFormatter

HEARD_SEC = 1.0
MEMORY_MIB = 200
DESCRIPTORS = 100
_HONEST = """
import logging, sys, meshlog_handler
meshlog_handler.install()
for line in sys.stdin:
    logging.error(f"honest {line.strip()}")  # shown at once, in a window, too
"""


class Heard(logging.Handler):
    """Notes the records of the correct worker."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""
        self.said = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Note it; format a peer's records, as any handler would."""
        text = record.getMessage()
        if text == self.last:
            self.said.set()


class Formatted(logging.Handler):
    """Formats every record, as a console would."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(MeshFormatter("%(asctime)s %(levelname)s %(processName)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Format it, and report an error as `StreamHandler` does."""
        try:
            self.format(record)
        except Exception:
            self.handleError(record)


def resident() -> float:
    """Return this process's peak memory so far, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def run(seconds: float, seed: str, window: float | None) -> int:
    """Run the fuzzer with a client that groups lines in a window, or shows each line; return the number of problems."""
    heard, problems, longest, waited, said = Heard(), 0, 0.0, 0.0, 0
    with LogClient(heard, Formatted(), aggregate_window_sec=window) as client, tempfile.TemporaryFile() as dots:
        environ = client.environ() | {"RANK": "1"}
        words = [sys.executable, "-c", _HONEST]
        worker = subprocess.Popen(words, env=environ, stdin=subprocess.PIPE, text=True, bufsize=1)
        assert worker.stdin is not None
        peer = None
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                heard.said.clear()
                heard.last = f"honest {said}"
                begun = time.monotonic()
                worker.stdin.write(f"{said}\n")
                limit = HEARD_SEC if said else 30.0  # the first start
                on_time = heard.said.wait(limit)
                if peer is None:
                    peer = subprocess.Popen([sys.executable, "-m", f"{__package__}.peer", client.address, seed], stdout=dots)
                    before, opened, end = resident(), len(os.listdir("/dev/fd")), time.monotonic() + seconds
                    said += 1
                    continue
                longest = max(longest, time.monotonic() - begun)
                begun = time.monotonic()
                try:
                    client.flush(5.0, lambda proc: proc.rank == 1)
                except FlushTimeout as late:
                    print(f"a flush with the honest worker did not end: {late}")
                    problems += 1
                waited = max(waited, time.monotonic() - begun)
                if not on_time:
                    print(f"the honest worker was not heard within {HEARD_SEC:g} s, the {said}th time")
                    problems += 1
                said += 1
                time.sleep(0.05)
            assert peer is not None
            assert peer.poll() is None
            opened = len(os.listdir("/dev/fd")) - opened
        finally:
            for each in (peer, worker):
                if each is not None:
                    each.kill()
                    each.wait()
        grown = resident() - before
        peers = dots.seek(0, 2)
    if grown > MEMORY_MIB:
        print(f"memory grew by {grown:.0f} MiB; the bound is {MEMORY_MIB}")
        problems += 1
    if opened > DESCRIPTORS:
        print(f"the number of descriptors grew by {opened}; the bound is {DESCRIPTORS}")
        problems += 1
    figures = f"{longest:>8.3f} s{waited:>8.3f} s{grown:>7.0f} MiB"
    print(f"{seed:<8}{window or 0.0:>6.1f} s{seconds:>7.0f}{peers:>10,}{said:>10,}{figures}", flush=True)
    return problems


def main() -> int:
    """Run the command; return 1 if there was a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Peers that have the key and mean harm.")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long (20)")
    parser.add_argument("--seed", default="1", help="decides what is left to chance")
    options = parser.parse_args()
    print("seed      window seconds     peers     heard   longest    waited     memory", flush=True)
    return int(sum(run(options.seconds / 2, options.seed, window) for window in (None, 0.2)) > 0)


if __name__ == "__main__":
    sys.exit(main())
