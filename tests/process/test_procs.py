"""The processes of a mesh, without its logging: calls, failures, deaths, starts and stops, with every start method."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import queue
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from meshlog_handler import (
    ClosedError,
    MeshFuture,
    RankDied,
    RankError,
    RemoteTraceback,
    SettingError,
    current_coords,
    current_rank,
)
from meshlog_handler.mesh import supervisor
from meshlog_handler.mesh.identity import ProcIdentity
from meshlog_handler.mesh.process_set import ProcessSet
from tests.waiting import until

from .procs import METHODS, importing, state_of, stop_process

DEADLINE = 30.0
PROMPT = 5.0
"""The most seconds that an operation may take on a busy machine if it must not wait for anything."""

each_method = pytest.mark.parametrize("method", METHODS)


def make(count: int, method: str = "fork", **options: Any) -> ProcessSet:
    identities = [ProcIdentity(rank, rank, count, count, {"gpus": rank}, "mesh-1") for rank in range(count)]
    return ProcessSet(identities, name="test", start_method=method, **options)


@contextmanager
def started(
    count: int, method: str = "fork", bootstrap: Callable[[], object] | None = None, **options: Any
) -> Iterator[ProcessSet]:
    """Start procs, and stop them at the end."""
    procs = make(count, method, **options)
    try:
        procs.start(bootstrap=bootstrap)
        yield procs
    finally:
        procs.stop(PROMPT)


def ask(procs: ProcessSet, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    return procs.call(procs.alive, fn, args, kwargs).get(DEADLINE)


def gone(pid: int) -> bool:
    try:
        return state_of(pid) == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# -- calls -------------------------------------------------------------------------------------------------------------


def about() -> dict[str, Any]:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    return {
        "rank": current_rank(),
        "coords": current_coords(),
        "environ": [os.environ[name] for name in names],
        "main": threading.current_thread() is threading.main_thread(),
        "thread": threading.current_thread().name,
        "stdin": os.read(0, 1),
        "stdout": sys.stdout.fileno(),
        "interrupt": signal.getsignal(signal.SIGINT),
        "masked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "pid": os.getpid(),
    }


@each_method
def test_a_call_runs_on_every_rank_and_returns_results_in_the_requested_order(method: str) -> None:
    with started(3, method) as procs:
        answers = procs.call((2, 0, 1), about).get(DEADLINE)
        pids = procs.pids
        assert procs.alive == procs.ranks == (0, 1, 2)
    assert [answer["rank"] for answer in answers] == [2, 0, 1]
    for answer in answers:
        rank = answer["rank"]
        assert answer == {
            "rank": rank,
            "coords": {"gpus": rank},
            "environ": [str(rank), str(rank), "3", "3"],
            "main": True,
            "thread": "MainThread",
            "stdin": b"",
            "stdout": 1,
            "interrupt": signal.SIG_IGN,
            "masked": set(),
            "pid": pids[rank],
        }


class Shape:
    """A class that the procs can import."""

    def __init__(self, side: int) -> None:
        self.side = side


async def asleep(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return current_rank()


@each_method
def test_every_kind_of_callable_can_be_sent_to_a_proc(method: str) -> None:
    factor = 3

    class Local:
        def area(self) -> int:
            return factor * factor

        def twin(self) -> Local:
            return Local()

    def even(number: int) -> bool:
        return number == 0 or odd(number - 1)

    def odd(number: int) -> bool:
        return number != 0 and even(number - 1)

    with started(1, method) as procs:
        assert ask(procs, lambda number: number + 1, 1) == [2]
        assert ask(procs, lambda: factor * 2) == [6]
        assert ask(procs, even, 8) == [True]
        assert ask(procs, Local().area) == [9]
        assert ask(procs, asleep, 0) == [0]
        assert ask(procs, divmod, 7, 2) == [(3, 1)]
        assert ask(procs, lambda *, key: key, key="word") == ["word"]
        [shape] = ask(procs, Shape, 4)
        assert isinstance(shape, Shape)
        [twin] = ask(procs, Local().twin)
        assert isinstance(twin, Local)
        assert ask(procs, lambda each: isinstance(each, Local), twin) == [True]


def test_calls_run_one_at_a_time_in_order() -> None:
    log: list[int] = []

    def note(number: int) -> int:
        seen = globals().setdefault("_seen", [])
        seen.append(number)
        return len(seen)

    with started(2) as procs:
        futures = [procs.call(procs.ranks, note, (number,)) for number in range(50)]
        for future in futures:
            log.extend(future.get(DEADLINE))
        assert ask(procs, lambda: globals()["_seen"]) == [list(range(50))] * 2
    assert log == [number for number in range(1, 51) for _ in range(2)]


def test_several_large_arguments_and_results_can_be_in_transit_at_once() -> None:
    big = bytes(range(256)) * 40_000  # 10 MB: far more than a socket buffers
    with started(2) as procs:
        futures = [procs.call((rank,), lambda data: data[::-1], (big,)) for rank in (0, 1, 0, 1)]
        assert [future.get(DEADLINE) for future in futures] == [[big[::-1]]] * 4


def test_a_proc_that_does_not_read_does_not_delay_other_procs() -> None:
    big = bytes(4_000_000)
    with started(2) as procs:
        stop_process(procs.pids[0])
        stuck = [procs.call((0,), len, (big,)) for _ in range(3)]
        assert procs.call((1,), len, (big,)).get(DEADLINE) == [4_000_000]
        assert not any(future.done() for future in stuck)
        os.kill(procs.pids[0], signal.SIGCONT)
        assert [future.get(DEADLINE) for future in stuck] == [[4_000_000]] * 3


def test_a_call_on_some_ranks_does_not_run_on_the_others() -> None:
    with started(3) as procs:
        assert procs.call((0, 2), os.getpid).get(DEADLINE) == [procs.pids[0], procs.pids[2]]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_procs_get_the_current_environment_directory_and_stdout(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with started(1, method):
        pass  # the fork server runs after this, if it did not before
    monkeypatch.setenv("TODAY", "yes")
    monkeypatch.chdir(tmp_path)
    with started(1, method) as procs:
        assert ask(procs, lambda: (os.environ["TODAY"], os.getcwd())) == [("yes", str(tmp_path))]
        ask(procs, lambda: os.write(1, b"written\n"))
    assert capfd.readouterr().out == "written\n"


# -- failures ----------------------------------------------------------------------------------------------------------


class Trouble(Exception):
    """An exception that the client can import."""


class Stubborn(Exception):
    """An exception that cannot be rebuilt from its arguments."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def fail_on(*ranks: int) -> int:
    if current_rank() in ranks:
        raise Trouble(f"on {current_rank()}")
    return current_rank()


