"""Runs a program twice, with its own handlers and with ours, and compares the output of both runs.

A test gives a *scenario* to `same`: a function that starts a program in a `Place` and uses it as a user would. It runs in two
places at once. The output is the program's stdout, its stderr and its log files. They are compared line by line, ignoring
order, because concurrent processes have no fixed order.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.waiting import until

APPS = Path(__file__).with_name("apps")
ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0
"""Seconds for one step of a scenario: far more than any step takes."""

Pattern = tuple[str, str]

USUAL: tuple[Pattern, ...] = (
    (r"\b(pid|process|parent|worker)([ =:]+)\d+", r"\1\2N"),
    (r"[\[(]\d{2,}[\])]", "[N]"),
    (r"\b(127\.0\.0\.1|localhost):\d+", "HERE"),
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d([.,]\d+)?( ?[+-]\d{2}:?\d{2}|Z)?", "TIME"),
    (r"\d\d/\w{3}/\d{4}[: ]\d\d:\d\d:\d\d( [+-]\d{4})?", "TIME"),
    (r"0x[0-9a-f]{6,}", "0xN"),
)
"""Patterns for text that differs between two runs of any program, with their replacements."""

_STACKS_SEC = 5.0
_STACKS_SIZE = 60_000

EXIT_REPORT = (r"^ERROR meshlog\b", r"^    \S")
"""Lines in which the client reports that a process failed, and what it logged last."""

NORMAL_END = r"^INFO meshlog\b.* ended by "
"""One such line may be shown when a process ends in the way its program intends."""

# Python 3.12 and later give this warning when a program with threads forks. Our client runs such a thread.
_QUIET = "ignore:This process:DeprecationWarning"


@dataclass
class Place:
    """One of the two runs: a directory, and an environment that tells the program which handlers to use."""

    directory: Path
    handlers: str
    """``plain``, ``mesh`` or ``each``; the programs read it from their environment (`apps/swap.py`)."""
    variables: dict[str, str]
    run_directory: Path
    """The directory in which the clients of this place create their run directories."""

    @property
    def swapped(self) -> bool:
        """Whether our handlers are used."""
        return self.handlers != "plain"

    @cached_property
    def port(self) -> int:
        """A free port."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
            return port

    def environment(self) -> dict[str, str]:
        """Return the environment a user's shell would have, with this Python's commands first."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MESHLOG_", "PYTEST_", "COV_"))}
        return {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join((str(APPS), str(ROOT))),
            "PYTHONWARNINGS": _QUIET,
            "HANDLERS": self.handlers,
            "HOME": str(self.directory),
            "PORT": str(self.port),
            "MESHLOG_RUN_DIR": str(self.run_directory),
            **self.variables,
        }

    def run(self, *command: str, code: int = 0, timeout: float = DEADLINE) -> None:
        """Run a program to its end. A first word that ends in ``.py`` is one of the apps."""
        with self.start(*command) as program:
            program.ends(code, timeout)

    @contextmanager
    def start(self, *command: str) -> Iterator[Program]:
        """Start a program; at the end, kill what is left of it."""
        words = [sys.executable, str(APPS / command[0]), *command[1:]] if command[0].endswith(".py") else list(command)
        out, err = self.directory / "stdout", self.directory / "stderr"
        with out.open("ab") as stdout, err.open("ab") as stderr:
            process = subprocess.Popen(
                words,
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            yield Program(self, process)
        finally:
            # Kill all processes left in the session. In a successful scenario there are none.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def shown(self) -> dict[str, str]:
        """Return what the program showed, by file: ``stdout``, ``stderr``, and what it logged to."""
        names = ["stdout", "stderr", *(path.name for path in self.directory.glob("*.log*"))]
        return {name: self.read(name) for name in names}

    def read(self, name: str) -> str:
        """Return the current text of a file, with ``PLACE`` for the directory. Empty if the file does not exist yet."""
        path = self.directory / name
        return path.read_text(errors="replace").replace(str(self.directory), "PLACE") if path.exists() else ""

    def says(self, size: int = 6000) -> str:
        """Return the last part of the whole output, for an error message."""
        return "\n".join(f"--- {self.handlers}, {name}\n{text[-size:]}" for name, text in self.shown().items())

    def until_shown(self, pattern: str, count: int = 1, name: str | None = None, timeout: float = DEADLINE) -> None:
        """Wait until `count` matching lines are in one file, or in all files together."""

        def found() -> bool:
            texts = [self.read(name)] if name else self.shown().values()
            return sum(len(re.findall(pattern, text, re.MULTILINE)) for text in texts) >= count

        until(found, timeout, lambda: f"{count} times {pattern!r}\n{self.says()}", interval=0.02)


@dataclass(frozen=True)
class Program:
    """A program that runs in a place."""

    place: Place
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The pid of its first process."""
        return self.process.pid

    def ask(self, path: str = "/", timeout: float = DEADLINE) -> str:
        """Send one request to the server on its own connection; return the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.place.port, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def until_answers(self, path: str = "/") -> str:
        """Wait until the server answers; return the answer. Only the answered request reaches the program."""
        self.until_listens()
        return self.ask(path)

    def until_listens(self) -> None:
        """Wait until the port accepts a connection. The connection is closed without a request."""

        def listens() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}\n{self.place.says()}"
            with socket.socket() as connection:
                return connection.connect_ex(("127.0.0.1", self.place.port)) == 0

        until(listens, DEADLINE, self.place.says, interval=0.02)

    def workers(self) -> list[int]:
        """Return the pids of its child processes."""
        return children(self.pid)

    def send(self, number: signal.Signals, pid: int | None = None) -> None:
        """Send a signal to the program, or to one of its processes."""
        os.kill(pid or self.pid, number)

    def interrupt(self) -> None:
        """Send SIGINT to all its processes, as Ctrl-C on a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def stop(self, number: signal.Signals = signal.SIGTERM, code: int = 0) -> None:
        """Send a signal and wait until the program ends."""
        self.send(number)
        self.ends(code)

    def ends(self, code: int = 0, timeout: float = DEADLINE) -> None:
        """Wait until the program ends, and check its exit code."""
        try:
            got = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGRTMIN + 10)  # see `swap`
            with contextlib.suppress(AssertionError):  # not every program has a thread that can report it
                self.place.until_shown("most recent call first", len(self.workers()) + 1, "stderr", _STACKS_SEC)
            raise AssertionError(f"still runs after {timeout:g} s\n{self.place.says(_STACKS_SIZE)}") from None
        assert got == code, f"exit code {got}, expected {code}\n{self.place.says()}"


