"""What a user sees on a terminal: progress bars and log lines beside each other, none drawn over another."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from .needed import need
from .running import APPS, DEADLINE, Place, temporary_directory

LINES, COLUMNS = 60, 120


def seen(place: Place, *words: str) -> list[str]:
    """Run a program on a terminal; return the lines that a user sees at the end, including those scrolled away."""
    pyte = need("pyte")
    screen = pyte.HistoryScreen(COLUMNS, LINES, history=10_000, ratio=0.5)
    stream = pyte.ByteStream(screen)
    outer, inner = os.openpty()
    with os.fdopen(outer, "rb", buffering=0):
        fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        environment = {**place.environment(), "TERM": "xterm"}
        command = [sys.executable, str(APPS / words[0]), *words[1:]]
        with os.fdopen(inner, "wb", buffering=0) as end:
            process = subprocess.Popen(
                command, cwd=place.directory, env=environment, stdin=end, stdout=end, stderr=end, start_new_session=True
            )
        deadline = time.monotonic() + DEADLINE
        try:
            while select.select([outer], [], [], max(0.0, deadline - time.monotonic()))[0]:
                try:
                    data = os.read(outer, 65536)
                except OSError:  # no process holds the other end any more
                    break
                stream.feed(data)
            assert process.wait(max(0.1, deadline - time.monotonic())) == 0
        finally:
            with suppress(ProcessLookupError):  # it has ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    scrolled = ["".join(line[column].data for column in range(COLUMNS)).rstrip() for line in screen.history.top]
    return [*scrolled, *(line.rstrip() for line in screen.display)]


@pytest.mark.parametrize("kind", ["tqdm", "rich"])
def test_bars_and_lines_do_not_overwrite_each_other(kind: str, tmp_path: Path) -> None:
    """Each line appears once, each finished bar appears once, and no other text appears between them."""
    need("rich" if kind == "rich" else "tqdm")
    with temporary_directory() as run_directory:
        place = Place(tmp_path, "mesh", {}, Path(run_directory))
        lines = seen(place, "bars.py", kind)
    while lines and not lines[-1]:
        lines.pop()
    text = "\n".join(lines)
    bars = [line for line in lines if "\u2501" in line or "%|" in line]
    steps = [f"worker {number} at step {step}" for number in range(3) for step in range(0, 40, 10)]
    told = Counter(re.findall(r"(?m)worker \d (?:at step \d+|is done)$", text))
    assert told == Counter([*steps, *(f"worker {number} is done" for number in range(3))]), text
    assert len(lines) == len(bars) + 15, text
    names = ["working"] if kind == "rich" else [f"worker {number}" for number in range(3)]
    assert sorted(re.findall(r"(worker \d|working)\W.*100%", "\n".join(bars))) == names, text


def test_top_shows_the_ranks_of_a_run_and_obeys_keys(tmp_path: Path) -> None:
    """The rank with an error is first, `s` sorts by rank, an arrow scrolls, and Ctrl-Z and `q` restore the terminal."""
    pyte = need("pyte")
    need("rich")
    screen = pyte.Screen(COLUMNS, 9)
    stream = pyte.ByteStream(screen)
    with temporary_directory() as run_directory:
        environment = {**Place(tmp_path, "mesh", {}, Path(run_directory)).environment(), "TERM": "xterm"}
        meshlog = [sys.executable, "-m", "meshlog_handler"]
        ranks = ["run", "-n", "5", "--", sys.executable, str(APPS / "watched.py")]
        quiet = subprocess.DEVNULL
        run = subprocess.Popen([*meshlog, *ranks], stdin=quiet, stdout=quiet, stderr=quiet, env=environment)
        outer, inner = os.openpty()
        fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", 9, COLUMNS, 0, 0))
        before = termios.tcgetattr(inner)
        top: subprocess.Popen[bytes] | None = None
        try:
            deadline = time.monotonic() + DEADLINE

            def ranks_shown() -> list[str]:
                return [line.split()[0] for line in screen.display if re.match(r" +\d +\w+ +(now|\d+s) ", line)]

            def wait_for(*expected: str) -> None:
                while ranks_shown()[: len(expected)] != list(expected):
                    left = deadline - time.monotonic()
                    assert left > 0, "\n".join(screen.display)
                    if select.select([outer], [], [], min(left, 1.0))[0]:
                        stream.feed(os.read(outer, 65536))

            once = [*meshlog, "top", "--once"]
            while subprocess.run(once, env=environment, capture_output=True, timeout=DEADLINE).stdout.count(b"step") < 5:
                assert run.poll() is None
            top = subprocess.Popen(
                [*meshlog, "top", "--interval", "0.2"], stdin=inner, stdout=inner, stderr=inner, env=environment
            )
            wait_for("1")  # on a busy machine, some of the others are behind
            assert any(r"disk" not in line and "error" in line for line in screen.display)
            os.write(outer, b"s")
            wait_for("0", "1", "2", "3", "4")
            os.write(outer, b"\x1b[B")
            wait_for("0", "1", "2", "3", "4")  # there is no more to scroll to
            os.kill(top.pid, signal.SIGTSTP)  # as Ctrl-Z does
            assert os.WIFSTOPPED(os.waitpid(top.pid, os.WUNTRACED)[1])
            assert termios.tcgetattr(inner) == before
            while select.select([outer], [], [], 0)[0]:
                os.read(outer, 65536)
            screen.resize(9, 60)
            screen.reset()
            fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", 9, 60, 0, 0))
            os.kill(top.pid, signal.SIGCONT)
            wait_for("0", "1", "2", "3", "4")  # a narrow table is cut at the right
            assert termios.tcgetattr(inner) != before
            os.write(outer, b"\x1b[Bq")  # two keys at once
            assert top.wait(DEADLINE) == 0
            assert termios.tcgetattr(inner) == before
        finally:
            for process in filter(None, (top, run)):
                process.terminate()
                process.wait()
            os.close(inner)
            os.close(outer)