@each_method
def test_a_call_that_fails_names_the_rank_and_has_its_exception_as_the_cause(method: str) -> None:
    with started(2, method) as procs:
        with pytest.raises(RankError, match=r"rank 1 failed in the call of fail_on: Trouble: on 1") as caught:
            ask(procs, fail_on, 1)
        assert ask(procs, fail_on) == [0, 1]
    assert caught.value.ranks == (1,)
    assert caught.value.reasons == {1: "Trouble: on 1"}
    cause = caught.value.__cause__
    assert isinstance(cause, Trouble)
    assert isinstance(cause.__cause__, RemoteTraceback)
    assert "in fail_on" in cause.__cause__.text
    assert "proc_main" not in cause.__cause__.text


def test_a_call_that_fails_on_several_ranks_names_all_and_has_the_first_error_as_its_cause() -> None:
    with started(4) as procs, pytest.raises(RankError, match=r"ranks 0,2-3 failed, this one first") as caught:
        ask(procs, fail_on, 0, 2, 3)
    assert caught.value.ranks == (0, 2, 3)
    assert str(caught.value.__cause__) == f"on {str(caught.value).split()[1]}"


def test_a_call_that_fails_on_one_rank_does_not_wait_long_for_the_others() -> None:
    def fail_or_sleep() -> None:
        fail_on(0)
        time.sleep(3)

    with started(2) as procs:
        begun = time.monotonic()
        with pytest.raises(RankError, match="rank 0 failed"):
            ask(procs, fail_or_sleep)
        assert time.monotonic() - begun < 2.5
        assert procs.call((0,), current_rank).get(DEADLINE) == [0]
        assert procs.call((1,), current_rank).get(DEADLINE) == [1]


def raise_stubborn() -> NoReturn:
    raise Stubborn(1, "no")


def raise_with_lock() -> NoReturn:
    error = Trouble("locked")
    error.lock = queue.SimpleQueue()  # type: ignore[attr-defined]  # makes it unpicklable
    raise error


def interrupt() -> NoReturn:
    raise KeyboardInterrupt("by hand")


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (raise_stubborn, "Stubborn: 1: no"),
        (raise_with_lock, "Trouble: locked"),
        (interrupt, "KeyboardInterrupt: by hand"),
    ],
)
def test_an_exception_that_cannot_be_pickled_arrives_as_text(fn: Callable[[], object], reason: str) -> None:
    with started(1) as procs:
        with pytest.raises(RankError, match=reason) as caught:
            ask(procs, fn)
        assert ask(procs, current_rank) == [0]
    cause = caught.value.__cause__
    text = cause.text if isinstance(cause, RemoteTraceback) else str(getattr(cause, "__cause__", ""))
    assert f"in {fn.__name__}" in text


