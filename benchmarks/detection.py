"""What a person is told of faults of a job: ``python -m benchmarks.detection [--only WORD] [--out FILE]``.

Each fault happens in a real job of `meshlog run` with four ranks, see `faulty`. The table has the first line that names the
rank, how many seconds after the fault it was shown, and whether it is right: it names the rank, and the line or the lines
below it name the place. With ``--false-alarms MINUTES``, two jobs without a fault run that long instead: ranks that log at
irregular times, make pauses together, or end early; and ranks that compute without a line, with ``--progress-from cpu``. An
alarm is an error.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import os
import platform
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .rounds import tell

_MESHLOG: Final = (sys.executable, "-m", "meshlog_handler")
_RANKS: Final = 4
_PATIENCE_SEC: Final = 40.0
_BELOW: Final = 40
_ALARM: Final = re.compile("no progress for")
_PAUSE_SEC: Final = 3.5
_REST_SEC: Final = 6.0


@dataclass(frozen=True)
class Fault:
    """A fault, and what is right: a pattern of the line that tells of it, and one of the place, in it or below it.

    `asked` is the command that a person gives to see it, "" if it is shown without one.
    """

    name: str
    about: str
    told: str
    place: str
    asked: tuple[str, ...] = ()
    needs: str = ""


_HANG: Final = r"no progress for .* s: "
FAULTS: Final = (
    Fault("deadlock", "two ranks wait for each other's file lock", _HANG + r"(.*; )?ranks 1-2 in ", r"lock_files \("),
    Fault("lock", "a rank waits for a `threading.Lock`", _HANG + "rank 2 in ", r"take_lock_twice \("),
    Fault(
        "collective",
        "a rank does not reach a collective of gloo",
        _HANG + "rank 2 in ",
        r"wait_for_writer \((.|\n)*all_reduce",
        needs="torch",
    ),
    Fault("stopped", "a rank is stopped (SIGSTOP)", _HANG + "rank 2 stopped", "stopped"),
    Fault("native", "native code of a rank sleeps and holds the GIL", _HANG + "rank 2 in ", r"sleep_in_native_code \("),
    Fault("full", "a rank logs into a file on a full disk", r"\[2\] OSError.*No space left", "log_into_full_disk"),
    Fault("killed", "a rank is killed (SIGKILL)", r"rank 2 \(pid \d+\) ended by SIGKILL", r"last lines:\n(.*\n){2}.*step 3"),
    Fault("segfault", "a rank crashes (SIGSEGV)", r"rank 2 \(pid \d+\) ended by SIGSEGV", "in read_null"),
    Fault("straggler", "a rank works at a third of the speed", r"\b2 +behind ", r"step \d+", ("top", "--once")),
    Fault("late", "the same, and the others wait for it in each step", r"rank 2: .*differs", r"compute \(", ("stacks",)),
    Fault("exception", "a rank raises an exception", r"\[2\] OSError.*shard-7.bin", r", in fail\b"),
    Fault("busy", "a rank loops for ever, without a line", _HANG + "rank 2 in ", r"spin \("),
    Fault("pipe", "a rank reads from a pipe to which nobody writes", _HANG + "rank 2 in ", r"read_pipe \("),
    Fault("uninterruptible", "a rank sleeps in the kernel, cannot be interrupted", _HANG + "rank 2 in ", r"spawn_into_fifo \("),
)


class Job:
    """A running ``meshlog run``, and what it has shown: each line with its time."""

    def __init__(self, directory: Path, ranks: int, options: tuple[str, ...], words: tuple[str, ...]) -> None:
        command = [*_MESHLOG, "run", "-n", str(ranks), *options, "--", sys.executable, "-m", "benchmarks.faulty", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.directory = directory
        self.lines: list[tuple[float, str]] = []
        self._arrived: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.time(), line.rstrip("\n")))
            self._arrived.put(None)
        self._arrived.put(None)

    def wait_for_line(self, seconds: float) -> None:
        """Wait for the next line, at most this long."""
        try:
            self._arrived.get(timeout=seconds)
        except queue.Empty:
            return

    def end(self) -> None:
        """End the job, and read the rest."""
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(OSError):  # only one fault leaves a process that waits for this
            os.close(os.open(self.directory / "stdin", os.O_WRONLY | os.O_NONBLOCK))
        self.process.wait(60)
        self._reader.join(60)


@contextmanager
def job(options: tuple[str, ...], *words: str, ranks: int = _RANKS) -> Iterator[Job]:
    """Run a job in a new directory, the last argument of the ranks."""
    with tempfile.TemporaryDirectory() as name:
        running = Job(Path(name), ranks, options, (*words, name))
        try:
            yield running
        finally:
            running.end()


def try_fault(fault: Fault, after: float) -> tuple[str, float | None, bool]:
    """Return what was told, how long after the fault, and whether it is right."""
    # Ranks that import torch compute without a line.
    source = "cpu" if fault.needs else "output"
    options = "--hang-after", str(after), "--progress-from", source, "--on-hang", "kill", "--grace", "1"
    with job(options, fault.name) as running:
        deadline = time.time() + _PATIENCE_SEC
        while time.time() < deadline:
            lines = _asked(running, fault) if fault.asked else list(running.lines)
            at = next((at for at, (_, line) in enumerate(lines) if re.search(fault.told, line)), None)
            if at is not None:
                break
            if running.process.poll() is not None and not fault.asked:
                break
            running.wait_for_line(0.5)
        if at is not None and not fault.asked:
            with contextlib.suppress(subprocess.TimeoutExpired):  # of a fault that does not end the job
                running.process.wait(_REST_SEC)
            time.sleep(0.5)  # for the last lines
            lines = list(running.lines)
        began = _began(running.directory)
    if at is None or began is None:
        return "nothing", None, False
    when, line = lines[at]
    text = "\n".join(each for _, each in lines[max(0, at - _BELOW) : at + _BELOW])
    return line.strip(), when - began, re.search(fault.place, text) is not None


def _asked(running: Job, fault: Fault) -> list[tuple[float, str]]:
    command = [*_MESHLOG, *fault.asked[:1], str(running.process.pid), *fault.asked[1:]]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return [(time.time(), line) for line in said.stdout.splitlines()]


def _began(directory: Path) -> float | None:
    """Return when the fault happened, as its rank has noted."""
    noted = directory / "began"
    return float(noted.read_text()) if noted.exists() else None


def table(after: float, only: str) -> Iterator[str]:
    """Yield the table, a row after each fault."""
    yield f"{datetime.date.today()}, Python {platform.python_version()}, {os.cpu_count()} cores, --hang-after {after:g}"
    yield ""
    yield "| fault | the first report | seconds | |"
    yield "| --- | --- | ---: | --- |"
    for fault in FAULTS:
        if only not in fault.name:
            continue
        if fault.needs and importlib.util.find_spec(fault.needs) is None:
            yield f"| {fault.about} | not tried: {fault.needs} is not installed | | |"
            continue
        line, seconds, right = try_fault(fault, after)
        asked = f"`meshlog {' '.join(fault.asked)}`: " if fault.asked else ""
        shown = "" if seconds is None else f"{seconds:.1f}"
        yield f"| {fault.about} | {asked}`{' '.join(line.split())}` | {shown} | {'right' if right else 'WRONG'} |"


def false_alarms(minutes: float, after: float) -> int:
    """Run jobs without a fault; return how many alarms there were, or a job that failed."""
    seconds = str(minutes * 60)
    options = "--hang-after", str(after)
    found = 0
    with (
        job(options, "irregular", seconds, str(_PAUSE_SEC), ranks=8) as irregular,
        job((*options, "--progress-from", "cpu"), "computes", seconds, ranks=2) as computes,
    ):
        for name, running in (("irregular", irregular), ("computes", computes)):
            code = running.process.wait(minutes * 60 + 120)
            running.end()
            alarms = [line for _, line in running.lines if _ALARM.search(line)]
            found += len(alarms) + (code != 0)
            tell(f"{name}: {minutes:g} minutes, {len(running.lines)} lines, exit code {code}, {len(alarms)} alarms")
            for line in alarms:
                tell(f"    {line}")
    return found


def main() -> int:
    """Run the command; return 1 if a fault was told wrongly, or if there was a false alarm."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description="What is told of faults of a job.")
    parser.add_argument("--only", default="", metavar="WORD", help="faults with this word in their names")
    parser.add_argument("--hang-after", type=float, default=5.0, metavar="SEC")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the table goes, too")
    parser.add_argument("--false-alarms", type=float, metavar="MINUTES", help="run jobs without a fault instead")
    options = parser.parse_args()
    if options.false_alarms is not None:
        return int(false_alarms(options.false_alarms, options.hang_after) > 0)
    rows = []
    for row in table(options.hang_after, options.only):
        print(row, flush=True)
        rows.append(row)
    if options.out is not None:
        options.out.write_text("\n".join(rows) + "\n")
    return int(any("WRONG" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
