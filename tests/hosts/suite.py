"""What engines are tried with on several hosts: workers log numbers while a fault happens; at the end, a host is gone."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from meshlog_handler import FlushTimeout, LoggingMeshClient
from meshlog_handler.testing import RecordCollector

from .hosts import Host

SECONDS = 60.0
_CUT_SEC = 2.0


class Suite:
    """An engine with one worker on each host.

    `log` begins to log a text on all of them, and returns calls; `wait` awaits these.
    """

    def __init__(
        self,
        logs: LoggingMeshClient,
        collector: RecordCollector,
        made: list[Host],
        log: Callable[[str], list[Any]],
        wait: Callable[[list[Any]], object],
    ) -> None:
        self._logs = logs
        self._collector = collector
        self._made = made
        self._log = log
        self._wait = wait

    def log_while(self, word: str, count: int, fault: Callable[[], object] = lambda: None) -> None:
        """Let all workers log numbers while a fault happens; each number must be shown once for each of them."""
        calls = []
        sent = [f"{word} {number}" for number in range(count)]
        for number, text in enumerate(sent):
            calls += self._log(text)
            if number == count // 2:
                self._wait(calls)
                fault()
        self._wait(calls)
        expected = sorted(len(self._made) * sent)
        with contextlib.suppress(TimeoutError):  # what is missing is seen below
            self._collector.wait_for(lambda _: len(self._shown(word)) >= len(expected), SECONDS)
        assert sorted(Counter(expected) - Counter(self._shown(word))) == []
        assert self._shown(word) == expected

    def cut(self) -> None:
        """Cut the network of the first host, and join it again."""
        self._made[0].cut()
        time.sleep(_CUT_SEC)  # the fault itself
        self._made[0].join()

    def lose_hosts(self) -> None:
        """Cut the first host: a flush names it. Then kill the last one: its rank is reported, and the others go on."""
        first, last = self._made[0], self._made[-1]
        assert not self._logs.flush(SECONDS).missing
        first.cut()
        with pytest.raises(FlushTimeout, match=f"on {first.name}") as unreached:
            self._logs.flush(0.5)
        first.join()
        assert unreached.value.receipt.hosts == (first.name,)
        assert len(unreached.value.receipt.acked) == len(self._made) - 1
        app = [vars(record) for record in self._collector.records if record.name == "app"]
        assert {record["hostname"] for record in app} == {host.name for host in self._made}
        (lost,) = {record["rank"] for record in app if record["hostname"] == last.name}
        last.kill()
        self._collector.wait_for(
            lambda records: any("gone" in r.getMessage() and str(lost) in r.getMessage() for r in records), SECONDS
        )
        self._made.remove(last)
        assert not self._logs.flush(SECONDS).missing
        self.log_while("after", 10)

    def _shown(self, word: str) -> list[str]:
        return sorted(text for text in self._collector.messages if text.startswith(word))
