"""The stacks of real ranks: waiting, deadlocked, holding the GIL in native code, stopped, downstream of a relay."""

from __future__ import annotations

import ctypes
import faulthandler
import linecache
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from typing import Any

import pytest

import meshlog_handler
from meshlog_handler import ClosedError, LogClient, SettingError, this_host
from meshlog_handler.client.health import stack_dump
from meshlog_handler.client.health.stack_dump import DumpedProcess
from meshlog_handler.insight.call_tree import StackGroup
from meshlog_handler.insight.stacks import Stacks
from meshlog_handler.protocol.messages import StackSignal
from meshlog_handler.system.process_state import handles_signal, process_state, thread_state
from meshlog_handler.testing import RecordCollector
from meshlog_handler.worker.stacks import MEMORY_FILE, NUMBER, StackDump, thread_stacks
from tests.waiting import until

from .procs import DEADLINE, importing, started, stop_process
from .test_relay import tree

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel has no /proc or no memory files")
HOLD_MS = 60_000


# -- what ranks do -----------------------------------------------------------------------------------------------------


def together(pipe: Any) -> None:
    pipe.send(None)
    pipe.recv()


def elsewhere(pipe: Any) -> None:
    together(pipe)


def deadlock(pipe: Any) -> None:
    """Two threads, each with the lock that the other one waits for."""
    one, two, both = threading.Lock(), threading.Lock(), threading.Barrier(2)

    def other() -> None:
        with two:
            both.wait()
            one.acquire()

    threading.Thread(target=other, name="other", daemon=True).start()
    with one:
        both.wait()
        pipe.send(None)
        two.acquire()


def hold(pipe: Any) -> int:
    """Keep the GIL in native code until something is sent; return what ``poll`` returns: 1, or -1 after a signal."""
    poll, what = ctypes.PyDLL(None).poll, (ctypes.c_int * 2)(pipe.fileno(), select.POLLIN)
    pipe.send(None)
    result: int = poll(what, 1, HOLD_MS)
    return result


def hold_on(pipe: Any) -> None:
    """Do as `hold`, and again after a signal."""
    while hold(pipe) < 0:
        continue


def hold_briefly(pipe: Any) -> None:
    result = hold(pipe)
    pipe.recv()
    pipe.send(result)
    together(pipe)


def hold_with_handler(pipe: Any) -> None:
    """As a program that uses the signal itself, from before it joins."""
    hold(pipe)


