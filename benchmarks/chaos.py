"""Faults on several hosts for minutes, then an exact account: ``python -m benchmarks.chaos --minutes 20 --seed 1``.

Hosts are network namespaces, each with a relay, whose bytes cross the network to a client, and with workers that log numbers:
one slowly, one fast, one in bursts. Those of every second host have the ranks of a launcher, and a new one has the rank of the
last. By a schedule that the seed decides, workers and relays are killed (SIGKILL), the networks
of hosts are cut for up to 30 seconds, the client is stopped (SIGSTOP) for up to 8, and observers come and are killed. On each
host, a keeper starts others in the place of what ended. A worker writes into a file what it has sent, after each call. At the
end, for every worker:

    numbers sent = numbers that arrived + drops that were counted

No number may arrive twice or out of order. Flushes with a timeout of 2 seconds run meanwhile. Exits with code 1, and the
reasons, if the account is not exact, a flush took too long, or the memory of the client or of the relays has grown. Needs
Linux, root and iproute2. The schedule is seeded; the races are not.

With ``--engine dask``, the workers are those of a Dask cluster, one on each host, and the relays are in their nannies, which
are killed in their place. Faults are fewer, because each process of Dask takes seconds to start. Networks are cut; they are not
slow and lose nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.hosts.hosts import Host, hosts, missing
from tests.waiting import until

from . import chaos_dask
from .chaos_account import PAUSE_SEC, Arrived, Event, Told, balance, growth, rows, schedule, told_of
from .rounds import tell
from .server import resident

_SLOTS: Final = 3
_FLUSH_SEC: Final = 2.0
_LATE_SEC: Final = 6.0
_PAUSE_SEC: Final = 5.0
_START_SEC: Final = 180.0
_END_SEC: Final = 240.0
_SLACK: Final = 8 << 20
_ROOT: Final = Path(__file__).resolve().parent.parent


class Chaos:
    """The hosts, the client and what is done to them."""

    slots = _SLOTS
    pause = PAUSE_SEC
    relay = b"relay\0"
    """In the command lines of relays."""

    def __init__(self, made: list[Host], here: str, directory: Path) -> None:
        self._hosts = made
        self._directory = directory
        self._env = {**os.environ, "MESHLOG_RUN_DIR": str(directory), "PYTHONPATH": str(_ROOT)}
        (directory / "workers").mkdir()
        with open(directory / "client.log", "wb") as log:
            pipe = subprocess.PIPE
            words = self._client_words(here)
            self._client = subprocess.Popen(words, env=self._env, stdin=pipe, stdout=pipe, stderr=log, text=True)
        told = self._answer()
        for host in made:
            self._keep(host, here, told)
        for host in made:
            until((directory / f"{host.name}.relay").exists, _START_SEC, "the relays to start")
        self._observer: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self.done: Counter[str] = Counter()
        self.flushes: list[float] = []
        self.memory: list[tuple[int, int]] = []  # of the client, and of the largest relay

    def _client_words(self, here: str) -> list[str]:
        return [sys.executable, "-m", "benchmarks.chaos_programs", "client"]

    def _keep(self, host: Host, here: str, told: dict[str, Any]) -> None:
        """Start the keeper of a host."""
        words = ("keep", host.name, str(self._directory), here, str(told["port"]), str(self.slots))
        env = {"CHAOS_UPSTREAM": told["address"], "PYTHONPATH": str(_ROOT)}
        host.run(sys.executable, "-m", "benchmarks.chaos_programs", *words, env=env)

    def _kill_worker(self, host: Host, slot: int) -> None:
        host.kill(f"worker\0{slot}\0".encode())

    def run(self, events: list[Event], seconds: float) -> None:
        """Do what is scheduled; flush and look at memory meanwhile."""
        began = time.monotonic()
        events, next_look, left = list(reversed(events)), 0.0, True
        while left:
            now = time.monotonic() - began
            left = now < seconds or bool(events)
            while events and events[-1].at <= now:
                self._do(events.pop())
            if now >= next_look and not self._stopped:
                next_look = now + _PAUSE_SEC
                self._look(now)
            time.sleep(0.05)

    def _look(self, now: float) -> None:
        self.flushes.append(self._ask("flush", _FLUSH_SEC)["seconds"])
        relays = [resident(pid) for host in self._hosts for pid in host.processes(self.relay)]
        self.memory.append((resident(self._client.pid), max(relays, default=0)))
        if len(self.memory) % 6 == 1:
            tell(f"{now:6.0f} s  {dict(self.done)}  client {self.memory[-1][0] / 1e6:.1f} MB")

    def _do(self, event: Event) -> None:
        self.done[event.what] += 1
        host = self._hosts[event.host]
        if event.what == "kill a worker":
            self._kill_worker(host, event.slot)
        elif event.what == "kill a relay":
            host.kill(self.relay)
        elif event.what == "cut":
            host.cut()
        elif event.what == "join":
            host.join()
        elif event.what == "stop the client":
            self._stopped = True
            os.kill(self._client.pid, signal.SIGSTOP)
        elif event.what == "continue the client":
            os.kill(self._client.pid, signal.SIGCONT)
            self._stopped = False
        elif event.what == "observe":
            words = [sys.executable, "-m", "meshlog_handler", "follow", str(self._client.pid)]
            with open(self._directory / "observer.log", "ab") as log:
                self._observer = subprocess.Popen(words, env=self._env, stdout=subprocess.DEVNULL, stderr=log)
        elif self._observer is not None:
            self._observer.kill()
            self._observer.wait()

    def end(self) -> dict[str, Any]:
        """Let everything end in order; return what the client tells."""
        (self._directory / "stop").touch()
        until(lambda: not any(host.processes() for host in self._hosts), _END_SEC, "the hosts to end")
        answer = self._ask("end", 60.0)
        self._client.wait(60.0)
        return answer

    def close(self) -> None:
        """End the client."""
        self._client.kill()
        self._client.wait()
        for pipe in (self._client.stdin, self._client.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended
                pipe.close()

    def _ask(self, *order: object) -> dict[str, Any]:
        assert self._client.stdin is not None
        self._client.stdin.write(json.dumps(order) + "\n")
        self._client.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._client.stdout is not None
        answer: dict[str, Any] = json.loads(self._client.stdout.readline())
        return answer


class DaskChaos(Chaos):
    """The same with a Dask cluster."""

    slots = 1
    pause = 8.0
    relay = b"dask\0worker\0"
    _worker = b"spawn_main"

    def _client_words(self, here: str) -> list[str]:
        return [sys.executable, "-m", "benchmarks.chaos_dask", "client", str(self._directory), here]

    def _keep(self, host: Host, here: str, told: dict[str, Any]) -> None:
        env = {chaos_dask.DIRECTORY: str(self._directory), "PYTHONPATH": str(_ROOT)}
        words = ("keep", host.name, str(self._directory), host.address)
        host.run(sys.executable, "-m", "benchmarks.chaos_dask", *words, env=env)

    def _kill_worker(self, host: Host, slot: int) -> None:
        host.kill(self._worker)

    def end(self) -> dict[str, Any]:
        """Let the workers end, then the client, and the nannies last: they read what killed ones have left."""
        (self._directory / "stop").touch()
        until(lambda: all(map(self._has_ended, self._hosts)), _END_SEC, "the workers to end")
        answer = self._ask("end", 60.0)
        (self._directory / "over").touch()
        until(lambda: not any(host.processes() for host in self._hosts), _END_SEC, "the hosts to end")
        self._client.wait(60.0)
        return answer

    def _has_ended(self, host: Host) -> bool:
        """Return whether a worker runs on a host, and logs no more."""
        told = [self._directory / "workers" / f"{host.name}-0+{pid}" for pid in host.processes(self._worker)]
        return bool(told) and all(path.exists() and path.stat().st_size and _told_in(path).ended for path in told)


def _told_in(path: Path) -> Told:
    return told_of(memoryview(path.read_bytes()).cast("Q"))


def main(words: list[str] | None = None) -> int:
    """Run it; return 0 if everything holds, or cannot be tried here."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description="Faults on several hosts, an exact account."
    )
    parser.add_argument("--minutes", type=float, default=1.0, metavar="N")
    parser.add_argument("--hosts", type=int, default=3, metavar="N")
    parser.add_argument("--seed", type=int, default=None, metavar="S", help="of the schedule; else one that is told")
    parser.add_argument("--keep", action="store_true", help="keep the directory with what the programs wrote to stderr")
    parser.add_argument("--engine", choices=["dask"], help="an engine that starts the workers; else none does")
    chosen = parser.parse_args(words)
    reason = missing()
    if reason:
        print(f"skipped: {reason}")
        return 0
    seed = chosen.seed if chosen.seed is not None else random.randrange(1 << 16)
    tell(f"seed {seed}")
    seconds = chosen.minutes * 60.0
    directory = Path(tempfile.mkdtemp(prefix="mlc-"))
    directory.chmod(0o700)
    with hosts(chosen.hosts, directory, prefix="mlc") as (here, made):
        chaos = (DaskChaos if chosen.engine else Chaos)(made, here, directory)
        try:
            chaos.run(schedule(seed, seconds, chosen.hosts, chaos.slots, chaos.pause), seconds)
            told = chaos.end()
        finally:
            chaos.close()
    (directory / "told.json").write_text(json.dumps(told))
    faults = _account(directory, told) + _more(chaos, told)
    for fault in faults[:50]:
        print(f"FAULT: {fault}")
    print("all holds" if not faults else f"{len(faults)} faults; seed {seed}")
    if chosen.keep:
        print(f"kept: {directory}")
    else:
        shutil.rmtree(directory)
    return 1 if faults else 0


