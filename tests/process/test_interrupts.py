"""Ctrl-C during a public call reaches the caller at any moment, and the next `stop` cleans up everything."""

from __future__ import annotations

import concurrent.futures._base
import contextlib
import ctypes
import gc
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import meshlog_handler
from meshlog_handler import JournalQueue, LogClient, LogRelay, MeshHandler, ProcMesh, this_host
from meshlog_handler.mesh.control import LoggingMeshClient
from meshlog_handler.system.shielded import run_whole
from meshlog_handler.testing import RecordCollector

from ..waiting import until
from .procs import started as procs_started

FILES = (str(Path(meshlog_handler.__file__).parent), threading.__file__, concurrent.futures._base.__file__)
DEADLINE = 30.0


def interrupt_at(place: int, call: Callable[[], object]) -> bool:
    """Make a call, and send SIGINT where it enters the function of this number. Return whether it came that far.

    Python checks for signals at such places, among others, but not between two lines, for example in the middle of a ``with``.
    """
    left = place

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(FILES):
            return None
        if event == "call" and not in_del(frame):
            left -= 1
            if left < 0:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    assert left >= 0, "the interrupt did not reach the caller"
    return False


def in_del(frame: FrameType | None) -> bool:
    """Return whether a frame belongs to a ``__del__``, whose exceptions Python discards, also those of signal handlers."""
    return frame is not None and (frame.f_code.co_name == "__del__" or in_del(frame.f_back))


def started(client: LogClient) -> Callable[[], object]:
    return client.start


def stopped(client: LogClient) -> Callable[[], object]:
    return client.start().stop


def flushed(client: LogClient) -> Callable[[], object]:
    return client.start().flush


@pytest.mark.parametrize("prepare", [started, stopped, flushed])
def test_an_interrupt_of_a_client_leaves_no_threads_or_descriptors(
    prepare: Callable[[LogClient], Callable[[], object]],
) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with contextlib.ExitStack() as stack:
        stack.enter_context(LogClient(RecordCollector()))  # some things are loaded once, and stay
    threads, fds = threading.active_count(), descriptors()
    place = 0
    interrupted = True
    while interrupted:
        client = LogClient(RecordCollector())
        call = prepare(client)
        interrupted = interrupt_at(place, call)
        client.stop()
        assert not client.running, f"after place {place}"
        until(lambda: (threading.active_count(), descriptors()) == (threads, fds), what=f"nothing left after place {place}")
        place += 1
    assert place > 5


def test_an_interrupt_while_a_stopped_worker_is_asked_for_its_stacks_leaves_no_descriptors() -> None:
    with LogClient(RecordCollector()) as client:
        ours, theirs = multiprocessing.Pipe()
        with ours, theirs, procs_started("fork", join_and_wait, [(client.address, theirs)]) as procs:
            ours.recv()
            os.kill(procs[0].pid or 0, signal.SIGSTOP)
            client.stacks(timeout=0.05)
            before = left()
            place = 0
            interrupted = True
            while interrupted:
                interrupted = interrupt_at(place, partial(client.stacks, timeout=0.05))
                place += 5
                until(lambda: left() == before, what=f"nothing left after place {place}")


def join_and_wait(address: str, ready: Any) -> None:
    meshlog_handler.install(address, capture=False)
    ready.send(None)
    ready.recv()


def installed(address: str) -> Callable[[], object]:
    return lambda: meshlog_handler.install(address, capture=False)


def installed_with_output(address: str) -> Callable[[], object]:
    return lambda: meshlog_handler.install(address)


def uninstalled(address: str) -> Callable[[], object]:
    meshlog_handler.install(address)
    return meshlog_handler.uninstall


@pytest.mark.usefixtures("real_stdout")
@pytest.mark.parametrize("prepare", [installed, installed_with_output, uninstalled])
def test_an_interrupt_of_a_worker_leaves_no_threads_descriptors_or_handlers(
    prepare: Callable[[str], Callable[[], object]], address: str
) -> None:
    def state() -> tuple[object, ...]:
        streams = [os.readlink(f"/proc/self/fd/{fd}") for fd in (1, 2)]
        return threading.active_count(), len(os.listdir("/proc/self/fd")), streams, [*logging.root.handlers], logging.root.level

    prepare(address)()
    meshlog_handler.uninstall()
    before = state()
    place = 0
    interrupted = True
    while interrupted:
        interrupted = interrupt_at(place, prepare(address))
        meshlog_handler.uninstall()
        until(lambda: state() == before, what=f"nothing left after place {place}")
        place += 1
    assert place > 5


# -- queues ------------------------------------------------------------------------------------------------------------


def a_record() -> logging.LogRecord:
    return logging.LogRecord("queue", logging.WARNING, __file__, 1, "put", None, None)