def work(do: Callable[[Any], object], address: str, rank: int, pipe: Any, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    if do is hold_with_handler:
        signal.signal(NUMBER, lambda *_: os._exit(1))
    meshlog_handler.install(address, rank=rank)
    do(pipe)


class Job:
    """A client and its ranks, each of which has begun what it does."""

    def __init__(self, client: LogClient, pipes: list[Any], pids: list[int]) -> None:
        self.client = client
        self.pipes = pipes
        self.pids = pids

    def held(self, rank: int) -> None:
        """Wait until a rank is in the call that keeps the GIL."""
        until(lambda: "poll" in process_state(self.pids[rank]).wait_channel, DEADLINE, "the rank to be in native code")


@contextmanager
def job(method: str, *does: Callable[[Any], object], **environment: str) -> Iterator[Job]:
    pipes = [Pipe() for _ in does]
    with ExitStack() as closing, LogClient(RecordCollector()) as client:
        for end in (end for ends in pipes for end in ends):
            closing.callback(end.close)
        calls = [(do, client.address, rank, pipes[rank][1], environment) for rank, do in enumerate(does)]
        with started(method, work, calls) as procs:
            for here, _ in pipes:
                assert here.poll(DEADLINE)
                here.recv()
            yield Job(client, [here for here, _ in pipes], [proc.pid or 0 for proc in procs])


def group_with(stacks: Stacks, function: str, thread: str = "MainThread") -> StackGroup:
    """Return the only group of a thread in which a function of these tests is called."""
    (found,) = [
        group
        for group in stacks.groups
        if thread in group.threads and function in [frame.function for frame in group.frames if frame.file == __file__]
    ]
    return found


def settled(take: Callable[[], Stacks], *groups: tuple[int, ...]) -> Stacks:
    """Take stacks until there are groups of main threads with exactly these ranks: each rank waits where it will stay."""

    def mains(stacks: Stacks) -> list[tuple[int, ...]]:
        return sorted(group.ranks for group in stacks.groups if "MainThread" in group.threads)

    def found() -> list[Stacks]:
        return [stacks for stacks in [take()] if mains(stacks) == sorted(groups) and "pipe.send" not in str(stacks)]

    return until(found, DEADLINE, lambda: f"groups of the ranks {groups}; got\n{take()}")[0]


# -- ranks that answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_rank_in_another_function_stands_out(method: str) -> None:
    with job(method, together, together, together, elsewhere) as four:
        stacks = settled(four.client.stacks, (0, 1, 2), (3,))
        assert (stacks.ranks, stacks.unanswered) == ((0, 1, 2, 3), {})
        most = next(group for group in stacks.groups if group.ranks == (0, 1, 2))
        odd = group_with(stacks, "elsewhere")
        assert stacks.groups[0] == most
        assert (most.odd, odd.ranks, odd.odd, odd.threads) == (False, (3,), True, ("MainThread",))
        calls = [(frame.function, source) for frame, source in zip(odd.frames, odd.sources, strict=True)]
        begin = calls.index(("work", "do(pipe)"))
        assert calls[begin + 1 : begin + 3] == [("elsewhere", "together(pipe)"), ("together", "pipe.recv()")]
        text = str(stacks)
        assert "4 threads of 4 ranks" in text
        assert "rank 3: MainThread  <-- differs from most ranks" in text
        assert four.client.stacks(ranks=[1]).ranks == (1,)


def test_two_threads_that_wait_for_each_others_locks_are_both_seen() -> None:
    with job("fork", deadlock, together) as two:
        waiting = ("one.acquire()", "two.acquire()")
        (stacks,) = until(
            lambda: [each for each in [two.client.stacks()] if all(line in str(each) for line in waiting)], DEADLINE
        )
        main, other = group_with(stacks, "deadlock"), group_with(stacks, "other", "other")
        assert (main.ranks, main.sources[-1]) == ((0,), "two.acquire()")
        assert (other.ranks, other.sources[-1]) == ((0,), "one.acquire()")


def test_a_program_that_only_installs_has_stacks() -> None:
    code = "import time, meshlog_handler; meshlog_handler.install(); print('joined', flush=True); input()"
    collector = RecordCollector()
    with LogClient(collector) as client:
        program = subprocess.Popen([sys.executable, "-c", code], env=importing(client.environ()), stdin=subprocess.PIPE)
        try:
            collector.wait_for(lambda records: any(record.getMessage() == "joined" for record in records), DEADLINE)
            (group,) = settled(client.stacks, (0,)).groups
            assert (group.ranks, [frame.function for frame in group.frames]) == ((0,), ["<module>"])
        finally:
            program.communicate(b"\n", DEADLINE)
        assert program.returncode == 0


def test_a_mesh_and_a_part_of_it_have_stacks_during_a_call() -> None:
    here, there = os.pipe(), os.pipe()

    def wait() -> None:
        os.write(here[1], b"1")
        os.read(there[0], 1)

    with this_host().spawn_procs({"gpus": 3}, handlers=[RecordCollector()], start_method="fork") as procs:
        procs.initialized.get(DEADLINE)
        call = procs.slice(ranks=[0, 2]).call(wait)
        for _ in range(2):
            os.read(here[0], 1)
        stacks = settled(lambda: procs.stacks().get(DEADLINE), (0, 2), (1,))
        assert group_with(stacks, "wait").ranks == (0, 2)
        assert stacks.ranks == (0, 1, 2)
        assert procs.slice(ranks=[2]).stacks().get(DEADLINE).ranks == (2,)
        assert procs.logging.stacks([1]).ranks == (1,)
        os.write(there[1], b"12")
        call.get(DEADLINE)
        with pytest.raises(SettingError):
            procs.logging.stacks([7])
        os.kill(procs.pids[1], signal.SIGKILL)
        stacks = until(lambda: [each for each in [procs.stacks().get(DEADLINE)] if each.ranks == (0, 2)], DEADLINE)[0]
        assert list(stacks.unanswered) == [1]
    for fd in (*here, *there):
        os.close(fd)


def test_many_ranks_and_threads_of_this_package_are_left_out() -> None:
    with job("fork", *[together] * 16) as many:
        (group,) = settled(many.client.stacks, tuple(range(16))).groups
        assert (group.ranks, group.threads, group.thread_count) == (tuple(range(16)), ("MainThread",), 16)


def test_no_stacks_without_a_client_and_none_for_its_own_handler() -> None:
    client = LogClient(RecordCollector())
    with pytest.raises(ClosedError):
        client.stacks()
    with client:
        with pytest.raises(ClosedError, match="handler"):
            client.ask(client.stacks)
        with pytest.raises(SettingError):
            client.stacks(["3"])  # type: ignore[list-item]  # invalid
        assert client.stacks().ranks == ()
        assert "no process with this rank" in str(client.stacks([3]).unanswered[3])
    with pytest.raises(ClosedError):
        client.stacks()


# -- ranks that do not -------------------------------------------------------------------------------------------------


@LINUX
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_rank_that_holds_the_gil_in_native_code_shows_its_stack(method: str) -> None:
    with job(method, together, hold) as two:
        two.held(1)
        stacks = two.client.stacks(timeout=DEADLINE)
        assert (stacks.ranks, stacks.unanswered) == ((0, 1), {})
        group = group_with(stacks, "hold")
        assert (group.ranks, group.threads) == ((1,), ("MainThread",))
        assert group.sources[-1] == "result: int = poll(what, 1, HOLD_MS)"
        assert {each.threads for each in stacks.groups} == {("MainThread",)}
        assert group_with(two.client.stacks(timeout=DEADLINE), "hold") == group


@LINUX
def test_a_rank_is_dumped_on_a_kernel_that_cannot_send_signals_to_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_dump, "PIDFD_THREAD", 0)
    with job("fork", hold_on) as one:
        one.held(0)
        assert group_with(one.client.stacks(timeout=DEADLINE), "hold_on").ranks == (0,)
        one.pipes[0].send(None)


