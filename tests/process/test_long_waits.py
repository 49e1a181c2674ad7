"""Waits without end, waits of months, and clocks that a program's tests replace: nothing spins, nothing is held up."""

from __future__ import annotations

import logging
import time

import pytest

from meshlog_handler import LogClient, SettingError, this_host
from meshlog_handler.testing import RecordCollector, collected

from . import workers
from .procs import DEADLINE, join_all, started
from .test_flush import mesh

MONTH = 30 * 86_400.0
INF = float("inf")


@pytest.mark.parametrize("timeout", [None, INF, MONTH], ids=str)
def test_a_flush_without_end_gets_its_receipt(timeout: float | None) -> None:
    with mesh(2) as m:
        assert m.logs.flush(timeout).acked == (0, 1)


@pytest.mark.parametrize("timeout", [float("nan"), "3"])
def test_what_is_no_timeout_is_refused_at_the_call(timeout: float) -> None:
    with collected() as logs, pytest.raises(SettingError):
        logs.flush(timeout)


def test_a_window_of_a_month_holds_back_and_does_not_spin() -> None:
    with (
        collected(aggregate_window_sec=MONTH) as logs,
        started("fork", workers.log_numbered, [(logs.address, 10, "return")]) as procs,
    ):
        join_all(procs)
        spent = time.process_time()
        logs.client.stats()
        time.sleep(0.3)  # no event is hoped for: this is the time in which a client that spins would use the processor
        assert time.process_time() - spent < 0.15
        logs.flush()
        assert [record.levelname for record in logs.records] == ["INFO"]


@pytest.mark.parametrize("for_sec", [MONTH, 1e300])
def test_a_level_for_a_month_leaves_the_ranks_able_to_obey(for_sec: float) -> None:
    collector = RecordCollector()
    with this_host().spawn_procs(per_host={"gpus": 2}, handlers=[collector], start_method="fork") as procs:
        logs = procs.logging
        logs.set_level(logging.DEBUG, for_sec=for_sec)
        logs.set_level(logging.WARNING, logger="other")
        assert procs.flush(DEADLINE).get().acked == (0, 1)


def replace(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], now: float) -> None:
    """Let clocks stand still at `now`."""
    for name in names:
        monkeypatch.setattr(time, name, lambda: now)


REPLACED = {
    "frozen": (("time", "monotonic"), time.monotonic()),
    "frozen at a date": (("time", "monotonic"), 1.7e9),
    "stepped back": (("time",), 1.0),
}


@pytest.mark.parametrize("how", REPLACED)
def test_replaced_clocks_hold_up_nothing(how: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        replace(monkeypatch, *REPLACED[how])
        collector = RecordCollector()
        with LogClient(collector, aggregate_window_sec=0.05) as client:
            with started("fork", workers.log_numbered, [(client.address, 3, "return")]) as procs:
                join_all(procs)
            collector.wait_for(lambda records: len(records) == 1)  # the window ends although time stands still
            monkeypatch.undo()
            spent = time.process_time()
            time.sleep(0.3)  # as above
            assert time.process_time() - spent < 0.15
            assert client.flush(5.0).missing == ()
