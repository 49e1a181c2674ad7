"""The scene of a trial: a client that counts, workers that log, and the checks after the fault."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from meshlog_handler import FlushReceipt, FlushTimeout, LogClient, settings
from meshlog_handler.client.peers.stats import Stats
from tests.process import procs
from tests.waiting import until

from . import workers
from .apart import Program
from .counting import Counting, Counts, judge
from .tally import NAME, Lane, Tally
from .workers import Worker

DEADLINE: Final = 60.0
STALL: Final = 1.0
"""The most seconds that a call of a survivor may take."""
_MAX_TRACEBACK: Final = 60

_ALARMING: Final = re.compile(r"Traceback|goes on after|cannot be read|sent what|sends what|connection was refused|Error", re.I)


class Scene:
    """One trial.

    Parameters
    ----------
    rng : random.Random
        Makes every random choice.
    directory : Path
        Empty, for this trial alone.
    """

    def __init__(self, rng: random.Random, directory: Path) -> None:
        self.rng = rng
        self.directory = directory
        self.tally = Tally(str(directory / "tally"), make=True)
        self.counting = Counting()
        self.client: LogClient | None = None
        self.procs: list[BaseProcess | Program] = []
        self.lanes: list[list[Lane]] = []
        self.struck: set[int] = set()  # workers whose calls the fault itself delays
        self.done: set[int] = set()  # workers that have ended by themselves
        self.stall = STALL
        self.allowed = ""  # a pattern of error output that is allowed
        self.problems: list[str] = []
        self.undo: list[Callable[[], object]] = []
        self.apart: tuple[Any, Any] | None = None  # a client in a separate process, and the connection to it
        self.stats: Callable[[], Stats] | None = None  # of a client that another component owns
        self.client_gone = False
        self.kills = 0  # in addition to those of the workers
        self._address = ""

    # -- before --------------------------------------------------------------------------------------------------

    def show(self, **options: Any) -> LogClient:
        """Start the client, in this process."""
        self.client = LogClient(self.counting, **options).start()
        return self.client

    @property
    def address(self) -> str:
        """The address that workers join."""
        return self._address or (self.client or self.show()).address

    @address.setter
    def address(self, address: str) -> None:
        self._address = address

    def start(self, work: Callable[[Worker], object] = workers.at_work, count: int = 0, **options: Any) -> None:
        """Start workers; without a `count`, two to five."""
        address = self.address
        context: Any = multiprocessing.get_context("fork")
        for _ in range(count or self.rng.randint(2, 5)):
            lanes = [self.tally.lane() for _ in range(workers.LANES_EACH)]
            spares = [self.tally.lane() for _ in range(workers.SPARES)]
            capture = options.get("capture", self.rng.random() < 0.5)
            rng = random.Random(self.rng.random())
            worker = Worker(address, self.tally, lanes, spares, rng, **{"capture": capture, **options})
            proc: BaseProcess = context.Process(target=workers.begin, args=(worker, work))
            proc.start()
            self.procs.append(proc)
            self.lanes.append(lanes)

    # -- during --------------------------------------------------------------------------------------------------

    def pause(self, longest: float = 0.03) -> None:
        """Wait for a random time, so that the fault can strike at any moment."""
        time.sleep(self.rng.random() * longest)

    def at_work(self, more: int = 20, which: Sequence[int] | None = None) -> None:
        """Wait until each of these workers, or each worker that was not struck, has logged some more records."""
        chosen = [index for index in range(len(self.procs)) if index not in self.struck | self.done] if which is None else which
        goals = {index: self.lanes[index][0].returned + more for index in chosen}

        def logged() -> bool:
            ended = [index for index in goals if not self.procs[index].is_alive()]
            assert not ended, f"workers {ended} have ended, with {[self.procs[index].exitcode for index in ended]}"
            return all(self.lanes[index][0].returned >= goal for index, goal in goals.items())

        until(logged, DEADLINE, f"workers {sorted(goals)} to log")

    def choose(self, least: int = 1) -> list[int]:
        """Choose victims among the workers that were not struck: one to all of them."""
        left = [index for index in range(len(self.procs)) if index not in self.struck | self.done]
        victims = self.rng.sample(left, self.rng.randint(least, len(left)))
        self.struck.update(victims)
        return victims

    def signal(self, index: int, number: signal.Signals) -> None:
        """Send a signal to a worker."""
        pid = self.procs[index].pid
        assert pid is not None
        os.kill(pid, number)

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Block the client's thread."""
        assert self.client is not None
        with procs.held_up(self.client):
            yield

    @contextmanager
    def small_journals(self, size: int = 64 * 1024) -> Iterator[None]:
        """Give small journals to the workers that are started in this context."""
        os.environ[settings.JOURNAL_SIZE] = str(size)
        try:
            yield
        finally:
            del os.environ[settings.JOURNAL_SIZE]

    def until_all_wait(self) -> None:
        """Wait until no worker makes progress."""
        until(self.quiet, DEADLINE, "all workers to wait for room")

    def quiet(self) -> bool:
        """Tell whether nothing in this scene has logged for a short while."""
        before = [lane.begun for lane in self.tally.lanes()]
        time.sleep(0.1)
        return before == [lane.begun for lane in self.tally.lanes()]

    def flush(self, timeout: float = DEADLINE) -> FlushReceipt:
        """Flush; return the receipt even after a timeout."""
        assert self.client is not None
        try:
            return self.client.flush(timeout)
        except FlushTimeout as silent:
            return silent.receipt

    def join(self, which: Sequence[int], codes: Sequence[int] = (0,)) -> None:
        """Wait until workers have ended, with one of these exit codes (negative: the signal)."""
        deadline = time.monotonic() + DEADLINE
        for index in which:
            proc = self.procs[index]
            proc.join(max(0.0, deadline - time.monotonic()))
            if proc.is_alive():
                self.problems.append(f"worker {index} still runs after {DEADLINE:g} s")
            elif proc.exitcode not in codes:
                self.problems.append(f"worker {index} ended with {proc.exitcode}, not {codes}")

    def lose_client(self) -> None:
        """Note that no client shows logs any more: workers then write their errors to stderr."""
        self.client_gone = True
        self.allowed = f"^meshlog: ERROR {NAME}: "

    # -- after ---------------------------------------------------------------------------------------------------

    def finish(self) -> Counts:
        """Let the survivors end, flush, and compare."""
        self.tally.stop()
        self.join([index for index in range(len(self.procs)) if index not in self.struck | self.done])
        self.join([*self.struck], range(-64, 256))
        if self.client_gone:
            return self.judge(None)
        if self.apart is not None:
            _, connection = self.apart
            connection.send(True)
            assert connection.poll(DEADLINE)
            self.counting.numbers, dropped, self.counting.others = connection.recv()
            connection.send(False)
            return self.judge(dropped)
        if self.stats is not None:
            return self.judge(self.stats().dropped)
        receipt = self.flush()
        if receipt.missing:
            self.problems.append(f"the last flush: missing {receipt.missing}")
        assert self.client is not None
        dropped = self.client.stats().dropped
        self.client.stop()
        return self.judge(dropped)

    def given_up(self) -> Counts:
        """Return the counts of a try that did not finish."""
        return Counts(problems=self.problems)

    def judge(self, dropped: int | None) -> Counts:
        """Compare what arrived with what was logged. `dropped` is None if no client was left to show it."""
        exempt = {lane.number for index in self.struck for lane in self.lanes[index]}
        lanes, survivors = self.tally.lanes(), [lane for lane in self.tally.lanes() if lane.number not in exempt]
        if dropped is None:
            counts = Counts(sent=sum(lane.returned for lane in lanes), received=sum(lane.seen for lane in lanes))
        else:
            # Not the report of an exit, which may quote such a note as the last line.
            notes = [other for other in self.counting.others if other.startswith("meshlog: a record of ")]
            cut = sum("bytes was cut: no room for a side file" in note for note in notes)
            counts = judge(lanes, self.counting.numbers, dropped + cut)
        longest = max((lane.longest for lane in survivors), default=0.0)
        if self.stall > STALL:
            counts.waited = longest
        else:
            counts.longest = longest
        if longest > self.stall:
            counts.problems.append(f"a call of a survivor took {longest:.2f} s, where {self.stall:g} s are allowed")
        if any(lane.astray for lane in lanes):
            counts.problems.append("the client showed records out of order, or twice")
        counts.problems += self.problems
        counts.kills = self.kills + sum(proc.exitcode == -signal.SIGKILL for proc in self.procs)
        return counts

    def close(self) -> None:
        """End everything that is still running, and close everything."""
        self.tally.stop()
        for proc in self.procs:
            if proc.is_alive():
                proc.kill()
            proc.join()
            proc.close()
        if self.apart is not None:
            proc, connection = self.apart
            connection.close()
            proc.join(0 if self.problems else DEADLINE)
            proc.kill()  # a process that has not ended may be stopped
            proc.join()
            proc.close()
        if self.client is not None:
            self.client.stop(1.0)
        while self.undo:
            self.undo.pop()()


@contextmanager
def heard(path: Path) -> Iterator[None]:
    """Redirect descriptor 2 of this process and its children to a file."""
    before = os.dup(2)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.dup2(file, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(file)


def alarming(text: str, allowed: str) -> list[str]:
    """Return the lines that report an error of ours; for a traceback, all its lines."""
    lines = text.splitlines()
    found: list[str] = []
    for at, line in enumerate(lines):
        if _ALARMING.search(line) and not (allowed and re.search(allowed, line)):
            rest = list(itertools.takewhile(_is_inside, lines[at + 1 : at + _MAX_TRACEBACK])) if "Traceback" in line else []
            found.append("\n".join(lines[at : at + len(rest) + 2] if rest else [line]))
    return found


def _is_inside(line: str) -> bool:
    """Tell whether a line is inside a traceback, in its plain or its captured form."""
    return line.removeprefix("stderr: ").startswith(" ")
