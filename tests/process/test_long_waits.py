"""Infinite waits, waits of months, and clocks that a test replaces cause no busy loop and no delay."""

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
def test_a_flush_with_a_very_long_timeout_returns_its_receipt(timeout: float | None) -> None:
    with mesh(2) as m:
        assert m.logs.flush(timeout).acked == (0, 1)


@pytest.mark.parametrize("timeout", [float("nan"), "3"])
def test_an_invalid_timeout_raises_an_error_at_the_call(timeout: float) -> None:
    with collected() as logs, pytest.raises(SettingError):
        logs.flush(timeout)


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
