"""Dask on three hosts that share nothing but a network: a cut of the network, a slow network, and a host that is gone."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import LoggingMeshClient
from meshlog_handler.testing import RecordCollector
from tests.engines.needed import need
from tests.waiting import until

from .hosts import Host, hosts, need_hosts
from .link import Pace
from .suite import Suite

distributed: Any = need("distributed")
need_hosts()

from meshlog_handler.integrations.dask import attach  # noqa: E402  # needs distributed

from ..engines import dask_tasks as tasks  # noqa: E402  # needs distributed
from ..engines.dask_clusters import ROOT, SECONDS, ByCommands  # noqa: E402  # needs distributed

SLOW = Pace(delay=0.3, loss=0.05)

pytestmark = pytest.mark.timeout(300)  # a worker takes seconds to start on a busy machine


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ByCommands, list[Host]]]:
    """A scheduler here, and a worker with a nanny on each of three hosts, the first of which may have a slow network."""
    directory = tmp_path_factory.mktemp("hosts")
    with hosts(3, directory, slow=1) as (here, made), contextlib.closing(ByCommands(directory, here)) as scheduler:
        for host in made:
            start_worker(host, directory)
        yield scheduler, made


def start_worker(host: Host, directory: Path) -> None:
    """Start a worker on a host."""
    options = ("--nthreads", "1", "--no-dashboard", "--host", host.address, "--name", host.name)
    where = ("--scheduler-file", str(directory / "scheduler.json"), "--local-directory", str(directory / host.name))
    host.run(sys.executable, "-m", "dask", "worker", *options, *where, env={"PYTHONPATH": str(ROOT)})


def workers_of(client: Any) -> dict[str, str]:
    """Return the addresses of the workers that the scheduler has now, by name."""
    return {worker["name"]: each for each, worker in client.scheduler_info(n_workers=-1)["workers"].items()}


@contextlib.contextmanager
def attached(cluster: ByCommands, made: list[Host]) -> Iterator[tuple[Any, LoggingMeshClient, RecordCollector]]:
    """A client of the cluster, its logging, and the records that are shown."""
    collector = RecordCollector()
    with distributed.Client(scheduler_file=cluster.file) as client:
        names = {host.name for host in made}
        until(lambda: workers_of(client).keys() >= names, SECONDS, "the workers to join")
        logs = attach(client, [collector])
        logs.set_mode(True, None, logging.INFO)
        try:
            yield client, logs, collector
        finally:
            logs.drain_and_stop(SECONDS)


def test_faults_between_hosts(cluster: tuple[ByCommands, list[Host]]) -> None:
    scheduler, made = cluster
    with attached(scheduler, made) as (client, logs, collector):
        address = workers_of(client)
        gone = [host for host in made if host.name not in address]
        assert not gone, f"attach() costs no worker; have {address}\n" + "\n".join(host.log() for host in gone)

        def log(text: str) -> list[Any]:
            workers = [address[host.name] for host in made]
            return [client.submit(tasks.log, logging.INFO, text, workers=[worker], pure=False) for worker in workers]

        suite = Suite(logs, collector, made, log, client.gather)
        suite.log_while("quiet", 80)
        suite.log_while("cut", 80, suite.cut)
        made[0].become(SLOW)
        suite.log_while("slow", 20)
        made[0].become(Pace())
        suite.lose_hosts()