def children(pid: int) -> list[int]:
    """Return the pids of a process's children that have not ended."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        # A process that ended since then has no parent.
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", errors="replace") as stat:
            state, parent = stat.read().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(name))
    return sorted(found)


def until_gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""

    def gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat", errors="replace") as stat:
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    until(gone, DEADLINE, f"process {pid} to end")


# README, "What is guaranteed": A drop-in. Every test of this folder calls it.
def same(
    scenario: Callable[[Place], None],
    directory: Path,
    handlers: str = "mesh",
    *,
    normal: Sequence[Pattern] = (),
    extra: Sequence[str] = (),
    missing: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    killed: bool = False,
) -> Place:
    """Run a scenario with the program's own handlers and with ours; fail unless both show the same.

    Parameters
    ----------
    scenario : Callable[[Place], None]
        Runs the program.
    handlers : {"mesh", "each"}
        How ours replace the program's: one for all handlers of a logger, or one for each.
    normal : sequence of (pattern, replacement)
        What else may differ from run to run, in addition to `USUAL`; applied first.
    extra : sequence of str
        Regular expressions; matching lines may be shown in addition when our handlers are used.
    missing : sequence of str
        Matching lines need not be shown: they appear in some runs only, also with the program's own handlers.
    variables : mapping
        For the environment of both.
    killed : bool
        Whether the process that shows the logs ends at once: its run directory then stays until the next client starts.

    Returns
    -------
    Place
        The place with our handlers, for further checks by the test.
    """
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        places = [
            Place(directory / each, each, dict(variables or {}), Path(stack.enter_context(temporary_directory())))
            for each in ("plain", handlers)
        ]
        for place in places:
            place.directory.mkdir()
        with ThreadPoolExecutor(2) as both:
            for future in [both.submit(scenario, place) for place in places]:
                future.result(2 * DEADLINE)
        left = [] if killed else [f"left behind: {path}" for path in places[1].run_directory.glob("*/*")]
    assert time.monotonic() - begun < 2 * DEADLINE
    plain, mesh = places
    problems = left + differences(plain.shown(), mesh.shown(), (*normal, *USUAL), extra, missing)
    assert not problems, "\n".join([*problems, plain.says(), mesh.says()])
    return mesh


def temporary_directory() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary directory with a short path for run directories: the path of a socket has a length limit."""
    shared_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="mlp-", dir=shared_memory, ignore_cleanup_errors=True)


def differences(
    plain: Mapping[str, str], mesh: Mapping[str, str], normal: Sequence[Pattern], extra: Sequence[str], missing: Sequence[str]
) -> list[str]:
    """Name each line that the second place shows more or less often, by file."""
    problems = []
    for name in sorted({*plain, *mesh}):
        before, after = (Counter(lines(texts.get(name, ""), normal)) for texts in (plain, mesh))
        less = [line for line in (before - after).elements() if not any(re.search(each, line) for each in missing)]
        more = [line for line in (after - before).elements() if not any(re.search(each, line) for each in (*extra, *missing))]
        problems += [f"{name}: not shown: {line!r}" for line in less]
        problems += [f"{name}: shown in addition: {line!r}" for line in more]
    return problems


def lines(text: str, normal: Sequence[Pattern]) -> list[str]:
    """Return the lines of a text, with everything that differs from run to run replaced."""
    for pattern, replacement in normal:
        text = re.sub(pattern, replacement, text)
    return text.splitlines()