class Poison:
    """An object that can be pickled, but cannot be unpickled."""

    def __init__(self, where: str, error: type[BaseException] = RuntimeError) -> None:
        self.where, self.error = where, error

    def __reduce__(self) -> tuple[Any, ...]:
        return _swallow, (self.where, self.error)


def _swallow(where: str, error: type[BaseException]) -> Poison:
    raise error(f"poisoned in the {where}")


class Unreadable:
    """An object that cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not for the road")


def test_a_function_or_argument_that_cannot_be_pickled_raises_a_type_error() -> None:
    with started(1) as procs:
        with pytest.raises(TypeError, match=r"len cannot be sent.*not for the road"):
            procs.call((0,), len, (Unreadable(),)).get(DEADLINE)
        with pytest.raises(TypeError, match="is not callable"):
            procs.call((0,), "train").get(DEADLINE)  # type: ignore[arg-type]  # the mistake
        assert ask(procs, current_rank) == [0]


@pytest.mark.parametrize(
    ("fn", "args", "words"),
    [
        (id, (Poison("proc"),), "cannot be loaded in the proc: poisoned in the proc"),
        (Poison, ("client",), "its result cannot be loaded in the client: RuntimeError: poisoned in the client"),
        (Poison, ("client", SystemExit), "its result cannot be loaded in the client: SystemExit: poisoned in the client"),
        (Unreadable, (), "the result, of type Unreadable, cannot be sent to the client: not for the road"),
    ],
)
def test_an_argument_or_result_that_cannot_arrive_fails_its_call_and_the_next_call_works(
    fn: Callable[..., Any], args: tuple[Any, ...], words: str
) -> None:
    with started(1) as procs:
        with pytest.raises(RankError, match=words):
            ask(procs, fn, *args)
        assert ask(procs, current_rank) == [0]


# -- deaths ------------------------------------------------------------------------------------------------------------


def die(rank: int, how: str) -> int:
    if current_rank() == rank:
        if how.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, how))
        elif how == "os._exit":
            os._exit(3)
        else:
            sys.exit(3)
    return current_rank()


DEATHS = {"SIGSEGV": -11, "SIGKILL": -9, "os._exit": 3, "sys.exit": 3}


@each_method
@pytest.mark.parametrize("how", DEATHS)
def test_the_death_of_a_rank_fails_its_calls_and_the_other_ranks_continue(method: str, how: str) -> None:
    exits: list[tuple[int, int, int | None]] = []
    with started(3, method, on_exit=lambda *end: exits.append(end)) as procs:
        pid = procs.pids[1]
        words = f"ended by {how}" if how.startswith("SIG") else "ended with exit code 3"
        with pytest.raises(RankDied, match=rf"rank 1 \(pid {pid}\) {words} during the call of die"):
            ask(procs, die, 1, how)
        assert exits == [(1, pid, DEATHS[how])]
        assert procs.exitcode(1) == DEATHS[how]
        assert procs.alive == (0, 2)
        begun = time.monotonic()
        with pytest.raises(RankDied, match=rf"rank 1 \(pid {pid}\) {words}, before.*slice\(ranks=\[0, 2\]\)") as caught:
            procs.call(procs.ranks, about).get(DEADLINE)
        assert time.monotonic() - begun < 0.5
        assert caught.value.ranks == (1,)
        assert ask(procs, current_rank) == [0, 2]
    assert sorted(exits)[0] == (0, procs.pids[0], 0)
    assert len(exits) == 3


def test_the_death_of_an_idle_proc_is_noticed() -> None:
    with started(2) as procs:
        os.kill(procs.pids[0], signal.SIGKILL)
        until(lambda: procs.exitcode(0) == -signal.SIGKILL, DEADLINE)
        assert procs.alive == (1,)


@pytest.mark.skipif(not hasattr(signal, "pidfd_send_signal"), reason="this system has no such call")
def test_a_proc_that_cannot_be_signalled_does_not_end_the_other_procs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox can forbid the call, or the proc can now belong to another user."""

    def forbidden(pidfd: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with started(3) as procs:
        with monkeypatch.context() as patch:
            patch.setattr(signal, "pidfd_send_signal", forbidden)
            procs._supervisor.signal_all(signal.SIGTERM)
            os.kill(procs.pids[1], signal.SIGKILL)
            until(lambda: procs.alive == (0, 2), DEADLINE)
        assert procs.exitcode(1) == -signal.SIGKILL
        assert procs.call((0, 2), current_rank).get(DEADLINE) == [0, 2]


def test_an_error_on_the_supervisor_thread_ends_no_proc(capfd: pytest.CaptureFixture[str]) -> None:
    def wrong() -> None:
        raise ValueError("what went wrong")

    with started(2) as procs:
        procs.post(wrong)
        assert ask(procs, current_rank) == [0, 1]
    assert "supervises the procs failed: ValueError: what went wrong" in capfd.readouterr().err


def leave_grandchild(how: str) -> int:
    if how == "fork":
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        return pid
    # With close_fds=False, the child inherits every inheritable descriptor.
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False).pid


