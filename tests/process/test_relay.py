"""Relays, which are clients that forward to another client: in real processes, on two and three levels, through a tunnel."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest

import meshlog_handler
from meshlog_handler import ClosedError, FlushTimeout, LogClient, LogRelay
from meshlog_handler.client.relay.tunnel import HostRelay, Tunnel, reachable
from meshlog_handler.mesh.control import LoggingMeshClient
from meshlog_handler.protocol.codec import pack
from meshlog_handler.protocol.messages import Answer, Command, Flush, Hello, Message, decode
from meshlog_handler.protocol.relay_messages import (
    DownstreamEnded,
    DownstreamInsight,
    DownstreamJoined,
    DownstreamReached,
    InsightDownstream,
    RankRequest,
    WindowDownstream,
)
from meshlog_handler.testing import RecordCollector
from meshlog_handler.transport import run_directory
from meshlog_handler.transport.channel import Address, connect, dial
from meshlog_handler.worker import this_process
from meshlog_handler.worker.forwarder import LogForwarder
from tests.waiting import until

from .procs import DEADLINE, started, stop_process

LOGGER = "below"


# -- functions that run in the processes -----------------------------------------------------------------------------


def work(pipe: Any) -> None:
    """Join the client at the received address; then do each received task, until None is received."""
    address = pipe.recv()
    meshlog_handler.install(address)
    member = this_process.current()
    assert member is not None
    pipe.send(member.rank)
    logger = logging.getLogger(LOGGER)
    while (asked := pipe.recv()) is not None:
        what, words = asked
        if what == "log":
            logger.log(*words)
        elif what == "warn":
            logger.warning("not good: %s", "this", extra={"who": words})
        elif what == "many":
            for number in range(words):
                logger.info("number %d of %s", number, "many")
        elif what == "print":
            print(words, flush=True)
        elif what == "die":
            for number in range(words):
                logger.info("last %d", number)
            os.kill(os.getpid(), signal.SIGKILL)
        pipe.send("done")


def relay(pipe: Any, above: str, ahead: float = 0.0) -> None:
    """Run a relay until told to end. Its clock is `ahead`: hosts with clocks of their own cannot be had on one machine."""
    clock = time.time
    if ahead:
        time.time = lambda: clock() + ahead
    with LogRelay(above) as made:
        pipe.send(made.address)
        pipe.recv()
    pipe.send("done")


def tunnelled(pipe: Any, above: str, carried: Any) -> None:
    """Run a relay until told to end. Its bytes go through a pipe, as they would go through an engine's messages."""
    pipe.send("running")
    host = HostRelay(above)

    def carry() -> None:
        while True:
            what, words = carried.recv()
            try:
                carried.send(host.take(words) if what == "take" else host.give(words))  # type: ignore[func-returns-value]
            except meshlog_handler.ClosedError as error:
                carried.send(error)
                return

    carrier = threading.Thread(target=carry)
    carrier.start()
    pipe.send(host.address)
    pipe.recv()
    host.close()
    pipe.send("done")
    carrier.join()


# -- in the process of the tests ---------------------------------------------------------------------------------------


class Worker(NamedTuple):
    pipe: Any
    pid: int
    rank: int

    def ask(self, what: str, words: object) -> None:
        """Let the worker do something; return when it is done."""
        self.pipe.send((what, words))
        if what != "die":
            assert self.pipe.poll(DEADLINE)
            assert self.pipe.recv() == "done"