def test_a_queue_is_read_by_the_second_call_of_listen_if_the_first_was_interrupted() -> None:
    place = 0
    interrupted = True
    while interrupted:
        shown = RecordCollector()
        source: queue.Queue[logging.LogRecord] = queue.Queue()
        with LogClient(shown) as client:
            interrupted = interrupt_at(place, partial(client.listen, source))
            source.put(a_record())
            client.listen(source)
            client.flush()
        assert len(shown.records) == 1, f"after place {place}"
        place += 4
    assert place > 8


def test_a_second_stop_of_a_reader_ends_what_an_interrupt_has_left() -> None:
    with LogClient(RecordCollector()) as client:
        threads = threading.active_count()
        place = 0
        interrupted = True
        while interrupted:
            reader = client.listen(queue.Queue())
            interrupted = interrupt_at(place, reader.stop)
            reader.stop(DEADLINE)
            until(lambda: threading.active_count() == threads, what=f"nothing left after place {place}")
            place += 3
    assert place > 6


@pytest.mark.parametrize("place", [1, 15])
def test_a_second_close_of_a_queue_ends_what_an_interrupt_has_left(place: int, address: str) -> None:
    before = left()
    made = JournalQueue(None, address)
    made.put(a_record())
    interrupt_at(place, made.close)
    made.close()
    until(lambda: no_more_than(before), what=f"nothing left after place {place}")


def test_an_interrupt_of_a_put_leaves_what_a_close_removes(address: str) -> None:
    first = JournalQueue(None, address)
    first.put(a_record())
    first.close()
    before = left()
    for place in (5, 14, 60, 150):
        made = JournalQueue(None, address)
        assert interrupt_at(place, partial(made.put, a_record()))
        made.close()
        until(lambda: left() == before, what=f"nothing left after place {place}")


# -- relays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [20, 100, 400])
def test_an_interrupted_start_of_a_relay_leaves_nothing(place: int, address: str) -> None:
    LogRelay(address).start().stop()
    before = left()
    relay = LogRelay(address)
    interrupt_at(place, relay.start)
    relay.stop()
    assert not relay.running
    until(lambda: no_more_than(before), what="nothing left")


@pytest.mark.parametrize("place", [3, 10])
def test_a_second_stop_of_a_relay_ends_what_an_interrupt_has_left(place: int, address: str) -> None:
    LogRelay(address).start().stop()
    before = left()
    relay = LogRelay(address).start()
    interrupt_at(place, relay.stop)
    relay.stop()
    until(lambda: no_more_than(before), what="nothing left")


# -- meshes ------------------------------------------------------------------------------------------------------------


def spawned() -> ProcMesh:
    return this_host().spawn_procs({"gpus": 1}, start_method="fork", handlers=[RecordCollector()])


def left() -> tuple[int, int]:
    gc.collect()
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def no_more_than(before: tuple[int, int]) -> bool:
    """Whether nothing is left that was not there before; a thread of an earlier test may have ended since."""
    return all(now <= then for now, then in zip(left(), before, strict=True))


def test_an_interrupt_of_a_call_on_a_mesh_leaves_the_mesh_usable() -> None:
    mesh = spawned()
    mesh.initialized.get(DEADLINE)
    client = mesh.logging
    calls: list[Callable[[], object]] = [
        lambda: mesh.initialized.get(),
        lambda: mesh.call(os.getpid).get(),
        lambda: mesh.flush().get(),
        lambda: mesh.logging_option(level=logging.INFO).get(),
        lambda: client.set_level(logging.DEBUG, "interrupted"),
        lambda: client.configure({"version": 1, "loggers": {"interrupted": {"level": "ERROR"}}}),
        client.stats,
    ]
    with mesh:
        for call in calls:
            place, step = 0, 3
            while interrupt_at(place, call):
                place += step
            mesh.initialized.get(DEADLINE)
            assert mesh.call(os.getpid).get(DEADLINE) == [*mesh.pids.values()]
            client.configure({"version": 1, "loggers": {"interrupted": {"level": "INFO"}}})
            assert mesh.call(lambda: logging.getLogger("interrupted").level).get(DEADLINE) == [logging.INFO]
            assert mesh.flush().get(DEADLINE).missing == ()


@pytest.mark.parametrize("place", [175, 500])
def test_an_interrupt_of_a_spawn_stops_the_mesh(place: int) -> None:
    spawned().stop().get(DEADLINE)
    before = left()
    assert interrupt_at(place, spawned)
    until(lambda: left() == before, what="the mesh to end")


def stops(mesh: ProcMesh) -> object:
    return mesh.stop().get()


def stops_by_with(mesh: ProcMesh) -> object:
    with mesh:
        return None


@pytest.mark.parametrize("place", [2, 30])
@pytest.mark.parametrize("stop", [stops, stops_by_with])
def test_a_second_stop_of_a_mesh_ends_what_an_interrupt_has_left(stop: Callable[[ProcMesh], object], place: int) -> None:
    before = left()
    mesh = spawned()
    mesh.initialized.get(DEADLINE)
    interrupt_at(place, partial(stop, mesh))
    mesh.stop().get(DEADLINE)
    del mesh
    until(lambda: left() == before, what="nothing left")


