"""A process that is forked from a worker logs by itself: it inherits no lock, no buffer and no identity."""

from __future__ import annotations

import os
import threading
from collections import Counter

import pytest

from meshlog_handler import ClosedError, LogClient
from meshlog_handler.output.console import flushing_threads
from meshlog_handler.testing import RecordCollector, collected

from . import forkers
from .procs import join_all, run_python, started

pytestmark = pytest.mark.usefixtures("real_stdout")

CHILDREN = 200


# README, "What is guaranteed": Nothing hangs.
def test_200_children_that_are_forked_while_a_thread_logs_all_end_and_log_once() -> None:
    with collected() as logs:
        with started("spawn", forkers.storm, [(logs.address, CHILDREN)]) as procs:
            parent = procs[0].pid
            assert join_all(procs, timeout=30) == [0]
        logs.flush()
        records = [record for record in logs.records if record.name == "forker"]
        stats = logs.client.stats()
    children = [record for record in records if record.msg == "child of %d"]
    assert len(children) == CHILDREN
    assert {record.args for record in children} == {(parent,)}
    assert len({record.process for record in children} - {parent}) == CHILDREN, "each says its own pid"
    assert {vars(record)["rank"] for record in children} == {0}, "the rank is that of the process they are part of"
    loop = [record.args[0] for record in records if record.msg == "loop %d"]  # type: ignore[index]  # a tuple of one
    assert loop == list(range(len(loop)))
    assert [record.process for record in records if record.msg == "parent"] == [parent]
    assert list(stats) == [0]
    assert (stats[0].received, stats[0].duplicates, stats[0].dropped) == (len(records), 0, {})


def test_a_forked_process_does_not_treat_its_threads_as_threads_of_the_client() -> None:
    """A thread of the child may get the identifier that a client thread had. Records of client threads are not forwarded."""
    run_python(
        "-c",
        "import os; from meshlog_handler import LogClient; from meshlog_handler.worker.record_stream import internal_threads\n"
        "with LogClient() as client:\n"
        "    client.stats()\n"
        "    assert internal_threads\n"
        "    pid = os.fork()\n"
        "    if not pid: os._exit(len(internal_threads))\n"
        "    assert os.waitpid(pid, 0)[1] == 0",
    )


def test_children_of_children_log_with_their_own_process_ids() -> None:
    depth = 3
    with collected() as logs:
        with started("spawn", forkers.generations, [(logs.address, depth)]) as procs:
            assert join_all(procs) == [0]
        logs.flush()
        records = [record for record in logs.records if record.name == "forker"]
        printed = [record for record in logs.records if vars(record)["stream"] == "stdout"]
    texts = [f"{when} {number}" for when in ("before", "after") for number in range(depth + 1)]
    assert Counter(record.getMessage() for record in records) == Counter(texts)
    assert len({record.process for record in records}) == depth + 1
    assert {vars(record)["rank"] for record in records} == {0}
    for record in records:
        pair = [other for other in records if other.args == record.args]
        assert len(pair) == 2
        assert len({other.process for other in pair}) == 1
        assert [other.msg for other in pair] == ["before %d", "after %d"]
    assert [record.getMessage() for record in printed] == [f"printed {number}" for number in range(depth, -1, -1)]
    assert {vars(record)["rank"] for record in printed} == {0}, "children share their parent's pipes"


def test_inherited_records_are_not_sent_twice() -> None:
    with collected() as logs:
        with started("fork", forkers.silent_children, [(logs.address, 8)]) as procs:
            assert join_all(procs) == [0]
        logs.flush()
        numbers = [record.args[0] for record in logs.records if record.name == "forker"]  # type: ignore[index]  # as above
        stats = logs.client.stats()
    assert numbers == list(range(2000))
    assert list(stats) == [0]
    assert (stats[0].received, stats[0].duplicates) == (2000, 0)


