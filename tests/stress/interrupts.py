"""Interrupt every public call at random instants, with Ctrl-C and with exceptions of other signal handlers::

    python -m tests.stress.interrupts --tries 500      half of them by a timer, half where a function is entered
    python -m tests.stress.interrupts --only install   calls with the word in their names

It prints a table: how often each call was interrupted, and how often it hung, left something that a second `stop` does not
remove, or kept the exception from the caller. It exits with 1 if anything but interrupts happened.

::

    main -> for each call, a process (`try_many`) -> a line for each try -> main: the table; a process that hangs is ended
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import json
import logging
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import meshlog_handler
from tests.leaks import children
from tests.stress.calls import CALLS, KEEPS_EXCEPTIONS, Step
from tests.waiting import until

_ROOT: Final = Path(__file__).resolve().parents[2]
_PACKAGE: Final = str(Path(meshlog_handler.__file__).parent)
_FILES: Final = (_PACKAGE, threading.__file__, os.path.dirname(os.path.dirname(threading.__file__)) + "/concurrent/futures")
_HANG_SEC: Final = 20.0
_WARM: Final = 4
_AGAIN_SEC: Final = 50e-6


class Alarm(Exception):
    """What a signal handler of a program raises, for example to limit the time of a call."""


# -- the process that tries --------------------------------------------------------------------------------------------


class Interrupts:
    """Interrupts calls in the main thread of this process."""

    def __init__(self) -> None:
        self.kind: type[BaseException] = KeyboardInterrupt
        self.fired = False
        self.where: list[str] = []
        self._inside = False
        signal.signal(signal.SIGALRM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._inside or self.fired or frame is None:
            return
        if frame.f_code.co_filename == __file__ and frame.f_code.co_name != "trace":  # the call has not begun, or is over
            return
        if _in_del(frame):  # Python discards what a finalizer raises, also if a signal handler raised it
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SEC)
            return
        self.fired = True
        self.where = traceback.format_stack(frame)[-6:]
        raise self.kind

    def run(self, step: Step, within: Callable[[Step], object]) -> BaseException | None:
        """Make a call that `within` interrupts; return what it raised."""
        self.fired, self._inside = False, True
        try:
            within(step)
        except BaseException as error:
            return error
        finally:
            self._inside = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        return None


def _in_del(frame: FrameType | None) -> bool:
    """Return whether Python calls this for a finalizer, or for a weak reference that is dead."""
    if frame is None:
        return False
    code = frame.f_code
    dead = code.co_name in ("_remove", "remove", "__call__") and code.co_filename.endswith(("weakref.py", "_weakrefset.py"))
    return code.co_name == "__del__" or dead or _in_del(frame.f_back)


def _after(seconds: float) -> Callable[[Step], object]:
    """Return a function that makes a call, which a timer interrupts."""

    def within(step: Step) -> None:
        signal.setitimer(signal.ITIMER_REAL, max(1e-6, seconds))
        step()

    return within


def _tracing(step: Step, trace: Any) -> None:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        step()
    finally:
        sys.settrace(before)


def _at(place: int) -> Callable[[Step], object]:
    """Return a function that makes a call, and interrupts it where the function of this number is entered."""
    left = place

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(_FILES):
            return None
        if event == "call" and not _in_del(frame):
            left -= 1
            if left < 0:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace

    return lambda step: _tracing(step, trace)


def _count(step: Step) -> int:
    """Make a call, and return how many functions it enters."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += frame.f_code.co_filename.startswith(_FILES)

    _tracing(step, trace)
    return count