@LINUX
def test_a_dump_does_not_disturb_the_rank() -> None:
    with job("fork", hold_briefly) as one:
        one.held(0)
        assert group_with(one.client.stacks(timeout=DEADLINE), "hold").ranks == (0,)
        one.pipes[0].send(None)
        directed = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 9)
        for result in (1, None):
            assert one.pipes[0].poll(DEADLINE)
            assert one.pipes[0].recv() == result or not directed, "the signal interrupted the system call"
        assert settled(one.client.stacks, (0,)).unanswered == {}


@LINUX
@pytest.mark.parametrize(("do", "environment"), [(hold, {"MESHLOG_STACK_SIGNAL": "0"}), (hold_with_handler, {})])
def test_no_signal_is_sent_if_it_is_switched_off_or_the_program_uses_it(
    do: Callable[[Any], object], environment: dict[str, str]
) -> None:
    with job("fork", do, **environment) as one:
        one.held(0)
        stacks = one.client.stacks(timeout=0.3)
        assert stacks.ranks == ()
        assert (stacks.unanswered[0].pid, stacks.unanswered[0].state) == (one.pids[0], "sleeping")
        assert "did not answer in time" in str(stacks)
        one.held(0)  # it is still there


@LINUX
def test_a_stopped_rank_is_named_with_the_state_from_the_kernel() -> None:
    with job("fork", together, together) as two:
        stop_process(two.pids[1])
        try:
            stacks = two.client.stacks(timeout=DEADLINE)  # returns long before
        finally:
            os.kill(two.pids[1], signal.SIGCONT)
        assert stacks.ranks == (0,)
        assert (stacks.unanswered[1].pid, stacks.unanswered[1].state) == (two.pids[1], "stopped")
        assert "rank 1, pid" in str(stacks)
        assert two.client.stacks().ranks == (0, 1)


@LINUX
def test_a_rank_that_executes_another_program_lives_and_is_unanswered() -> None:
    def execute(pipe: Any) -> None:
        pipe.send(None)
        os.execv("/bin/sleep", ["sleep", "60"])

    with job("fork", execute) as one:
        until(lambda: not handles_signal(one.pids[0], one.pids[0], NUMBER), DEADLINE, "the program to be executed")
        stacks = one.client.stacks(timeout=0.3)
        assert (stacks.unanswered[0].pid, bool(stacks.unanswered[0].state)) == (one.pids[0], True)
        os.kill(one.pids[0], 0)


@LINUX
def test_workers_below_a_relay_answer_and_are_dumped_or_named() -> None:
    with tree() as both:
        near, far, stopped = (both.worker(address) for address in (both.client.address, *[both.relay(both.relay())] * 2))
        until(lambda: len(both.client.stats()) == 3, DEADLINE, "all ranks to be known")
        assert settled(both.client.stacks, (0, 1, 2)).unanswered == {}
        stop_process(stopped.pid)
        try:
            stacks = both.client.stacks(timeout=10.0)
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        assert stacks.ranks == (near.rank, far.rank)
        assert (stacks.unanswered[stopped.rank].pid, stacks.unanswered[stopped.rank].state) == (stopped.pid, "stopped")
        both.end(near, far, stopped)


# -- the signal --------------------------------------------------------------------------------------------------------


def caught() -> bool:
    """Whether this process handles the signal."""
    return handles_signal(os.getpid(), os.getpid(), NUMBER)