def test_a_fork_of_the_client_process_does_not_harm_the_client() -> None:
    collector = RecordCollector()
    with LogClient(collector) as client:
        address = client.address

        def child() -> None:
            assert not client.running
            client.stop()
            client.stop()
            with pytest.raises(ClosedError, match="does not run in this process"):
                client.flush()
            with pytest.raises(ClosedError, match="does not run in this process"):
                assert client.address
            with LogClient(RecordCollector()) as own:
                own.flush()
            client.start()
            client.stop()

        for _ in range(3):
            assert forkers.wait(forkers.fork(child)) == 0
        assert client.running
        assert client.address == address
        with started("fork", forkers.silent_children, [(address, 1)]) as procs:
            assert join_all(procs) == [0]
        receipt = client.flush()
        assert receipt.missing == ()
        assert len(collector.records) == 2000
        assert os.path.exists(address.removeprefix("meshlog://").partition("#")[0])


def test_a_child_that_is_forked_while_the_client_thread_works_is_not_blocked() -> None:
    """Children that are forked at any moment of the client's work exit, and the client receives all records."""
    collector = RecordCollector()
    with LogClient(collector) as client:
        address = client.address
        with started("spawn", forkers.storm, [(address, 20)]) as procs:
            forked = 0
            while procs[0].is_alive():
                assert forkers.wait(forkers.fork(client.stop)) == 0
                forked += 1
            assert join_all(procs) == [0]
        client.flush()
        received = client.stats().received
    assert forked
    assert received == len([record for record in collector.records if record.name == "forker"])
    assert len([record for record in collector.records if record.msg == "child of %d"]) == 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("meshlog")]


FORKS_IN_A_WRITE = """
import io, logging, logging.config, os, sys, threading
from meshlog_handler.dispatch import sink

class Slow(io.RawIOBase):
    entered, go = threading.Event(), threading.Event()
    def writable(self):
        return True
    def write(self, data):
        self.entered.set()
        self.go.wait(50)
        return len(data)

sink.fork_locks.seconds = 50.0
sys.stderr = io.TextIOWrapper(io.BufferedWriter(Slow()), line_buffering=True)
logging.config.dictConfig({"version": 1, "root": {"level": "INFO", "handlers": ["mesh"]}, "handlers": {
    "console": {"class": "logging.StreamHandler"},
    "mesh": {"class": "meshlog_handler.MeshHandler", "handlers": ["console"]}}})
threading.Thread(target=logging.info, args=("shown by a thread",)).start()
assert Slow.entered.wait(50)
threading.Timer(0.1, Slow.go.set).start()
child = os.fork()
if not child:
    sys.stderr.flush()
    logging.getLogger().handlers.clear()
    os._exit(0)
deadline = threading.Timer(20, os.kill, (child, 9))
deadline.start()
status = os.waitpid(child, 0)[1]
deadline.cancel()
sys.exit(status)
"""


def test_a_child_that_is_forked_while_a_thread_shows_a_record_inherits_no_stream_lock() -> None:
    run_python("-c", FORKS_IN_A_WRITE)


SHOWS_AND_FORKS = """
import logging, multiprocessing, sys
from meshlog_handler import LogClient, install

def child(number):
    print("child", number)  # to the very file that the client's thread writes to

def busy(address, end):
    install(address, capture=False)
    while not end.is_set():
        logging.info("more and more")

context = multiprocessing.get_context("fork")
end = context.Event()
with LogClient(logging.StreamHandler(sys.stdout)) as client:
    loud = context.Process(target=busy, args=(client.address, end))
    loud.start()
    children = [context.Process(target=child, args=(number,)) for number in range(50)]
    for each in children:
        each.start()
    for each in children:
        each.join(20)
        assert each.exitcode == 0, each
    end.set()
    loud.join()
"""


def test_a_child_can_print_even_if_the_client_thread_was_about_to_print_at_the_fork() -> None:
    """Python does not replace the lock of a buffered file in a child."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    lines = Counter(run_python("-c", SHOWS_AND_FORKS, env=env).stdout.splitlines())
    assert {f"child {number}" for number in range(50)} <= lines.keys()


def test_a_console_without_a_client_in_a_forked_child_writes_at_once_on_any_thread() -> None:
    with LogClient():
        assert flushing_threads
        pid = os.fork()
        if pid == 0:
            os._exit(len(flushing_threads))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
