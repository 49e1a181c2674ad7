"""The records lost by a kill -9: ``python -m benchmarks.kills [--kills N] [--out FILE]``.

A worker logs and prints numbers in a loop. Once a call has returned, it notes the number in memory that the killer can read.
It is killed at a random moment. A number that was noted and is not shown is lost. The worker is started in each of the ways
of docs/integrations.md; those whose launcher is not installed are named.
"""

from __future__ import annotations

import argparse
import logging
import mmap
import multiprocessing
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from meshlog_handler import LogClient, install

NOTES = struct.Struct("qqq")
"""The worker's pid, and how many numbers it has logged and printed."""

SELF = (sys.executable, "-m", "benchmarks.kills")
WAYS = {
    "Process, fork": (*SELF, "--start", "fork"),
    "Process, spawn": (*SELF, "--start", "spawn"),
    "Process, forkserver": (*SELF, "--start", "forkserver"),
    "subprocess": (*SELF, "--start", "subprocess"),
    "mpirun, meshlog exec": (
        "mpirun",
        "--allow-run-as-root",
        "--oversubscribe",
        "-n",
        "2",
        "meshlog",
        "exec",
        "--",
        *SELF,
        "--work",
    ),
    "torchrun": ("torchrun", "--standalone", "--logs-specs", "meshlog", "-m", "benchmarks.kills", "--work"),
}


def work(path: str) -> None:
    """Log and print until killed. With several ranks, only the last one does, because the first one shows the logs."""
    if os.environ.get("OMPI_COMM_WORLD_RANK") == "0":
        return
    install()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), NOTES.size) as notes:
        number = 0
        while True:
            logging.info("logged %d", number)
            NOTES.pack_into(notes, 0, os.getpid(), number + 1, number)
            print("printed", number)
            NOTES.pack_into(notes, 0, os.getpid(), number + 1, number + 1)
            number += 1


def start(method: str, path: str) -> None:
    """Show the logs of one worker until it is dead."""
    with LogClient() as client:
        os.environ.update(client.environ())
        if method == "subprocess":
            subprocess.run([*SELF, "--work", path], check=False)
        else:
            context: Any = multiprocessing.get_context(method)
            process = context.Process(target=work, args=(path,))
            process.start()
            process.join()


def kill_one(command: tuple[str, ...], directory: Path) -> list[int]:
    """Kill one worker; return how many records and lines were noted, and how many of each were lost."""
    notes, shown = directory / "notes", (directory / "stdout", directory / "stderr")
    notes.write_bytes(bytes(NOTES.size))
    with shown[0].open("wb") as out, shown[1].open("wb") as err:  # a launcher tears lines when it mixes the two
        process = subprocess.Popen([*command, str(notes)], stdout=out, stderr=err)
    deadline = time.monotonic() + 300
    while NOTES.unpack(notes.read_bytes())[2] < 100:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"no worker came to work: {shown[1].read_text()}")
        time.sleep(0.001)
    time.sleep(random.random() * 0.02)
    os.kill(NOTES.unpack(notes.read_bytes())[0], signal.SIGKILL)
    process.wait(60)
    _, logged, printed = NOTES.unpack(notes.read_bytes())
    text = "".join(path.read_text() for path in shown)
    lost = [
        count - len({int(number) for number in re.findall(rf"{kind} (\d+)\r?$", text, re.MULTILINE)} & set(range(count)))
        for kind, count in (("logged", logged), ("printed", printed))
    ]
    return [logged, printed, *lost]


def main() -> int:
    """Kill, count, and print a table; 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description="What a kill -9 loses.")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="kills for each way (20; of torchrun a quarter)")
    parser.add_argument("--start", metavar="METHOD", help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("path", nargs="?", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work or chosen.start:
        work(chosen.path) if chosen.work else start(chosen.start, chosen.path)
        return 0
    worst = 0
    for way, command in WAYS.items():
        if shutil.which(command[0]) is None:
            print(f"{way}: {command[0]} is not installed")
            continue
        kills = max(1, chosen.kills // 4) if way == "torchrun" else chosen.kills
        with tempfile.TemporaryDirectory() as directory:
            sums = [sum(counts) for counts in zip(*(kill_one(command, Path(directory)) for _ in range(kills)), strict=True)]
        print(f"{way}: {kills} kills, {sums[0]} records and {sums[1]} lines; lost {sums[2]} and {sums[3]}", flush=True)
        worst += sums[2] + sums[3]
    return 1 if worst else 0


if __name__ == "__main__":
    sys.exit(main())