@LINUX
def test_the_handler_is_there_while_a_process_is_a_worker_and_not_in_its_other_children() -> None:
    def child() -> None:
        os._exit(0 if not caught() and not memory_files() else 1)

    def joined(pipe: Any) -> None:
        with started("fork", child, [()]) as (proc,):
            proc.join()
            pipe.send((caught(), signal.getsignal(NUMBER), len(memory_files()), proc.exitcode))
        meshlog_handler.uninstall()
        pipe.send((caught(), signal.getsignal(NUMBER), len(memory_files())))
        pipe.recv()

    here, there = Pipe()
    with LogClient(RecordCollector()) as client, started("fork", work, [(joined, client.address, 0, there, {})]):
        assert here.poll(DEADLINE)
        assert here.recv() == (True, signal.SIG_DFL, 1, 0)
        assert here.poll(DEADLINE)
        assert here.recv() == (False, signal.SIG_DFL, 0)
    here.close()
    there.close()


def memory_files() -> list[str]:
    """Return the memory files for dumps that this process has open."""
    paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return [path for path in paths if os.path.lexists(path) and MEMORY_FILE in os.readlink(path)]


@LINUX
@pytest.mark.parametrize("use", ["handled", "ignored", "blocked"])
def test_the_handler_is_not_registered_for_a_signal_in_use(use: str) -> None:
    actions: dict[str, Any] = {"handled": lambda *_: None, "ignored": signal.SIG_IGN, "blocked": signal.SIG_DFL}
    before = signal.signal(NUMBER, actions[use])
    if use == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, {NUMBER})
    try:
        assert StackDump.register() is None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {NUMBER})
        signal.signal(NUMBER, before)


@LINUX
def test_a_handler_that_the_program_sets_later_stays() -> None:
    dump = StackDump.register()
    assert dump is not None

    def handler(*_: object) -> None:
        """The program's."""

    before = signal.signal(NUMBER, handler)
    try:
        dump.close()
        assert signal.getsignal(NUMBER) is handler
        assert caught()
    finally:
        faulthandler.unregister(NUMBER)
        signal.signal(NUMBER, before)


def dumped(process: subprocess.Popen[bytes], fd: int) -> DumpedProcess:
    """Try to get a dump of a process that has no handler for the signal."""
    how = StackSignal(NUMBER, fd, process.pid, 0)
    target = DumpedProcess(process.pid, os.pidfd_open(process.pid), how)
    try:
        until(lambda: target.step() or target.over, DEADLINE)  # type: ignore[func-returns-value]  # a step, then a look
    finally:
        target.close()
    return target


@LINUX
@pytest.mark.parametrize("file", [MEMORY_FILE, "a file of the program", ""])
def test_a_process_without_the_handler_or_the_file_gets_no_signal(file: str) -> None:
    fd = os.memfd_create(file) if file else 1 << 20
    if file:
        os.write(fd, b"data of the program")
    code = "import _thread; lock = _thread.allocate_lock(); lock.acquire(); lock.acquire()"
    with subprocess.Popen([sys.executable, "-S", "-c", code], pass_fds=[fd] if file else []) as process:
        target = dumped(process, fd)
        assert target.stacks is None
        assert target.failure
        assert process.poll() is None
        process.kill()
    if file:
        assert os.pread(fd, 100, 0) == b"data of the program"
        os.close(fd)


@LINUX
def test_a_worker_that_waits_for_commands_gets_no_signal() -> None:
    with job("fork", together) as one:
        (peer,) = one.client.ask(lambda: [each for each in one.client.stack_collector.peers if each.rank == 0])
        how = until(lambda: peer.stack_signal, DEADLINE) or StackSignal(0, 0, 0, 0)
        target = DumpedProcess(peer.pid, os.dup(peer.pidfd), how)
        one.client.flush(DEADLINE)  # it has joined, and its thread waits for a lock for the last time
        until(lambda: "poll" in thread_state(peer.pid, how.thread).wait_channel, DEADLINE)
        for _ in range(20):
            target.step()
        assert (target.stacks, target.failure) == (None, "")
        target.close()


def test_deep_stacks_and_many_threads_stay_small() -> None:
    released, ready = threading.Event(), threading.Semaphore(0)

    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        else:
            ready.release()
            released.wait(DEADLINE)

    threads = [threading.Thread(target=deep, args=(500,), name="x" * 2000) for _ in range(40)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert ready.acquire(timeout=DEADLINE)
        known = set(linecache.cache)
        assert 0 < len(thread_stacks(())) <= 256 * 1024
        assert set(linecache.cache) == known
        assert b"frames are left out" in thread_stacks(())
    finally:
        released.set()
        for thread in threads:
            thread.join()