def _account(directory: Path, told: Mapping[str, Any]) -> list[str]:
    """Print the table; return what is wrong with it."""
    sent = {}
    for path in (directory / "workers").iterdir():
        sent[path.name.replace("+", "/")] = _told_in(path)
    arrived = {
        name: Arrived(last, count, twice, late, [(first, after) for first, after in absent])
        for name, (last, count, twice, late, *absent) in told["arrived"].items()
    }
    sums, faults = balance(sent, arrived, {int(rank): count for rank, count in told["dropped"].items()})
    print("\n".join(rows(sums)))
    return faults if arrived else [*faults, "nothing has arrived"]


def _more(chaos: Chaos, told: Mapping[str, Any]) -> list[str]:
    faults = [f"the last flush has missing ranks: {told['missing']}"] if told["missing"] else []
    print(f"done: {', '.join(f'{what} {count}' for what, count in chaos.done.items())}")
    print(f"{len(chaos.flushes)} flushes with a timeout of {_FLUSH_SEC:g} s: the longest {max(chaos.flushes):.2f} s")
    if max(chaos.flushes) > _LATE_SEC:
        faults.append(f"a flush with a timeout of {_FLUSH_SEC:g} s took {max(chaos.flushes):.1f} s")
    for name, samples in zip(("the client", "the largest relay"), zip(*chaos.memory, strict=True), strict=True):
        print(f"memory of {name}: {samples[0] / 1e6:.1f} MB at first, {samples[-1] / 1e6:.1f} MB at the end")
        if growth(samples) > _SLACK:
            faults.append(f"the memory of {name} grew by {growth(samples) / 1e6:.1f} MB from the second quarter to the last")
    return faults


if __name__ == "__main__":
    sys.exit(main())