class Tree:
    """A client, and the relays and workers downstream of it."""

    def __init__(self, stack: ExitStack, window: float | None) -> None:
        self._stack = stack
        self.collector = RecordCollector()
        self.client = stack.enter_context(LogClient(self.collector, aggregate_window_sec=window))
        self.logging = LoggingMeshClient(self.client, "", None)
        self.relays: list[tuple[Any, int]] = []

    def start(self, target: Any, *args: object) -> tuple[Any, int]:
        here, there = multiprocessing.Pipe()
        self._stack.callback(here.close)
        (proc,) = self._stack.enter_context(started("forkserver", target, [(there, *args)]))
        there.close()
        assert proc.pid is not None
        return here, proc.pid

    def relay(self, above: str | None = None, ahead: float = 0.0) -> str:
        """Start a relay; return its address."""
        pipe, pid = self.start(relay, above or self.client.address, ahead)
        self.relays.append((pipe, pid))
        assert pipe.poll(DEADLINE)
        address: str = pipe.recv()
        return address

    def start_tunnelled(self, target: Any = tunnelled) -> tuple[Any, int, Carrier]:
        """Start a relay whose bytes the carrier carries."""
        here, there = multiprocessing.Pipe()
        self._stack.callback(here.close)
        pipe, pid = self.start(target, self.client.address, there)
        there.close()
        assert pipe.poll(DEADLINE)
        assert pipe.recv() == "running"  # the client waits 10 seconds for it once the tunnel has begun
        return pipe, pid, Carrier(here)

    def worker(self, address: str) -> Worker:
        """Start a worker that joins the client or relay at `address`."""
        pipe, pid = self.start(work)
        pipe.send(address)
        assert pipe.poll(DEADLINE)
        return Worker(pipe, pid, pipe.recv())

    def end(self, *workers: Worker) -> None:
        """Let workers and relays end normally."""
        for worker in workers:
            worker.pipe.send(None)
        for pipe, _ in reversed(self.relays):
            pipe.send(None)
            assert pipe.poll(DEADLINE)
            pipe.recv()

    @property
    def messages(self) -> list[str]:
        return self.collector.messages


@contextmanager
def tree(window: float | None = None) -> Iterator[Tree]:
    with ExitStack() as stack:
        yield Tree(stack, window)


def test_the_counters_say_how_far_the_clock_of_a_host_is_ahead() -> None:
    with tree() as job:
        worker = job.worker(job.relay(ahead=1000.0))

        def known() -> bool:
            worker.ask("log", (logging.WARNING, "%s", "one"))
            job.client.flush()
            return any(job.client.stats().clocks.values())

        until(known, DEADLINE)
        (ahead,) = job.client.stats().clocks.values()
        assert abs(ahead - 1000.0) < DEADLINE
        job.end(worker)


def test_records_and_lines_arrive_complete_with_the_ranks_that_the_client_gave() -> None:
    with tree() as job:
        direct = job.worker(job.client.address)
        workers = [job.worker(job.relay()) for _ in range(2)]
        assert sorted(worker.rank for worker in (direct, *workers)) == [0, 1, 2]
        for worker in (direct, *workers):
            worker.ask("log", (logging.WARNING, "%s of %d", "one", worker.rank))
            worker.ask("print", f"printed by {worker.rank}")
        receipt = job.client.flush()
        assert receipt.acked == (0, 1, 2)
        logged = {record.__dict__["rank"]: record for record in job.collector.records if record.name == LOGGER}
        assert {rank: (record.msg, record.args) for rank, record in logged.items()} == {
            rank: ("%s of %d", ("one", rank)) for rank in range(3)
        }
        assert {record.process for record in logged.values()} == {worker.pid for worker in (direct, *workers)}
        printed = {record.__dict__["rank"]: record for record in job.collector.records if record.name == "stdout"}
        assert {rank: record.getMessage() for rank, record in printed.items()} == {
            rank: f"printed by {rank}" for rank in range(3)
        }
        assert {record.__dict__["stream"] for record in printed.values()} == {"stdout"}
        job.end(direct, *workers)
    assert len(job.messages) == 6


def test_similar_records_of_ranks_below_several_relays_become_one_line() -> None:
    with tree(window=60.0) as job:
        top = job.relay()
        workers = [job.worker(address) for address in (job.relay(top), job.relay(top), top, job.client.address)]
        for worker in workers:
            for step in range(3):
                worker.ask("log", (logging.INFO, "step %d of %d", step, worker.rank))
        job.client.flush()
        assert job.messages == ["[12 similar log lines] [ranks 0-3] step 0..2 of 0..3"]
        assert job.client.stats().received == 12
        assert {rank: stats.received for rank, stats in job.client.stats().items()} == dict.fromkeys(range(4), 3)
        job.end(*workers)


def test_a_warning_whose_extras_differ_by_rank_is_shown_at_once_and_then_counted() -> None:
    with tree() as job:
        workers = [job.worker(address) for address in [job.relay()] * 4]
        job.logging.set_mode(True, 60.0, logging.INFO)
        workers[0].ask("warn", 0)
        job.collector.wait_for(lambda records: len(records) == 1)
        for worker in workers[1:]:
            worker.ask("warn", worker.rank)
        job.client.flush()
        assert job.messages == ["not good: this", "[3 similar log lines] [ranks 1-3] not good: this"]
        job.end(*workers)