def _reached(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Return whether a caller got an exception, or one that it caused: pickling and `logging.config` raise errors of theirs."""
    if type(error) is kind:
        return True
    return kind is Alarm and error is not None and _reached(error.__cause__, kind)


def _state() -> dict[str, Any]:
    """Return what a call may not leave changed."""
    fds = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the listing
            fds.append(os.readlink(f"/proc/self/fd/{fd}"))
    return {
        "threads": sorted(each.name for each in threading.enumerate()),
        "descriptors": Counter(each.partition(":")[0] if ":[" in each else each for each in fds),
        "children": len(children()),
        "run directory": sorted(os.listdir(os.environ["MESHLOG_RUN_DIR"])),
        "standard streams": [os.readlink(f"/proc/self/fd/{fd}") for fd in (1, 2)],
        "root logger": (logging.root.level, [*logging.root.handlers]),
        "logging": (logging.Handler.handle, sys.modules["logging.config"].dictConfigClass),
        "lock of logging": vars(logging)["_lock"]._is_owned(),
        "signal handlers": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "environment": sorted(each for each in os.environ if each.startswith("MESHLOG_")),
    }


def _left(before: dict[str, Any]) -> list[str]:
    """Wait until the state is as before; otherwise return what differs."""
    with contextlib.suppress(AssertionError):  # the next lines tell what it is
        until(lambda: _state() == before, 3.0)
        return []
    gc.collect()
    with contextlib.suppress(AssertionError):
        until(lambda: _state() == before, 3.0)
        return []
    now = _state()
    return [f"{name}: {before[name]} -> {now[name]}" for name in now if now[name] != before[name]]


def try_many(name: str, first: int, tries: int, seed: int, out: int) -> None:
    """Try a call; write a line about each try to the descriptor `out`."""
    warnings.simplefilter("ignore")
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    interrupts = Interrupts()
    with CALLS[name]() as prepare:
        seconds, places = [], 0
        for warm in range(_WARM):
            step, end = prepare()
            began = time.perf_counter()
            if warm == 1:
                places = _count(step)
            else:
                step()
            seconds.append(time.perf_counter() - began)
            end()
            del step, end
            gc.collect()
        before = _settled()
        longest = sorted(seconds[2:])[0]
        for number in range(first, tries):
            rng = random.Random(f"{name} {seed} {number}")
            interrupts.kind = Alarm if number % 4 >= 2 and name not in KEEPS_EXCEPTIONS else KeyboardInterrupt
            within = _after(rng.random() * longest * 1.1) if number % 2 else _at(rng.randrange(max(1, places)))
            step, end = prepare()
            error = interrupts.run(step, within)
            told: dict[str, Any] = {"number": number, "interrupted": interrupts.fired, "other": "", "swallowed": ""}
            if interrupts.fired and not _reached(error, interrupts.kind):
                told["swallowed"] = f"{interrupts.kind.__name__}: {error!r}\n{''.join(interrupts.where)}"
            if not interrupts.fired and error is not None:
                told["other"] = "".join(traceback.format_exception(error))
            where = "" if error is None else "".join(traceback.format_tb(error.__traceback__)[-4:])
            error = None
            try:
                end()
            except Exception:
                told["other"] += traceback.format_exc()
            del step, end
            told["left"] = _left(before)
            if told["left"] or told["other"]:
                told["where"] = where
                before = _settled()
            os.write(out, json.dumps(told).encode() + b"\n")


def _settled() -> dict[str, Any]:
    """Return the state when nothing changes any more."""
    states = [_state()]

    def same() -> bool:
        gc.collect()
        states.append(_state())
        return states[-1] == states[-2]

    until(same, interval=0.05)
    return states[-1]


# -- the process that asks ---------------------------------------------------------------------------------------------


class Outcome:
    """What came of the tries of one call."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    def note(self, told: dict[str, Any]) -> None:
        """Count a try."""
        self.counts["tries"] += 1
        self.counts["interrupted"] += told["interrupted"]
        for kind in ("left", "swallowed", "other"):
            if told[kind]:
                self.counts[kind] += 1
                where = f"\n{told.get('where', '')}" if kind != "swallowed" else ""
                self.problems.append(f"{self.name}, try {told['number']}, {kind}: {told[kind]}{where}")

    @property
    def row(self) -> str:
        """A line of the table."""
        return f"{self.name:34}" + "".join(f"{self.counts[each]:13,}" for each in _COLUMNS)


_COLUMNS: Final = ("tries", "interrupted", "hung", "left", "swallowed", "other")


def lines_of(process: subprocess.Popen[bytes], source: int) -> Iterator[dict[str, Any] | None]:
    """Yield what a process says about its tries; None if it says nothing for a long time."""
    data = b""
    while True:
        if not select.select([source], [], [], _HANG_SEC)[0]:
            yield None
            return
        piece = os.read(source, 65536)
        if not piece:
            return
        *whole, data = (data + piece).split(b"\n")
        yield from map(json.loads, whole)


def try_call(name: str, tries: int, seed: int) -> Outcome:
    """Try a call in other processes."""
    outcome = Outcome(name)
    first = 0
    while first < tries:
        place = tempfile.mkdtemp(prefix="mli-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        source, out = os.pipe()
        said = Path(place, "said")
        try:
            with said.open("wb") as file:
                words = [sys.executable, "-m", __spec__.name, "--child", name, str(first), str(tries), str(seed), str(out)]
                env = {**os.environ, "MESHLOG_RUN_DIR": place, "PYTHONPATH": str(_ROOT)}
                process = subprocess.Popen(words, stdout=file, stderr=file, pass_fds=[out], env=env, start_new_session=True)
            os.close(out)
            for told in lines_of(process, source):
                if told is not None:
                    outcome.note(told)
                    first = told["number"] + 1
                    continue
                process.send_signal(signal.SIGUSR1)
                time.sleep(1.0)
                outcome.counts["hung"] += 1
                outcome.problems.append(f"{name}, try {first}: hung\n{said.read_text(errors='replace')[-6000:]}")
                first += 1
            with contextlib.suppress(ProcessLookupError):  # all of its processes have ended
                if process.poll() is None and first < tries:
                    os.killpg(process.pid, signal.SIGKILL)
            try:
                code = process.wait(_HANG_SEC)
            except subprocess.TimeoutExpired:
                outcome.counts["hung"] += 1
                outcome.problems.append(f"{name}: hung at exit")
                process.kill()
                code = process.wait()
            if code > 0:
                outcome.counts["other"] += 1
                outcome.problems.append(f"{name}, try {first}: exit code {code}\n{said.read_text(errors='replace')[-6000:]}")
                first += 1
        finally:
            os.close(source)
            with contextlib.suppress(ProcessLookupError, PermissionError):  # as above
                os.killpg(process.pid, signal.SIGKILL)
            shutil.rmtree(place, ignore_errors=True)
    return outcome


def main() -> int:
    """Run the command; return 1 if there was a problem."""
    if sys.argv[1:2] == ["--child"]:
        name, *numbers = sys.argv[2:]
        try_many(name, *map(int, numbers))
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.stress.interrupts", description="Interrupt every public call.")
    parser.add_argument("--tries", type=int, default=500, help="how many times each is tried (500)")
    parser.add_argument("--seed", type=int, default=1, help="decides the instants")
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="those with this word in their names")
    parser.add_argument("--show", type=int, default=3, help="problems of each call to print (3)")
    options = parser.parse_args()
    names = [each for each in CALLS if not options.only or any(word in each for word in options.only)]
    print(f"{'call':34}" + "".join(f"{each:>13}" for each in _COLUMNS), flush=True)
    bad = False
    for name in names:
        outcome = try_call(name, options.tries, options.seed)
        print(outcome.row, flush=True)
        for problem in outcome.problems[: options.show]:
            print(f"    {problem}", flush=True)
        bad |= bool(outcome.problems)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
