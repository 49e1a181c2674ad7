"""Faults of a mesh: a rank dies, stops or refuses during a change of configuration."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from meshlog_handler import ConfigRefused, ProcMesh, RankError, current_rank, this_host
from meshlog_handler.mesh import control
from tests.waiting import until

from .faults import fault
from .scene import DEADLINE, Scene
from .tally import Lane, Tally

_RANKS: Final = 3
_OLD, _NEW = 11, 33
_PROBE: Final = "probe"


# -- in the procs ------------------------------------------------------------------------------------------------------


def log_in_background(path: str, first: int) -> None:
    """Log in a thread until told to end."""
    rank = current_rank()
    assert rank is not None
    tally = Tally(path)
    lane = Lane(tally, first + rank)

    def work() -> None:
        while not tally.stopped:
            lane.log()
            time.sleep(0.0005)

    threading.Thread(target=work, daemon=True).start()
    logging.getLogger(_PROBE).setLevel(_OLD)


def configuration() -> tuple[int, list[str]]:
    """Return the settings that a configuration has changed."""
    return logging.getLogger(_PROBE).level, sorted(type(each).__name__ for each in logging.getLogger(_PROBE).handlers)


def handler(refuses: int | None, seconds: float) -> logging.Handler:
    """Create a handler; fail on one rank."""
    time.sleep(seconds)
    if current_rank() == refuses:
        raise RuntimeError("not here")
    return logging.NullHandler()


def config(level: int, refuses: int | None = None, seconds: float = 0.0) -> dict[str, Any]:
    """Return a configuration that differs from all others."""
    made = {"()": f"{__name__}.handler", "refuses": refuses, "seconds": seconds}
    return {"version": 1, "handlers": {"made": made}, "loggers": {_PROBE: {"level": level, "handlers": ["made"]}}}


# -- in the client -----------------------------------------------------------------------------------------------------


@contextmanager
def mesh(scene: Scene) -> Iterator[ProcMesh]:
    """Start a mesh whose ranks log all the time."""
    lanes = [scene.tally.lane() for _ in range(_RANKS)]
    patience, control.COMMAND_SEC = control.COMMAND_SEC, 1.0
    procs = this_host().spawn_procs({"gpus": _RANKS}, start_method="fork", handlers=[scene.counting])
    try:
        procs.initialized.get(DEADLINE)
        procs.logging_option(aggregate_window_sec=None).get(DEADLINE)  # each record is counted; none are grouped
        procs.call(log_in_background, scene.tally.path, lanes[0].number).get(DEADLINE)
        until(lambda: all(lane.returned > 10 for lane in lanes), DEADLINE, "all ranks to log")
        yield procs
    finally:
        control.COMMAND_SEC = patience
        scene.tally.stop()
        scene.stats = procs.logging.stats
        procs.stop(DEADLINE).get(DEADLINE)


def configure(procs: ProcMesh, wanted: dict[str, Any]) -> int:
    """Change the configuration; return the level that every rank should have afterwards."""
    try:
        procs.logging.configure(wanted)
    except ConfigRefused:
        return _OLD
    except RankError:
        return _NEW  # all ranks had agreed
    return _NEW


def check(scene: Scene, procs: ProcMesh, ranks: list[int], expected: int) -> None:
    """Check that all these ranks have this configuration."""
    found = procs.slice(ranks=ranks).call(configuration).get(DEADLINE)
    wanted = (expected, ["NullHandler"] if expected == _NEW else [])
    if set(map(repr, found)) != {repr(wanted)}:
        scene.problems.append(f"ranks {ranks} have {found}, where {wanted} was said")


def in_the_middle(scene: Scene, procs: ProcMesh, act: Callable[[int], object], wanted: dict[str, Any]) -> tuple[int, int]:
    """Change the configuration while something happens to a rank; return the requested level, and the rank."""
    victim = scene.rng.randrange(_RANKS)
    said: list[int] = []
    thread = threading.Thread(target=lambda: said.append(configure(procs, wanted)))
    thread.start()
    scene.pause(scene.rng.choice((0.002, 0.02)))
    act(procs.pids[victim])
    thread.join(DEADLINE)
    return said[0], victim


def kill(scene: Scene, pid: int) -> None:
    """Kill a rank."""
    os.kill(pid, signal.SIGKILL)
    scene.kills += 1


@fault("a rank is killed in the middle of configure()")
def killed(scene: Scene) -> None:
    with mesh(scene) as procs:
        level, victim = in_the_middle(scene, procs, partial(kill, scene), config(_NEW, seconds=0.003))
        check(scene, procs, [rank for rank in range(_RANKS) if rank != victim], level)
    scene.allowed = "RankDied|ended by|torn down"


@fault("a rank stops in the middle of configure(), then goes on")
def stopped(scene: Scene) -> None:
    with mesh(scene) as procs:
        level, victim = in_the_middle(scene, procs, lambda pid: os.kill(pid, signal.SIGSTOP), config(_NEW, seconds=0.003))
        check(scene, procs, [rank for rank in range(_RANKS) if rank != victim], level)
        os.kill(procs.pids[victim], signal.SIGCONT)
        procs.flush(timeout=DEADLINE).get(DEADLINE)
        check(scene, procs, list(range(_RANKS)), level)
    scene.stall = 10


@fault("a rank refuses configure()")
def refuses(scene: Scene) -> None:
    with mesh(scene) as procs:
        level = configure(procs, config(_NEW, refuses=scene.rng.randrange(_RANKS)))
        check(scene, procs, list(range(_RANKS)), level)
        if level != _OLD:
            scene.problems.append("a refusal was not told")


@fault("a rank refuses configure(), another is killed")
def refuses_and_killed(scene: Scene) -> None:
    with mesh(scene) as procs:
        wanted = config(_NEW, refuses=0, seconds=0.003)
        level, victim = in_the_middle(scene, procs, partial(kill, scene), wanted)
        check(scene, procs, [rank for rank in range(_RANKS) if rank != victim], _OLD)
        if level != _OLD and victim != 0:
            scene.problems.append("a refusal was not told")
    scene.allowed = "RankDied|ended by|torn down"


@fault("two configure() at once, one is refused")
def two_at_once(scene: Scene) -> None:
    with mesh(scene) as procs:
        refused = threading.Thread(target=lambda: configure(procs, config(44, refuses=1, seconds=0.01)))
        refused.start()
        scene.pause(0.02)
        level = configure(procs, config(_NEW, seconds=0.002))
        refused.join(DEADLINE)
        check(scene, procs, list(range(_RANKS)), level)