def test_a_flush_passes_three_levels_and_names_the_rank_that_does_not_answer() -> None:
    with tree() as job:
        middle = job.relay()
        workers = [job.worker(job.relay(middle)) for _ in range(2)]
        workers[0].ask("many", 2000)
        assert job.client.flush().acked == (0, 1)
        assert sum("of many" in text for text in job.messages) == 2000
        stop_process(workers[1].pid)
        try:
            with pytest.raises(FlushTimeout) as timeout:
                job.client.flush(2.0)
        finally:
            os.kill(workers[1].pid, signal.SIGCONT)
        assert (timeout.value.receipt.acked, timeout.value.receipt.missing) == ((workers[0].rank,), (workers[1].rank,))
        assert job.client.flush().acked == (0, 1)
        job.end(*workers)


def test_a_flush_names_the_ranks_of_a_stopped_relay() -> None:
    with tree() as job:
        near, far = job.worker(job.client.address), job.worker(job.relay())
        _, pid = job.relays[0]
        until(lambda: far.rank in job.client.stats(), what="the client to know who is below")
        stop_process(pid)
        try:
            with pytest.raises(FlushTimeout) as timeout:
                job.client.flush(1.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (timeout.value.receipt.acked, timeout.value.receipt.missing) == ((near.rank,), (far.rank,))
        job.end(near, far)


def test_a_killed_worker_loses_no_record_and_the_client_learns_of_its_end() -> None:
    with tree() as job:
        worker, other = (job.worker(address) for address in [job.relay()] * 2)
        worker.ask("die", 500)
        job.collector.wait_for(lambda records: sum(record.msg == "last %d" for record in records) == 500)
        receipt = job.client.flush()
        assert receipt.acked == (other.rank,)
        until(lambda: not job.client.stats()[worker.rank].alive, what="the end of the worker to be known")
        assert job.client.stats()[worker.rank].received == 500
        job.end(other)


def test_levels_reach_one_rank_below_relays_and_workers_that_join_later() -> None:
    with tree() as job:
        address = job.relay(job.relay())
        workers = [job.worker(address) for _ in range(2)]
        until(lambda: job.logging.ranks == (0, 1), what="the ranks to be known")
        job.logging.set_level("DEBUG", LOGGER, ranks=[1])
        for worker in workers:
            worker.ask("log", (logging.DEBUG, "detail of %d", worker.rank))
        job.client.flush()
        assert job.messages == ["detail of 1"]
        job.logging.set_level("DEBUG", LOGGER)
        late = job.worker(address)
        late.ask("log", (logging.DEBUG, "detail of %d", late.rank))
        job.client.flush()
        assert job.messages == ["detail of 1", f"detail of {late.rank}"]
        with pytest.raises(meshlog_handler.ConfigRefused) as refused:
            job.logging.configure({"version": 1, "handlers": {"bad": {"class": "no.such.Handler"}}})
        assert refused.value.ranks == (0, 1, 2)
        job.end(*workers, late)


@pytest.mark.parametrize("levels", [1, 2])
def test_records_from_below_a_relay_are_hidden_and_counted_while_streaming_is_off(levels: int) -> None:
    with tree() as job:
        relay = job.relay()
        worker = job.worker(relay if levels == 1 else job.relay(relay))
        until(lambda: worker.rank in job.client.stats(), what="the client to know who is below")
        job.logging.set_mode(False, None, logging.INFO)
        worker.ask("log", (logging.WARNING, "unseen"))
        job.client.flush()
        job.logging.set_mode(True, None, logging.INFO)
        worker.ask("log", (logging.WARNING, "seen"))
        job.client.flush()
        assert job.messages == ["seen"]
        stats = job.client.stats()
        assert (stats[worker.rank].received, stats.hidden) == (2, 1)
        job.logging.set_mode(False, None, logging.INFO)
        worker.ask("log", (logging.WARNING, "unseen"))
        job.end(worker)
        until(lambda: not job.client.stats()[worker.rank].alive, what="the worker's end")
        assert job.client.stats().hidden == 2  # the relays have ended too


def test_a_killed_relay_is_reported_with_its_ranks_and_delays_no_flush() -> None:
    with tree() as job:
        near, far = job.worker(job.client.address), job.worker(job.relay())
        far.ask("log", (logging.WARNING, "before"))
        assert job.client.flush().acked == (0, 1)
        os.kill(job.relays[0][1], signal.SIGKILL)
        job.collector.wait_for(lambda records: any("is gone, and with it rank" in record.getMessage() for record in records))
        assert job.client.flush().acked == (near.rank,)
        far.ask("log", (logging.WARNING, "goes on"))  # into its journal and to its stderr
        job.relays.clear()
        job.end(near, far)
    run_directory.clean(run_directory.base(), 0.0)  # as a client would later


def test_relays_end_and_workers_continue_when_the_client_is_gone() -> None:
    with tree() as job:
        worker = job.worker(job.relay())
        (pipe, _) = job.relays[0]
        job.client.stop()
        worker.ask("log", (logging.INFO, "goes on"))
        worker.pipe.send(None)
        pipe.send(None)
        assert pipe.poll(DEADLINE)
        assert pipe.recv() == "done"


class Carrier:
    """Carries the bytes of a tunnel, on the client's side: one request at a time, then its answer."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self.carried = 0

    def __call__(self, what: str, words: Any) -> Any:
        with self._lock:
            self._pipe.send((what, words))
            answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        self.carried += len(answer or b"")
        return answer

    def close(self) -> None:
        """Cut the tunnel for good."""
        self._pipe.close()


def test_records_arrive_through_a_tunnel_over_the_messages_of_another_system() -> None:
    with tree() as job:
        pipe, pid, ask = job.start_tunnelled()
        with Tunnel(job.client.address, lambda _: ask("take", 0.01), lambda data: ask("give", data)):
            assert pipe.poll(DEADLINE)
            worker = job.worker(pipe.recv())
            until(lambda: worker.rank in job.client.stats(), what="the client to know who is below")
            worker.ask("many", 3000)
            worker.ask("die", 100)
            until(lambda: not job.client.stats()[worker.rank].alive, what="the end of the worker to be known")
            assert job.client.flush().dead == (worker.rank,)
            assert job.client.flush().dead == ()
            assert sum("number" in text for text in job.messages) == 3000
            assert sum("last" in text and not text.startswith("rank ") for text in job.messages) == 100
            assert ask.carried > 3000
            job.relays.append((pipe, pid))
            job.end()
        until(lambda: not job.client.stats()[worker.rank].alive, what="the client to see the end")


def test_a_mode_is_in_effect_when_set_mode_returns_even_through_a_slow_tunnel() -> None:
    with tree() as job:
        pipe, pid, ask = job.start_tunnelled()

        def give(data: bytes) -> None:
            time.sleep(0.1)  # a message downstream takes longer than a worker takes to log
            ask("give", data)

        with Tunnel(job.client.address, lambda _: ask("take", 0.01), give):
            assert pipe.poll(DEADLINE)
            worker = job.worker(pipe.recv())
            until(lambda: worker.rank in job.client.stats(), what="the client to know who is below")
            for window in (60.0, None):
                job.logging.set_mode(True, window, logging.INFO)
                for step in range(2):
                    worker.ask("log", (logging.INFO, "step %d", step))
                job.client.flush()
            assert job.messages == ["[2 similar log lines] [rank 0] step 0..1", "step 0", "step 1"]
            job.relays.append((pipe, pid))
            job.end(worker)


def test_a_broken_tunnel_is_reported_as_the_end_of_the_ranks_behind_it() -> None:
    with tree() as job:
        pipe, pid, ask = job.start_tunnelled()
        with Tunnel(job.client.address, lambda _: ask("take", 0.01), lambda data: ask("give", data)):
            assert pipe.poll(DEADLINE)
            worker = job.worker(pipe.recv())
            until(lambda: worker.rank in job.client.stats(), what="the client to know who is below")
            os.kill(pid, signal.SIGKILL)
            job.collector.wait_for(lambda records: any("and with it rank" in record.getMessage() for record in records))
            assert job.client.flush().acked == ()
        worker.pipe.send(None)
    run_directory.clean(run_directory.base(), 0.0)  # as a client would later


def test_a_relay_that_is_closed_before_its_tunnel_works_does_not_start_later() -> None:
    with LogClient(RecordCollector()) as client:
        host = HostRelay(client.address)
        host.close()
        with Tunnel(client.address, host.take, host.give), pytest.raises(meshlog_handler.ConnectError):
            _ = host.address
        host._end.close()
    run_directory.clean(run_directory.base(), 0.0)  # as a client would later


def test_a_relay_that_was_stopped_starts_again_unless_its_tunnel_is_gone() -> None:
    with tree() as job:
        below = LogRelay(job.client.address)
        for number in range(2):
            with below:
                assert below.start() is below
                worker = job.worker(below.address)
                worker.ask("log", (logging.WARNING, "number %d", number))
                job.end(worker)
            assert not below.running
        job.collector.wait_for(lambda _: job.messages == ["number 0", "number 1"])
        tunnel = socket.socket(socket.AF_UNIX)
        dial(Address.parse(job.client.address), tunnel)
        with LogRelay(job.client.address, tunnel=tunnel) as through:
            assert through.running
        with pytest.raises(ClosedError, match="make another LogRelay"):
            through.start()


def test_a_process_that_is_forked_while_its_relay_stops_can_stop_it_too() -> None:
    with LogClient(RecordCollector()) as client, LogRelay(client.address) as below:
        with below._ending:
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends this process if it waits for ever
                signal.alarm(10)
                below.stop()
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_insight_that_no_thread_can_be_started_for_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with LogClient(RecordCollector()) as client, LogRelay(client.address) as below:
        uplink, sent = below._uplink, list[Message]()
        assert uplink is not None
        with monkeypatch.context() as patched:
            patched.setattr(uplink, "send", sent.append)
            patched.setattr(threading.Thread, "start", refuse)
            below._carry_out(InsightDownstream(7, False))
        assert DownstreamInsight(7, pack(())) in sent


HELLO = Hello(os.getpid() + 1, "far", None, None, "", (), True, 0.0, {}, True)
BAD: dict[str, Message] = {
    "counters that are none": DownstreamEnded(7, {"received": "many"}, 0),
    "an order": Flush(1),
    "a flush with bad counters": DownstreamReached(1, (), (), (), 0, {7: {}}, 0),
    "a proc's answer": Answer(1, None),
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD)
def test_a_relay_that_sends_an_invalid_message_harms_only_itself(message: Message) -> None:
    with tree() as job:
        honest = job.worker(job.client.address)
        link, welcome = connect(Address.parse(job.client.address), HELLO, ())
        assert welcome.rank is None
        link.send_message(DownstreamJoined(7, "", 7, "far", {}))
        link.send_message(RankRequest(1))
        until(lambda: 7 in job.client.stats(), what="the client to know who is below")
        link.send_message(message)
        job.collector.wait_for(lambda records: any("is gone, and with it rank 7" in record.getMessage() for record in records))
        honest.ask("log", (logging.WARNING, "still here"))
        assert job.client.flush().acked == (honest.rank,)
        assert "still here" in job.messages
        link.close()
        link.forget()
        job.end(honest)


@pytest.mark.parametrize(("window", "below"), [(None, None), (1.0, 0.25), (60.0, 0.5)])
def test_the_client_tells_a_relay_the_window_in_which_to_group(window: float | None, below: float | None) -> None:
    with tree(window) as job:
        link, _ = connect(Address.parse(job.client.address), HELLO, ())
        told = link.receive(DEADLINE)
        assert told is not None
        assert decode(told, Command) == WindowDownstream(0, below)
        link.close()
        link.forget()
        until(lambda: not job.client._loop.reactor.peers, what="the client to see the end")


def test_a_relay_whose_thread_cannot_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: LogForwarder) -> None:
        raise RuntimeError("can't start new thread")

    with LogClient(RecordCollector()) as client:
        before = set(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(LogForwarder, "start", refuse)
        with pytest.raises(RuntimeError, match="thread"):
            LogRelay(client.address).start()
        until(lambda: set(os.listdir("/proc/self/fd")) == before, what="all descriptors to be closed")
    run_directory.clean(run_directory.base(), 0.0)  # as a client would later


def test_a_worker_that_joins_while_its_relay_starts_gets_its_rank_from_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    with tree() as job:
        direct = job.worker(job.client.address)
        pipe, pid = job.start(work)
        start = LogClient.start

        def start_and_wait(client: LogClient) -> LogClient:
            started_client = start(client)
            pipe.send(client.address)
            until(lambda: below._uplink is not None and below._uplink._claims, what="the request for a rank")
            return started_client

        below = LogRelay(job.client.address)
        monkeypatch.setattr(LogClient, "start", start_and_wait)
        with below:
            assert pipe.poll(DEADLINE)
            late = Worker(pipe, pid, pipe.recv())
            assert late.rank != direct.rank
            until(lambda: late.rank in job.client.stats(), what="the client to know who is below")
            job.end(direct, late)


def test_reachable_is_true_only_while_the_client_runs() -> None:
    with tree() as job:
        address = job.client.address
        assert reachable(address)
    assert not reachable(address)
