"""The checks around every test detect each kind of leak, and cost almost nothing."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from . import leaks
from .leaks import Held
from .setup_state import Loggers, Setup
from .waiting import until

SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def test_a_thread_is_detected_until_it_ends() -> None:
    before, gate = Held.take(), threading.Event()
    thread = threading.Thread(target=gate.wait, name="straggler")
    thread.start()
    assert "straggler" in before.left(timeout=0)[0]
    gate.set()
    assert before.left() == []
    thread.join()


def test_a_child_is_detected_until_it_was_waited_for() -> None:
    before = Held.take()
    child = subprocess.Popen(SLEEPER, stdin=subprocess.PIPE)
    found = [line for line in before.left(timeout=0) if line.startswith("a child process")]
    assert len(found) == 1
    assert str(child.pid) in found[0]
    assert child.stdin
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert any("not waited for" in line for line in before.left(timeout=0))
    child.wait()
    assert before.left() == []


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="there is no /proc")
@pytest.mark.parametrize("find", [leaks._children_of_tasks, leaks._children_by_scan])
def test_both_ways_to_find_children_agree(find: Callable[[], set[int]]) -> None:
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE) as child:
        assert child.pid in find()
        child.communicate()
    assert child.pid not in find()


def test_a_new_file_descriptor_is_detected_even_if_it_reuses_a_number() -> None:
    old = os.open(os.devnull, os.O_RDONLY)
    before = Held.take()
    os.close(old)
    pipe = os.pipe()
    assert old in pipe
    assert len(before.left(timeout=0)) == 2
    for fd in pipe:
        os.close(fd)
    assert before.left(timeout=0) == []


def test_a_run_directory_is_detected_unless_a_client_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "run_dirs", lambda: set(map(str, tmp_path.iterdir())))
    before = Held.take()
    (tmp_path / "run-1").mkdir()
    assert before.left(timeout=0) == [f"a run directory: {tmp_path / 'run-1'}"]
    with (tmp_path / "run-1" / "client.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not any("run directory" in line for line in before.left(timeout=0))
    assert before.left(timeout=0) == [f"a run directory: {tmp_path / 'run-1'}"]


@pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])
def test_helper_processes_stay_by_design(package: str) -> None:
    tracker = pytest.importorskip(f"{package}.resource_tracker")._resource_tracker
    before = Held.take()
    tracker.ensure_running()
    assert tracker._pid in leaks.children()
    assert before.left(timeout=0) == []


def test_every_change_of_the_setup_is_named_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLOG_KEPT", "as it was")
    before, root, handler = Setup.take(), logging.getLogger(), logging.NullHandler()
    shown = warnings.showwarning
    root.addHandler(handler)
    root.setLevel(root.level + 1)
    root.addFilter(bool)
    logging.disable(1)
    sys.stdout, sys.stderr = sys.stderr, sys.stdout
    os.environ["MESHLOG_LEFT"] = "1"
    del os.environ["MESHLOG_KEPT"]
    logging.captureWarnings(True)
    names = {line.partition(":")[0] for line in before.changed()}
    logging.captureWarnings(False)
    before.restore()
    assert names == set(Setup.__dataclass_fields__)
    assert before.changed() == []
    assert handler not in root.handlers
    assert warnings.showwarning is shown


def test_loggers_are_restored_and_their_new_handlers_closed() -> None:
    class Closing(logging.NullHandler):
        closed = False

        def close(self) -> None:
            self.closed = True
            super().close()

    logger, handler = logging.getLogger(f"{__name__}.old"), Closing()
    loggers = Loggers.take()
    made = logging.getLogger(f"{__name__}.made")
    for changed in (logger, made):
        changed.setLevel("DEBUG")
        changed.addHandler(handler)
        changed.propagate = False
    assert logger.isEnabledFor(logging.DEBUG)
    loggers.restore()
    assert handler.closed
    for restored in (logger, made):
        assert (restored.level, restored.handlers, restored.propagate) == (logging.NOTSET, [], True)
        assert not restored.isEnabledFor(logging.DEBUG)


def test_until_names_the_condition_it_waited_for() -> None:
    answers = iter([0, 0, 3])
    assert until(lambda: next(answers), interval=0) == 3
    with pytest.raises(AssertionError, match=r"waited 0\.01 s for the moon; it returned False"):
        until(lambda: False, timeout=0.01, what=lambda: "the moon")


def test_a_snapshot_takes_less_than_a_millisecond() -> None:
    def cost() -> float:
        start = time.perf_counter()
        Held.take()
        Setup.take()
        return time.perf_counter() - start

    assert min(cost() for _ in range(20)) < 1e-3
