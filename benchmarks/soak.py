"""Load and killed workers for minutes, then an exact account: ``python -m benchmarks.soak --minutes 10``.

Workers log and print at random as fast as they can, from two threads each: short and long records, extras, exceptions,
records larger than a segment of the journal. Meanwhile they are killed (SIGKILL), stopped and continued, or end by
themselves, and others take their ranks. Each has a number in shared memory that rises only after a logging call has
returned. At the end, for every life of every worker:

    numbers sent = numbers received + drops that were counted

No number may arrive twice or out of order. One more record is allowed only if the kill hit a call that had not returned. Then
no thread, descriptor, child, file or run directory may be left, and the memory of this process must not have grown. Exits
with code 1, and the reasons, if any of this does not hold. Linux only: it reads /proc. The random choices are seeded; the
races are not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from .crew import FORKSERVER, context
from .rounds import tell
from .server import resident, rise
from .soak_ledger import Account, Arrivals, Lane
from .soak_worker import LANES, open_counts, place, size, work

_FLUSH_SEC: Final = 3.0
_REPORT_SEC: Final = 15.0
_SLACK: Final = 4 << 20


class Soak:
    """The workers, what is done to them, and what is expected of them."""

    def __init__(self, client: Any, procs: int, path: str, seed: int, arrivals: Arrivals) -> None:
        self._client = client
        self._path = path
        self._arrivals = arrivals
        self._chance = random.Random(seed)
        self._counts = open_counts(path)
        self._start = context(FORKSERVER)
        self._workers: list[Any] = [None] * procs
        self._lives = [0] * procs
        self._killed = [False] * procs
        self._stopped: dict[int, float] = {}
        self._ended: list[tuple[Lane, int, bool]] = []
        self.account = Account()
        self.kills = self.stops = self.flushes = 0
        self.worst_flush = 0.0

    def run(self, seconds: float) -> list[tuple[float, int]]:
        """Run for this long; return the resident memory at each flush: (seconds, bytes)."""
        began = time.monotonic()
        next_flush, next_report = began + _FLUSH_SEC, began + _REPORT_SEC
        memory: list[tuple[float, int]] = []
        for rank in range(len(self._workers)):
            self._spawn(rank)
        while (now := time.monotonic()) < began + seconds:
            self._harm(now)
            self._replace()
            if now >= next_flush:
                next_flush = now + _FLUSH_SEC
                self._flush()
                memory.append((now - began, resident(os.getpid())))
            if now >= next_report:
                next_report = now + _REPORT_SEC
                tell(f"{now - began:6.0f} s  {self}  {resident(os.getpid()) / 1e6:.1f} MB")
            time.sleep(self._chance.random() * 0.2)
        return memory

    def end(self) -> None:
        """Let all workers end by themselves, and settle the account."""
        self._continue()
        self._counts[0] = 1
        for rank, worker in enumerate(self._workers):
            worker.join(60.0)
            if worker.is_alive():
                self._arrivals.faults.append(f"rank {rank} (pid {worker.pid}) does not end")
                worker.kill()
                worker.join()
                self._killed[rank] = True
            self._note(rank)
        self._flush()
        self._counts.release()

    def __str__(self) -> str:
        return f"{self._arrivals.count:,} came, {self.kills} killed, {self.stops} stopped, {sum(self._lives)} lives"

    def _spawn(self, rank: int) -> None:
        self._lives[rank] += 1
        self._killed[rank] = False
        for lane in range(LANES):
            self._counts[place(rank, lane)] = 0
        args = (self._client.address, self._path, rank, self._lives[rank], self._chance.getrandbits(32))
        self._workers[rank] = self._start.Process(target=work, args=args)
        self._workers[rank].start()

    def _harm(self, now: float) -> None:
        for rank in [rank for rank, until in self._stopped.items() if now >= until]:
            self._signal(rank, signal.SIGCONT)
            del self._stopped[rank]
        rank = self._chance.randrange(len(self._workers))
        what = self._chance.random()
        if what < 0.25:
            self._killed[rank] = True
            self.kills += self._signal(rank, signal.SIGKILL)
        elif what < 0.5 and rank not in self._stopped:
            self.stops += self._signal(rank, signal.SIGSTOP)
            self._stopped[rank] = now + self._chance.random() * 1.5

    def _signal(self, rank: int, number: int) -> bool:
        worker = self._workers[rank]
        if not worker.is_alive():
            return False
        try:
            os.kill(worker.pid, number)
        except ProcessLookupError:  # it has just ended, and the fork server has waited for it
            return False
        return True

    def _continue(self) -> None:
        for rank in self._stopped:
            self._signal(rank, signal.SIGCONT)
        self._stopped.clear()

    def _replace(self) -> None:
        for rank, worker in enumerate(self._workers):
            if not worker.is_alive():
                self._note(rank)
                self._stopped.pop(rank, None)
                self._spawn(rank)

    def _note(self, rank: int) -> None:
        """Note what a worker that has ended sent."""
        worker = self._workers[rank]
        if worker.exitcode not in (0, -signal.SIGKILL):
            self._arrivals.faults.append(f"rank {rank} (pid {worker.pid}) ended with {worker.exitcode}")
        worker.close()
        for lane in range(LANES):
            sent = self._counts[place(rank, lane)]
            self._ended.append((Lane(rank, self._lives[rank], lane), sent, self._killed[rank]))

    def _flush(self) -> None:
        self._continue()
        ended, self._ended = self._ended, []
        began = time.monotonic()
        self._client.flush(60.0)
        self.flushes += 1
        self.worst_flush = max(self.worst_flush, time.monotonic() - began)
        self.account.settle(self._arrivals, ended)


def main(words: list[str] | None = None) -> int:
    """Run the soak; return 0 if everything holds."""
    from meshlog_handler import LogClient
    from tests.leaks import Held

    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Load, killed workers, an exact account.")
    parser.add_argument("--minutes", type=float, default=1.0, metavar="N")
    parser.add_argument("--procs", type=int, default=6, metavar="N", help="workers at a time (6)")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of the dice; else one that is told")
    chosen = parser.parse_args(words)
    seed = chosen.seed if chosen.seed is not None else random.randrange(1 << 16)
    tell(f"seed {seed}")
    arrivals = Arrivals()
    before = Held.take()
    with tempfile.TemporaryDirectory(prefix="meshlog-soak-") as directory:
        path = Path(directory) / "counts"
        path.write_bytes(bytes(size(chosen.procs)))
        with LogClient(arrivals) as client:
            soak = Soak(client, chosen.procs, str(path), seed, arrivals)
            memory = soak.run(chosen.minutes * 60.0)
            soak.end()
            dropped = client.stats().dropped
    account, rising = soak.account, rise(memory)
    print(f"{soak}; {soak.flushes} flushes, the longest {soak.worst_flush:.2f} s; {arrivals.others} other records")
    received = account.sent - account.lost
    print(f"sent {account.sent:,} = received {received:,} + lost {account.lost:,}; counted drops {dropped:,}")
    print(f"{account.begun} more came of calls that were killed before they returned")
    print(f"memory rises by {rising / 1e3:,.0f} kB a minute in the second half")
    faults = [*arrivals.faults, *(f"left behind: {each}" for each in before.left())]
    if account.lost != dropped:
        faults.append(f"{account.lost:,} records are lost, but {dropped:,} drops were counted")
    quarter = len(memory) // 4
    if quarter and max(used for _, used in memory[-quarter:]) > max(used for _, used in memory[quarter : 2 * quarter]) + _SLACK:
        faults.append(f"memory has grown by more than {_SLACK >> 20} MiB from the second quarter to the last")
    for fault in faults[:50]:
        print(f"FAULT: {fault}")
    print("all holds" if not faults else f"{len(faults)} faults; seed {seed}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