@each_method
@pytest.mark.parametrize("how", ["fork", "exec"])
def test_a_grandchild_does_not_hide_the_death_of_a_proc(method: str, how: str) -> None:
    with started(2, method) as procs:
        [grandchild] = procs.call((0,), leave_grandchild, (how,)).get(DEADLINE)
        try:
            begun = time.monotonic()
            with pytest.raises(RankDied, match=r"rank 0 .* ended by SIGKILL"):
                ask(procs, die, 0, "SIGKILL")
            assert time.monotonic() - begun < PROMPT
        finally:
            os.kill(grandchild, signal.SIGKILL)


def come_back_twice() -> int:
    os.fork()
    return os.getpid()


def test_a_process_that_a_call_forks_does_not_answer_the_call() -> None:
    with started(1) as procs:
        for _ in range(3):
            assert ask(procs, come_back_twice) == [procs.pids[0]]


def test_calls_fail_if_a_proc_closes_its_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_SILENT_SEC", 0.1)

    def close_and_sleep() -> None:
        os.closerange(3, 1000)
        time.sleep(30)

    with started(1) as procs:
        future = procs.call((0,), close_and_sleep)
        with pytest.raises(RankDied, match="closed its connection to the client"):
            future.get(DEADLINE)
        with pytest.raises(RankDied):
            procs.call((0,), current_rank).get(DEADLINE)
        procs.stop(0.1)


def write_nonsense() -> None:
    for fd in range(3, 100):
        with contextlib.suppress(OSError):  # closed, or not writable
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, b"\xff" * 100)
    time.sleep(30)


def test_a_proc_that_writes_into_its_connection_is_killed_and_the_others_continue() -> None:
    with started(2) as procs:
        with pytest.raises(RankDied, match=r"rank 0 .* was killed: .* unexpected frame of kind 255"):
            procs.call((0,), write_nonsense).get(DEADLINE)
        assert procs.call((1,), current_rank).get(DEADLINE) == [1]
        until(lambda: procs.exitcode(0) == -signal.SIGKILL, DEADLINE)


# -- start -------------------------------------------------------------------------------------------------------------


@each_method
def test_the_bootstrap_runs_before_the_calls(method: str) -> None:
    def bootstrap() -> None:
        os.environ["PREPARED"] = str(current_rank())

    with started(2, method, bootstrap) as procs:
        assert ask(procs, lambda: os.environ["PREPARED"]) == ["0", "1"]


@each_method
def test_a_bootstrap_that_raises_fails_the_start_and_leaves_no_proc_alive(method: str) -> None:
    procs = make(2, method)
    with pytest.raises(RankError, match="rank 1 failed in its bootstrap: Trouble: on 1") as caught:
        procs.start(bootstrap=lambda: fail_on(1))
    assert isinstance(caught.value.__cause__, Trouble)
    assert procs.alive == ()
    with pytest.raises(RankError, match="its bootstrap"):
        procs.call((0,), current_rank).get(PROMPT)


def test_calls_made_before_a_start_fail_if_the_start_fails() -> None:
    procs = make(1)
    future = procs.call((0,), current_rank)
    with pytest.raises(RankError):
        procs.start(bootstrap=lambda: fail_on(0))
    with pytest.raises(RankError, match="its bootstrap"):
        future.get(PROMPT)


@each_method
def test_a_start_in_which_a_proc_dies_names_its_rank(method: str) -> None:
    procs = make(2, method)
    with pytest.raises(RankDied, match=r"rank 1 \(pid \d+\) ended by SIGKILL during its bootstrap"):
        procs.start(bootstrap=lambda: die(1, "SIGKILL"))
    assert procs.exitcode(1) == -signal.SIGKILL


def test_a_start_fails_if_the_procs_cannot_join_the_client() -> None:
    procs = make(2)
    with pytest.raises(RankError, match=r"failed in its start.*ConnectError: joining the client at /nowhere failed"):
        procs.start("meshlog:///nowhere#" + "00" * 32)
    assert [procs.exitcode(rank) for rank in procs.ranks] == [1, 1]


