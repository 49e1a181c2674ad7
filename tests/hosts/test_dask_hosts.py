"""Dask on two hosts that share nothing but a network: a cut of the network, and a host that is gone."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import FlushTimeout, LoggingMeshClient
from meshlog_handler.testing import RecordCollector
from tests.engines.needed import need

from .hosts import Host, hosts, need_hosts

distributed: Any = need("distributed")
need_hosts()

from meshlog_handler.integrations.dask import attach  # noqa: E402  # needs distributed

from ..engines import dask_tasks as tasks  # noqa: E402  # needs distributed
from ..engines.dask_clusters import ROOT, SECONDS, ByCommands  # noqa: E402  # needs distributed

pytestmark = pytest.mark.timeout(300)  # a worker takes seconds to start on a busy machine


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ByCommands, list[Host]]]:
    """A scheduler here, and a worker with a nanny on each of two hosts."""
    directory = tmp_path_factory.mktemp("hosts")
    with hosts(2, directory) as (here, made), contextlib.closing(ByCommands(directory, here)) as scheduler:
        for host in made:
            start_worker(host, directory)
        yield scheduler, made


def start_worker(host: Host, directory: Path) -> None:
    """Start a worker on a host."""
    options = ("--nthreads", "1", "--no-dashboard", "--host", host.address, "--name", host.name)
    where = ("--scheduler-file", str(directory / "scheduler.json"), "--local-directory", str(directory / host.name))
    host.run(sys.executable, "-m", "dask", "worker", *options, *where, env={"PYTHONPATH": str(ROOT)})


@contextlib.contextmanager
def attached(cluster: ByCommands) -> Iterator[tuple[Any, LoggingMeshClient, RecordCollector]]:
    """A client of the cluster, its logging, and the records that are shown."""
    collector = RecordCollector()
    with distributed.Client(scheduler_file=cluster.file) as client:
        client.wait_for_workers(2, SECONDS)
        logs = attach(client, [collector])
        logs.set_mode(True, None, logging.INFO)
        try:
            yield client, logs, collector
        finally:
            logs.drain_and_stop(SECONDS)


def shown(collector: RecordCollector, word: str) -> list[str]:
    return sorted(text for text in collector.messages if text.startswith(word))


def log_while(client: Any, collector: RecordCollector, word: str, fault: Callable[[], object]) -> None:
    """Let the workers log numbers while a fault happens; each number must be shown once for each of them."""
    sent = [f"{word} {number}" for number in range(80)]
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    assert len(workers) == 2
    calls = []
    for number, text in enumerate(sent):
        calls += [client.submit(tasks.log, logging.INFO, text, workers=[worker], pure=False) for worker in workers]
        if number == 40:
            client.gather(calls)
            fault()
    client.gather(calls)
    expected = sorted(2 * sent)
    with contextlib.suppress(TimeoutError):  # what is missing is seen below
        collector.wait_for(lambda _: len(shown(collector, word)) >= len(expected), SECONDS)
    assert sorted(Counter(expected) - Counter(shown(collector, word))) == []
    assert shown(collector, word) == expected


def test_faults_between_hosts(cluster: tuple[ByCommands, list[Host]]) -> None:
    scheduler, made = cluster

    def cut() -> None:
        made[0].cut()
        time.sleep(2.0)  # the fault itself
        made[0].join()

    with attached(scheduler) as (client, logs, collector):
        log_while(client, collector, "quiet", lambda: None)
        log_while(client, collector, "cut", cut)
        assert not logs.flush(SECONDS).missing
        made[0].cut()
        with pytest.raises(FlushTimeout, match=f"on {made[0].name}") as unreached:
            logs.flush(0.5)
        assert unreached.value.receipt.hosts == (made[0].name,)
        assert len(unreached.value.receipt.acked) == 1
        made[0].join()
        app = [vars(record) for record in collector.records if record.name == "app"]
        assert {record["hostname"] for record in app} == {host.name for host in made}
        lost = {record["rank"] for record in app if record["hostname"] == made[1].name}
        made[1].kill()
        collector.wait_for(
            lambda records: all(
                any("gone" in r.getMessage() and str(rank) in r.getMessage() for r in records) for rank in lost
            ),
            SECONDS,
        )
        client.submit(tasks.log, logging.INFO, "after", pure=False).result()
        assert not logs.flush(SECONDS).missing
        assert shown(collector, "after") == ["after"]
