"""A tunnel that loses messages, or is cut for good while its relay lives: no record is lost, and none is shown twice."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshlog_handler.client.relay import repeated_calls
from meshlog_handler.client.relay.repeated_calls import RepeatedCalls, RepeatingCalls
from meshlog_handler.client.relay.tunnel import HostRelay, Tunnel
from meshlog_handler.transport import run_directory
from tests.waiting import until

from .procs import DEADLINE
from .test_killed_relays import answer, last_words
from .test_relay import Tree, tree


def left_by_process(pipe: Any, above: str, carried: Any) -> None:
    """Run a relay whose bytes go through a pipe until it is closed; then end this process, without closing the relay."""
    pipe.send("running")
    host = HostRelay(above, carried=lambda: False)

    def carry() -> None:
        try:
            while True:
                what, words = carried.recv()
                carried.send(host.take(words) if what == "take" else host.give(words))  # type: ignore[func-returns-value]
        except EOFError:
            return

    carrier = threading.Thread(target=carry)
    carrier.start()
    pipe.send(host.address)
    carrier.join()
    pipe.recv()


def said(job: Tree, word: str) -> Counter[str]:
    return Counter(text for text in job.messages if text.startswith(f"{word} ") and not text.startswith("rank "))


def all_of(word: str, count: int) -> Counter[str]:
    return Counter(f"{word} {number}" for number in range(count))


class Lossy:
    """Calls a relay in this process. Every second request is lost, or else its answer."""

    def __init__(self, calls: RepeatedCalls) -> None:
        self._calls = calls
        self._number = itertools.count()

    def ask(self, what: str, **fields: Any) -> Any:
        fault = next(self._number) % 4
        if fault == 0:
            raise OSError("the request is lost")
        found = getattr(self._calls, what)(**fields)
        if fault == 2:
            raise OSError("the answer is lost")
        return found


def test_lost_messages_of_a_tunnel_lose_no_record_and_show_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_calls, "_PAUSE_SEC", 0.0)
    with tree() as job:
        host = HostRelay(job.client.address)
        calls = RepeatingCalls(Lossy(RepeatedCalls(host)).ask, lambda: True)
        with Tunnel(job.client.address, lambda _: calls.take(0.01), calls.give):
            worker = job.worker(host.address)
            for number in range(100):
                worker.ask("log", (logging.WARNING, "number %d", number))
                worker.ask("print", f"line {number}")
            assert not job.client.flush().missing
            assert said(job, "number") == all_of("number", 100)
            assert said(job, "line") == all_of("line", 100)
            job.end(worker)
            host.close()
        host._end.close()


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_call_is_made_again_for_a_time_and_while_it_makes_sense(monkeypatch: pytest.MonkeyPatch, goes_on: bool) -> None:
    now, asked = 0.0, list[float]()

    def ask(what: str, **fields: Any) -> None:
        nonlocal now
        asked.append(now)
        now += 25.0
        raise OSError("no way")

    monkeypatch.setattr(repeated_calls, "_PAUSE_SEC", 0.0)
    monkeypatch.setattr(repeated_calls, "monotonic", lambda: now)
    with pytest.raises(OSError, match="no way"):
        RepeatingCalls(ask, lambda: goes_on).take(1.0)
    assert asked == ([0.0, 25.0, 50.0, 75.0] if goes_on else [0.0])


@contextlib.contextmanager
def host_relays(job: Tree) -> Iterator[Callable[[], HostRelay]]:
    """Start relays on this host, one for each call, and close their ends of the tunnels at the end."""
    started: list[HostRelay] = []

    def start() -> HostRelay:
        started.append(HostRelay(job.client.address))
        return started[-1]

    try:
        yield start
    finally:
        for relay in started:
            relay._end.close()


def test_another_relay_goes_on_with_the_workers_of_one_whose_tunnel_is_cut() -> None:
    with tree() as job, host_relays(job) as start:
        cut = start()
        with Tunnel(job.client.address, cut.take, cut.give):
            address = cut.address
            worker = job.worker(address)
            worker.ask("log", (logging.WARNING, "number %d", 0))
            job.collector.wait_for(lambda _: said(job, "number") == all_of("number", 1))
        for number in range(1, 300):
            worker.ask("log", (logging.WARNING, "number %d", number))
        cut.leave()
        after = start()
        with Tunnel(job.client.address, after.take, after.give):
            assert after.address == address
            for number in range(300, 400):
                worker.ask("log", (logging.WARNING, "number %d", number))
            job.collector.wait_for(lambda _: said(job, "number") == all_of("number", 400))
            assert job.client.flush().acked == (worker.rank,)
            assert said(job, "number") == all_of("number", 400)
            job.end(worker)
            after.close()


def test_a_relay_leaves_what_was_not_carried_if_its_process_exits() -> None:
    with tree() as job:
        worker, worker_pid = job.start(last_words)
        pipe, pid, ask = job.start_tunnelled(left_by_process)
        with Tunnel(job.client.address, lambda _: ask("take", 0.01), lambda data: ask("give", data)):
            worker.send(answer(pipe))
            assert answer(worker) == "joined"
            until(lambda: len(job.client.stats()) > 0, what="the worker to be known")
        ask.close()
        worker.send(500)
        assert answer(worker) == "done"
        until(lambda: not run_directory.lives(worker_pid), what="the end of the worker")
        pipe.send("end")
        until(lambda: not run_directory.lives(pid), DEADLINE, "the end of the relay's process")
        pipe, pid, ask = job.start_tunnelled()
        with Tunnel(job.client.address, lambda _: ask("take", 0.01), lambda data: ask("give", data)):
            answer(pipe)
            job.collector.wait_for(lambda _: said(job, "last") == all_of("last", 500))
            assert not job.client.flush().missing
            assert said(job, "last") == all_of("last", 500)
            job.relays.append((pipe, pid))
            job.end()


def test_lines_that_a_relay_had_read_and_not_passed_on_are_counted_by_the_next_one() -> None:
    with tree() as job, host_relays(job) as start:
        cut = start()
        with Tunnel(job.client.address, cut.take, cut.give):
            worker = job.worker(cut.address)
            worker.ask("print", "line 0")
            job.collector.wait_for(lambda _: said(job, "line") == all_of("line", 1))
            assert not job.client.flush().missing
            until(lambda: cut._relay._uplink.lines.left() == {}, what="the receipt of that line")  # type: ignore[union-attr]
        for number in range(1, 21):
            worker.ask("print", f"line {number}")
        until(lambda: cut.client.stats()[worker.rank].lines == 21, what="the relay to read the lines")
        cut.leave()
        after = start()
        with Tunnel(job.client.address, after.take, after.give):
            assert after.address
            worker.ask("print", "line 21")
            job.collector.wait_for(lambda _: "line 21" in job.messages)
            assert not job.client.flush().missing
            assert job.client.stats()[worker.rank].dropped == {"unsent": 20}
            assert f"dropped 20 records (rank {worker.rank}, INFO, unsent)" in job.messages
            assert said(job, "line") == Counter(["line 0", "line 21"])
            job.end(worker)
            after.close()
