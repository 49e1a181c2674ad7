"""Infinite waits, waits of months, and clocks that a test replaces cause no busy loop and no delay."""

from __future__ import annotations

import inspect
import logging
import queue
import time
from collections.abc import Callable
from contextlib import ExitStack
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import pytest

import meshlog_handler
from meshlog_handler import JournalQueue, LogClient, LogRelay, MeshFuture, SettingError, this_host
from meshlog_handler.cli.view.observer import Observer
from meshlog_handler.client.relay.tunnel import HostRelay
from meshlog_handler.testing import RecordCollector, collected
from meshlog_handler.transport.runs import runs

from . import workers
from .procs import DEADLINE, join_all, started
from .test_flush import mesh

MONTH = 30 * 86_400.0
INF = float("inf")
INTERNAL = ("ask", "end", "find", "refuse_commands")
"""What other parts of the package call."""


@pytest.mark.parametrize("timeout", [None, INF, MONTH], ids=str)
def test_a_flush_with_a_very_long_timeout_returns_its_receipt(timeout: float | None) -> None:
    with mesh(2) as m:
        assert m.logs.flush(timeout).acked == (0, 1)


def with_timeout(*owners: object) -> dict[str, Callable[..., object]]:
    """Return the public functions and methods of these objects that take a timeout."""
    found: dict[str, Callable[..., object]] = {}
    for owner in owners:
        kind = owner if inspect.ismodule(owner) else type(owner)  # no property is evaluated
        for name in (name for name in dir(kind) if not name.startswith("_") and name not in INTERNAL):
            function = getattr(kind, name)
            known = inspect.isfunction(function) and function.__module__.startswith("meshlog_handler")
            if known and "timeout" in inspect.signature(function).parameters:
                found[f"{kind.__name__}.{name}"] = getattr(owner, name)
    return found


class Owners:
    """One of each object whose public methods take a timeout, and these methods by name."""

    def __init__(self, stack: ExitStack) -> None:
        self.logs = stack.enter_context(collected())
        self.procs = stack.enter_context(this_host().spawn_procs(per_host={"gpus": 1}, handlers=[RecordCollector()]))
        relay = stack.enter_context(LogRelay(self.logs.address))
        source: queue.Queue[logging.LogRecord] = queue.Queue()
        reader = self.logs.client.listen(source)
        observer = stack.enter_context(Observer.connect(next(run for run in runs() if run.address == self.logs.address)))
        self.flushed = self.procs.flush()
        self.own_queue = JournalQueue()
        owners = (self.logs.client, self.logs.collector, self.procs, self.procs.logging, self.flushed, relay, reader)
        self.calls = with_timeout(meshlog_handler, *owners)
        self.calls |= {
            "Observer.flush": observer.flush,
            "Observer.stacks": observer.stacks,
            "JournalQueue.get": self.own_queue.get,
        }
        self.calls["RecordCollector.wait_for"] = partial(self.logs.collector.wait_for, lambda records: True)
        expected = {f"LogClient.{name}" for name in ("flush", "stacks", "insight", "stop")}
        expected |= {"meshlog_handler.complete", "LogRelay.stop", "QueueReader.stop", "ProcMesh.stop", "MeshFuture.get"}
        assert expected <= self.calls.keys()


def test_an_invalid_timeout_raises_an_error_at_every_public_call() -> None:
    with ExitStack() as stack:
        owners = Owners(stack)
        nobody: Any = None  # the timeout is checked first
        calls = owners.calls | {
            f"HostRelay.{each.__name__}": partial(each, nobody) for each in (HostRelay.take, HostRelay.close)
        }
        for timeout in (float("nan"), "3", -1, -0.001, -INF):
            for name, call in calls.items():
                with pytest.raises(SettingError, match="timeout=") as raised:
                    call(timeout=timeout)
                assert repr(timeout) in str(raised.value), name
        assert owners.logs.client.running, "a call with an invalid timeout does nothing"
        assert owners.flushed.get(DEADLINE).acked == (0,)
        assert owners.procs.flush(DEADLINE).get(DEADLINE).acked == (0,)


@pytest.mark.parametrize(
    "timeout", [None, INF, 10**5000, MONTH, 10**300, Decimal(20), Decimal("1e400"), Fraction(20)], ids=type
)
def test_every_public_call_takes_a_timeout_of_any_kind_and_length(timeout: Any) -> None:
    with ExitStack() as stack:
        owners = Owners(stack)
        owners.own_queue.put(logging.makeLogRecord({"msg": "for get"}))
        for name in sorted(owners.calls, key=lambda name: ("stop" in name, "LogClient" in name)):  # the client's own last
            returned = owners.calls[name](timeout=timeout)
            if isinstance(returned, MeshFuture):
                returned.get(DEADLINE)
        assert not owners.logs.client.running


def test_a_window_of_a_month_delays_lines_without_a_busy_loop() -> None:
    with (
        collected(aggregate_window_sec=MONTH) as logs,
        started("fork", workers.log_numbered, [(logs.address, 10, "return")]) as procs,
    ):
        join_all(procs)
        spent = time.process_time()
        logs.client.stats()
        time.sleep(0.3)  # waits for no event; a client in a busy loop would use the processor in this time
        assert time.process_time() - spent < 0.15
        logs.flush()
        assert [record.levelname for record in logs.records] == ["INFO"]


@pytest.mark.parametrize("for_sec", [MONTH, 1e300])
def test_ranks_still_follow_commands_after_a_level_is_set_for_a_month(for_sec: float) -> None:
    collector = RecordCollector()
    with this_host().spawn_procs(per_host={"gpus": 2}, handlers=[collector], start_method="fork") as procs:
        logs = procs.logging
        logs.set_level(logging.DEBUG, for_sec=for_sec)
        logs.set_level(logging.WARNING, logger="other")
        assert procs.flush(DEADLINE).get().acked == (0, 1)


def replace(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], now: float) -> None:
    """Replace these clocks with ones that always return `now`."""
    for name in names:
        monkeypatch.setattr(time, name, lambda: now)


REPLACED = {
    "frozen": (("time", "monotonic"), time.monotonic()),
    "frozen at a date": (("time", "monotonic"), 1.7e9),
    "stepped back": (("time",), 1.0),
}


@pytest.mark.parametrize("how", REPLACED)
def test_replaced_clocks_delay_nothing(how: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        replace(monkeypatch, *REPLACED[how])
        collector = RecordCollector()
        with LogClient(collector, aggregate_window_sec=0.05) as client:
            with started("fork", workers.log_numbered, [(client.address, 3, "return")]) as procs:
                join_all(procs)
            collector.wait_for(lambda records: len(records) == 1)  # the window ends even if the replaced clock does not advance
            monkeypatch.undo()
            spent = time.process_time()
            time.sleep(0.3)  # as above
            assert time.process_time() - spent < 0.15
            assert client.flush(5.0).missing == ()