def test_calls_that_are_held_back_run_after_the_release() -> None:
    procs = make(2)
    early = procs.call(procs.ranks, current_rank)
    procs.start(hold=True)
    held = procs.call(procs.ranks, os.getpid)
    assert not early.done()
    procs.release()
    assert early.get(DEADLINE) == [0, 1]
    assert held.get(DEADLINE) == list(procs.pids.values())
    procs.stop(PROMPT)


def test_an_unknown_start_method_is_refused() -> None:
    with pytest.raises(SettingError, match="Valid: fork, spawn, forkserver"):
        make(1, "clone")


# -- stop --------------------------------------------------------------------------------------------------------------


@each_method
def test_a_stop_is_prompt_and_final_and_a_second_stop_does_nothing(method: str) -> None:
    procs = make(3, method)
    procs.start()
    begun = time.monotonic()
    procs.stop(DEADLINE)
    procs.stop(DEADLINE)
    assert time.monotonic() - begun < PROMPT
    assert procs.alive == ()
    assert [procs.exitcode(rank) for rank in procs.ranks] == [0, 0, 0]
    with pytest.raises(ClosedError, match="was stopped"):
        procs.call((0,), current_rank).get(PROMPT)


def test_a_stop_before_a_start_closes_the_procs() -> None:
    procs = make(2)
    future = procs.call((0,), current_rank)
    procs.stop()
    with pytest.raises(ClosedError):
        future.get(0)
    with pytest.raises(ClosedError):
        procs.start()


def test_calls_made_before_a_stop_are_finished() -> None:
    procs = make(2)
    procs.start()
    futures = [procs.call(procs.ranks, asleep, (0.02,)) for _ in range(5)]
    procs.stop(DEADLINE)
    assert [future.get(0) for future in futures] == [[0, 1]] * 5


ENDS = [("busy", -signal.SIGTERM), ("deaf", -signal.SIGKILL), ("stopped", -signal.SIGKILL)]


@pytest.mark.parametrize(("how", "exitcode"), ENDS, ids=[how for how, _ in ENDS])
def test_a_stop_kills_a_proc_that_does_not_end(how: str, exitcode: int) -> None:
    procs = make(2)
    procs.start()
    if how == "deaf":
        procs.call((0,), lambda: str(signal.signal(signal.SIGTERM, signal.SIG_IGN))).get(DEADLINE)
    if how == "stopped":
        stop_process(procs.pids[0])
    future = procs.call((0,), time.sleep, (60,))
    begun = time.monotonic()
    procs.stop(0.2)
    assert time.monotonic() - begun < PROMPT
    assert (procs.exitcode(0), procs.exitcode(1)) == (exitcode, 0)
    with pytest.raises(RankDied, match="during the call of sleep"):
        future.get(0)


def test_a_stop_during_a_start_ends_the_start() -> None:
    procs = make(2)
    started_up = MeshFuture.run(lambda: procs.start(bootstrap=lambda: time.sleep(60)), "start")
    until(lambda: len(procs.pids) == 2, DEADLINE, "both procs")
    begun = time.monotonic()
    procs.stop(0.2)
    assert time.monotonic() - begun < PROMPT
    with pytest.raises(ClosedError, match="stopped while it was starting"):
        started_up.get(PROMPT)
    assert procs.alive == ()


def test_several_threads_can_stop_the_procs_at_once() -> None:
    procs = make(2)
    procs.start()
    stops = [MeshFuture.run(procs.stop, f"stop-{number}") for number in range(4)]
    for stop in stops:
        stop.get(PROMPT)
    assert procs.alive == ()


def test_a_forked_child_cannot_call_or_stop_the_procs_of_its_parent() -> None:
    with started(1) as procs:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                procs.stop(0.1)
                procs.call((0,), current_rank).get(PROMPT)
            except ClosedError:
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert ask(procs, current_rank) == [0]


CLIENT = """
import sys, time
from tests.process.test_procs import make
procs = make(2, sys.argv[1])
procs.start()
print(*procs.pids.values(), flush=True)
time.sleep(60)
"""


@each_method
def test_procs_end_when_their_client_is_killed(method: str) -> None:
    command = [sys.executable, "-c", CLIENT, method]
    with subprocess.Popen(command, env=importing(), stdout=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout
            pids = [int(word) for word in client.stdout.readline().split()]
        finally:
            client.kill()
    assert len(pids) == 2
    until(lambda: all(map(gone, pids)), DEADLINE, "the procs to end")
