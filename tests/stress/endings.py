"""The ways in which an interpreter can end, with records that were not shipped yet."""

from __future__ import annotations

import signal
from functools import partial
from typing import Final

from .apart import Program
from .faults import fault
from .scene import Scene
from .workers import LANES_EACH, at_work

ENDINGS: Final = {
    "main returns": ("by_return()", 0),
    "sys.exit": ("by_sys_exit()", 3),
    "an error": ("by_error()", 1),
    "os._exit": ("by_os_exit()", 5),
    "SIGABRT": ("by_abort()", -signal.SIGABRT),
    "sys.exit in a thread": ("in_a_thread()", 0),
    "threads that still log": ("with_threads()", 0),
    "daemon threads that still log": ("with_daemon_threads()", 0),
    "atexit and __del__ that log": ("with_atexit()", 0),
    "a __del__ that fills the journal": ("with_a_full_journal()", 0),
}


def end(scene: Scene, how: str, code: int) -> None:
    """Let interpreters end in this way."""
    scene.start(at_work, 1)
    address = scene.address
    for _ in range(2):
        lanes = [scene.tally.lane() for _ in range(LANES_EACH)]
        scene.lanes.append(lanes)
        scene.procs.append(Program(address, scene.tally, lanes, how))
    scene.join([1, 2], (code,))
    scene.done.update((1, 2))
    scene.at_work()
    scene.allowed = "told as an error"


for _name, (_how, _code) in ENDINGS.items():
    fault(f"an interpreter ends: {_name}")(partial(end, how=_how, code=_code))
