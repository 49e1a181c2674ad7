"""Ray on three hosts that share nothing but a network: faults of the network, of relays, and of a host."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import LoggingMeshClient
from meshlog_handler.testing import RecordCollector
from tests.engines.needed import need
from tests.process.procs import DEADLINE, ROOT
from tests.waiting import until

from .hosts import Host, hosts, need_hosts
from .suite import Suite

ray: Any = need("ray")
need_hosts()

from meshlog_handler.integrations.ray import attach  # noqa: E402  # needs ray

from ..engines import ray_programs as programs  # noqa: E402  # needs ray

pytestmark = pytest.mark.timeout(300)  # a node takes ten seconds to start on a busy machine


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """A head here, and a node on each of three hosts."""
    from ray._private.node import Node
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, hosts(3, tmp_path_factory.mktemp("hosts")) as (here, made):
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        head = Cluster()
        try:
            node: Node = head.add_node(node_name="head", num_cpus=1, include_dashboard=False, node_ip_address=here)
            script = str(Path(sys.executable).with_name("ray"))
            ray.init(address=head.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
            for count, host in enumerate(made, 2):
                host.run(
                    script,
                    "start",
                    "--block",
                    f"--address={node.gcs_address}",
                    f"--node-ip-address={host.address}",
                    f"--node-name={host.name}",
                    "--num-cpus=1",
                    f'--resources={{"{host.name}": 100}}',
                    "--object-store-memory=80000000",
                    env={"PYTHONPATH": str(ROOT)},
                )
                until(lambda count=count: alive() == count, 4 * DEADLINE, "the nodes")  # type: ignore[misc]
            yield made
        finally:
            ray.shutdown()
            head.shutdown()


def alive() -> int:
    """Return the number of nodes."""
    return sum(each["Alive"] for each in ray.nodes())


@contextlib.contextmanager
def attached() -> Iterator[tuple[LoggingMeshClient, RecordCollector]]:
    collector = RecordCollector()
    logs = attach([collector])
    try:
        logs.set_mode(True, None, logging.INFO)
        yield logs, collector
    finally:
        logs.drain_and_stop()


def logger_on(host: Host) -> Any:
    return ray.remote(programs.Counter).options(num_cpus=0, resources={host.name: 1}).remote()


def test_faults_between_hosts(cluster: list[Host]) -> None:
    with attached() as (logs, collector):
        actors = {host.name: logger_on(host) for host in cluster}

        def log(text: str) -> list[Any]:
            return [actors[host.name].log.remote(logging.INFO, text) for host in cluster]

        suite = Suite(logs, collector, cluster, log, partial(ray.get, timeout=4 * DEADLINE))
        suite.log_while("quiet", 200)
        suite.log_while("cut", 200, suite.cut)
        suite.log_while("killed", 200, lambda: [host.kill(b"_NodeRelay") for host in cluster])
        nodes = {vars(record)["coords"]["node"] for record in collector.records if record.name == programs.NAME}
        assert nodes == {host.name for host in cluster}
        suite.lose_hosts()
        assert os.getpid() not in cluster[0].processes()