def test_a_second_drain_and_stop_ends_what_an_interrupt_has_left() -> None:
    before = left()
    place = 0
    interrupted = True
    while interrupted:
        client = LoggingMeshClient.start("token", {0: {}}, [RecordCollector()])
        interrupted = interrupt_at(place, client.drain_and_stop)
        client.drain_and_stop()
        del client
        until(lambda: left() == before, what=f"nothing left after place {place}")
        place += 4
    assert place > 8


# -- configurations ----------------------------------------------------------------------------------------------------


def end_own_client(handlers: list[MeshHandler]) -> None:
    while handlers:
        handlers.pop().close()
    meshlog_handler.uninstall()
    client = sys.modules["meshlog_handler.handler"]._own_client
    if client is not None:
        client.stop()
    os.environ.pop("MESHLOG_ADDRESS", None)


@pytest.mark.parametrize("place", [1, 100, 259, 266, 273])
def test_an_interrupt_of_a_mesh_handler_leaves_what_an_uninstall_removes(place: int) -> None:
    made: list[MeshHandler] = []

    def make() -> None:
        made.append(MeshHandler(handlers=[RecordCollector()]))

    make()
    end_own_client(made)
    before = left()
    assert interrupt_at(place, make)
    end_own_client(made)
    until(lambda: left() == before, what="nothing left")


@pytest.mark.parametrize("place", [0, 1, 5])
def test_a_second_unwrap_ends_what_an_interrupt_has_left(place: int) -> None:
    logger, theirs = logging.getLogger("interrupted unwrap"), RecordCollector()
    logger.handlers = [theirs]
    made = MeshHandler.wrap(logger)
    interrupt_at(place, made.unwrap)
    made.unwrap()
    assert logger.handlers == [theirs]
    logger.handlers = []
    end_own_client([])


@pytest.mark.usefixtures("no_job")
@pytest.mark.parametrize("place", [30, 200, 260])
def test_an_interrupted_start_in_a_job_leaves_what_a_stop_removes(place: int) -> None:
    def client() -> LogClient:
        return LogClient(RecordCollector(), job="shop")

    client().start().stop()
    before = left()
    made = client()
    interrupt_at(place, made.start)
    made.stop()
    until(lambda: no_more_than(before), what="nothing left")
    began = time.monotonic()
    client().start().stop()  # nobody else has claimed the job
    assert time.monotonic() - began < 10


def test_an_exception_of_a_signal_handler_waits_for_work_that_is_to_be_whole() -> None:
    done: list[str] = []

    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("all")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_whole(work)
    assert done == ["all"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_fork_in_work_that_is_to_be_whole_has_the_handlers_of_the_program() -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> int:
        pid = os.fork()
        if not pid:
            os._exit(0 if signal.getsignal(signal.SIGINT) is before else 1)
        return pid

    assert os.waitstatus_to_exitcode(os.waitpid(run_whole(work), 0)[1]) == 0


def test_system_calls_that_a_signal_does_not_interrupt_are_not_interrupted_after_work_that_is_to_be_whole() -> None:
    with contextlib.ExitStack() as closing:
        closing.callback(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, lambda *_: None))
        awake, wake = os.pipe()
        read, write = os.pipe()
        for each in (awake, wake, read, write):
            closing.callback(os.close, each)
        os.set_blocking(wake, False)
        closing.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake))
        signal.siginterrupt(signal.SIGUSR1, False)
        run_whole(lambda: None)
        signaller = threading.Thread(target=signal_and_write, args=(awake, write))
        signaller.start()
        count = ctypes.CDLL(None).read(read, ctypes.create_string_buffer(1), 1)  # unlike `os.read`, without a second try
        signaller.join()
    assert count == 1


def signal_and_write(awake: int, write: int) -> None:
    """Send the main thread a signal when it reads; write a byte when the signal has arrived."""

    def reads() -> bool:
        thread = Path(f"/proc/self/task/{os.getpid()}")
        state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
        return state == "S" and "futex" not in (thread / "wchan").read_text()

    until(reads, what="the main thread to read")
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
    os.read(awake, 1)
    os.write(write, b"x")


def test_a_client_is_stopped_at_once_by_a_thread_that_holds_the_lock_of_logging(capfd: pytest.CaptureFixture[str]) -> None:
    client = LogClient().start()
    meshlog_handler.install(client.address)
    logging.getLogger("locked").warning("before the stop")
    began = time.monotonic()
    with logging._lock:  # type: ignore[attr-defined]  # as `logging.config` does while it calls a factory
        client.stop()
    assert time.monotonic() - began < 3
    assert capfd.readouterr().err.count("before the stop") == 1
    until(lambda: not [each for each in logging.root.handlers if isinstance(each, MeshHandler)], what="the handlers to go")
    meshlog_handler.uninstall()
