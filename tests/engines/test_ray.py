"""Ray: tasks and actors on a real cluster of two nodes, and under a plain ``ray.init``, attached and detached again."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import LoggingMeshClient, SettingError
from meshlog_handler.testing import RecordCollector
from meshlog_handler.transport import run_directory
from tests.process.documents import Page
from tests.process.procs import DEADLINE, ROOT, importing, run_python
from tests.waiting import until

from .needed import need

ray: Any = need("ray")

from meshlog_handler.integrations.ray import attach  # noqa: E402  # needs ray

from . import ray_programs as programs  # noqa: E402  # needs ray

pytestmark = pytest.mark.timeout(300)  # a node takes ten seconds to start on a busy machine

NODES = ("alpha", "beta")
PAGE = Page("docs/ray.md")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes on this machine, with this process as its driver."""
    from ray.cluster_utils import Cluster

    started = Cluster()
    try:
        for name in NODES:
            started.add_node(node_name=name, num_cpus=1, resources={name: 100}, include_dashboard=False)
        ray.init(address=started.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
        yield started
    finally:
        try:
            ray.shutdown()
        finally:
            started.shutdown()


@pytest.fixture(params=[False, True], ids=["direct", "relayed"])
def relay(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@contextlib.contextmanager
def attached(**options: Any) -> Iterator[tuple[LoggingMeshClient, RecordCollector]]:
    """Attach with a collector that gets each record at once; detach at the end."""
    collector = RecordCollector()
    logs = attach([collector], **options)
    try:
        logs.set_mode(True, None, logging.INFO)
        yield logs, collector
    finally:
        logs.drain_and_stop()


def on(node: str, **options: Any) -> dict[str, Any]:
    """Return the options that place a task or an actor on a node."""
    return {"num_cpus": 0, "resources": {node: 1}, **options}


def run(fn: Any, *args: Any, **options: Any) -> Any:
    """Run a task; return its result."""
    return ray.get(ray.remote(fn).options(**options).remote(*args), timeout=DEADLINE)


def said(text: str, *place: Any) -> list[tuple[Any, ...]]:
    """Return what should be shown of `programs.say`."""
    streams = {"logged": None, "told": None, "printed": "stdout", "echoed": "stdout", "warned": "stderr"}
    return [(f"{verb} {text}", stream, *place) for verb, stream in streams.items()]


def shown(collector: RecordCollector) -> set[tuple[Any, ...]]:
    """Return the text, stream, process, node and actor of everything shown; each appears once."""
    records = [vars(record) | {"text": record.getMessage()} for record in collector.records]
    found = [(r["text"], r["stream"], r["process"], r["coords"].get("node"), r["coords"].get("actor")) for r in records]
    assert len(set(found)) == len(found)
    return set(found)


@pytest.mark.usefixtures("cluster")
def test_tasks_and_actors_on_all_nodes_are_shown_with_node_and_name(relay: bool) -> None:
    with attached(relay=relay) as (logs, collector):
        pids = {node: run(programs.say_and_let_say, node, **on(node)) for node in NODES}
        actor = ray.remote(programs.Counter).options(**on("beta")).remote()
        named = ray.remote(programs.Counter).options(**on("alpha", name="bob")).remote()
        actors = ray.get([actor.say.remote("unnamed"), named.say.remote("named")], timeout=DEADLINE)
        receipt = logs.flush()
        below = {vars(r)["process"]: vars(r)["coords"]["node"] for r in collector.records if "below" in r.getMessage()}
        ranks = {vars(r)["process"]: vars(r)["rank"] for r in collector.records}
        assert shown(collector) == {
            *(line for node, (pid, _) in pids.items() for line in said(node, pid, node, None)),
            *(line for node, (_, pid) in pids.items() for line in said(f"below {node}", pid, below[pid], None)),
            *said("unnamed", actors[0], "beta", "Counter"),
            *said("named", actors[1], "alpha", "bob"),
        }
    assert len(set(ranks.values())) == len(ranks)
    assert set(receipt.acked) <= set(ranks.values())  # Ray ends idle workers
    assert receipt.missing == ()


@pytest.mark.usefixtures("cluster")
def test_below_a_relay_one_rank_logs_details_and_an_exception_arrives_in_one_piece() -> None:
    with attached(relay=True) as (logs, collector):
        actors = [ray.remote(programs.Counter).options(**on(node)).remote() for node in NODES]
        pids = ray.get([actor.say.remote("x") for actor in actors], timeout=DEADLINE)
        logs.flush()
        rank = next(vars(r)["rank"] for r in collector.records if r.process == pids[1])
        collector.clear()
        logs.set_level("DEBUG", programs.NAME, ranks=[rank])
        ray.get([actor.log.remote(logging.DEBUG, "details") for actor in actors], timeout=DEADLINE)
        with pytest.raises(ValueError, match="boom"):
            ray.get(actors[0].fail.remote("boom"), timeout=DEADLINE)
        logs.flush()
        details, failed = sorted(collector.records, key=lambda record: record.levelno)  # ranks have no fixed order
    assert (details.getMessage(), vars(details)["rank"]) == ("details", rank)
    assert (failed.getMessage(), failed.levelno, failed.process) == ("failed", logging.ERROR, pids[0])
    assert str(failed.exc_text).startswith("Traceback")
    assert str(failed.exc_text).endswith("ValueError: boom")


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_loses_nothing(relay: bool) -> None:
    count = 2000
    with attached(relay=relay) as (logs, collector):
        with pytest.raises(ray.exceptions.WorkerCrashedError):
            run(programs.log_and_die, count, **on("beta", max_retries=0))
        collector.wait_for(lambda records: len(records) >= 2 * count, DEADLINE)
        receipt = logs.flush()
        texts = collector.messages
    assert [text for text in texts if text.startswith("number")] == [f"number {number}" for number in range(count)]
    assert [text for text in texts if text.startswith("line")] == [f"line {number}" for number in range(count)]
    assert (receipt.missing, receipt.dropped) == ((), 0)


@pytest.mark.usefixtures("cluster")
def test_detached_workers_are_unchanged(relay: bool) -> None:
    early = ray.remote(programs.Counter).options(**on("beta")).remote()
    before = ray.get(early.state.remote(), timeout=DEADLINE)
    with attached(relay=relay, actors=[early]) as (logs, collector):
        late = ray.remote(programs.Counter).options(**on("alpha")).remote()
        pids = ray.get([early.say.remote("early"), late.say.remote("late")], timeout=DEADLINE)
        logs.flush()
        assert shown(collector) == {*said("early", pids[0], "beta", "Counter"), *said("late", pids[1], "alpha", "Counter")}
        joined = ray.get([each.state.remote() for each in (early, late)], timeout=DEADLINE)
        assert joined == [{"level": logging.INFO, "handlers": ["MeshHandler"], "captured": True}] * 2
    for actor in (early, late):  # the actors notice the end without a message
        until(lambda actor=actor: ray.get(actor.state.remote(), timeout=DEADLINE) == before, DEADLINE)  # type: ignore[misc]
    assert run(programs.state, **on("beta")) == before


def test_actors_of_another_job_join_and_busy_ones_are_named(cluster: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen([sys.executable, "-m", f"{__package__}.ray_drivers", "killed", cluster.address], cwd=ROOT) as driver:
        assert driver.wait(2 * DEADLINE) == -signal.SIGKILL
    left = ray.get_actor("left", namespace="killed")
    ray.kill(left, no_restart=False)
    begun = time.monotonic()

    def restarted() -> bool:
        with contextlib.suppress(ray.exceptions.ActorUnavailableError):  # it is still starting
            return bool(ray.get(left.log.remote(logging.INFO, "restarted"), timeout=DEADLINE))
        return False

    until(restarted, DEADLINE)
    assert time.monotonic() - begun < 20  # a worker whose job has ended does not wait for a relay
    busy = ray.remote(programs.Counter).options(**on("alpha")).remote()
    calling = busy.sleep.remote(8.0)
    try:
        with attached() as (logs, collector):
            begun = time.monotonic()
            assert attach(actors=[left, busy]) is logs
            assert time.monotonic() - begun < 8
            assert re.search(r"meshlog: Actor\(Counter, .*is busy", capfd.readouterr().err)
            ray.get(left.log.remote(logging.INFO, "of another job"), timeout=DEADLINE)
            ray.get(calling, timeout=DEADLINE)
            ray.get(busy.log.remote(logging.INFO, "no more busy"), timeout=DEADLINE)
            logs.flush()
            assert {"of another job", "no more busy"} <= set(collector.messages)
    finally:
        ray.kill(left)


def test_ray_can_be_attached_again_after_a_restart() -> None:
    done = run_python("-m", f"{__package__}.ray_drivers", "init_again", timeout=4 * DEADLINE)
    for word in ("first", "second", "third"):
        # Ray kills its workers: the exit report of the last one includes its last lines.
        assert len(re.findall(rf"^\[0 [^-].*logged {word}$", done.stderr, re.MULTILINE)) == 1, done


def test_a_node_that_joins_later_gets_its_relay(cluster: Any) -> None:
    with attached(relay=True) as (logs, collector):
        relays = relay_processes()
        node = cluster.add_node(node_name="gamma", num_cpus=1, resources={"gamma": 100})
        try:
            pid = run(programs.say, "late", **on("gamma"))
            logs.flush()
            assert shown(collector) == set(said("late", pid, "gamma", None))
        finally:
            cluster.remove_node(node)
        until(lambda: logs.ranks == () and relay_processes() <= relays, DEADLINE, "the relay to be gone")
        run_directory.clean(run_directory.base(), 0.0)  # as the next client of that node would do
        run(programs.say, "on", **on("alpha"))
        logs.flush()
        assert "printed on" in collector.messages


def relay_processes() -> set[int]:
    """Return the processes of the relays on the nodes."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if entry.name.isdigit() and b"_NodeRelay" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


@pytest.mark.usefixtures("cluster")
def test_killed_relays_are_replaced_and_nothing_is_lost_or_shown_twice() -> None:
    with attached(relay=True) as (logs, collector):
        actors = [ray.remote(programs.Counter).options(**on(node)).remote() for node in NODES]
        sent = []
        for kill in range(2):
            for number in range(100):
                text = f"number {number} of {kill}"
                sent.append(text)
                ray.get([actor.log.remote(logging.INFO, text) for actor in actors], timeout=DEADLINE)
                if number == 50:
                    for pid in relay_processes():
                        os.kill(pid, signal.SIGKILL)
            collector.wait_for(lambda records: len(numbered(records)) >= 2 * len(sent), 2 * DEADLINE)
        assert not logs.flush().missing
        assert sorted(numbered(collector.records)) == sorted(2 * sent)


def numbered(records: list[logging.LogRecord]) -> list[str]:
    """Return the messages of the test above."""
    return [record.getMessage() for record in records if record.getMessage().startswith("number ")]


@pytest.mark.usefixtures("cluster")
def test_attaching_again_returns_the_same_client() -> None:
    with attached() as (logs, first):
        second = RecordCollector()
        assert attach() is logs
        assert attach([second]) is logs
        run(programs.say, "x", **on("alpha"))
        logs.flush()
        assert first.messages == []
        assert "printed x" in second.messages
    with attached() as (other, _):
        assert other is not logs


@pytest.mark.usefixtures("cluster")
def test_attaching_names_the_hook_setting_when_ray_cannot_be_given_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.actor import ActorClass

    monkeypatch.delattr(ActorClass, "_remote")
    with pytest.raises(SettingError, match=r"worker_process_setup_hook.*before attach"):
        attach()


@pytest.mark.parametrize("log_to_driver", [True, False])
def test_a_driver_shows_each_line_once_whether_or_not_ray_shows_lines_too(log_to_driver: bool, tmp_path: Path) -> None:
    # -u: the test looks for Ray's output while the driver waits
    words = [sys.executable, "-u", "-m", f"{__package__}.ray_drivers", "attach_and_detach", str(log_to_driver)]
    path = tmp_path / "shown.txt"
    with (
        path.open("w") as output,
        subprocess.Popen(words, cwd=ROOT, env=importing(), stdin=subprocess.PIPE, stdout=output, stderr=output) as driver,
    ):
        try:
            if log_to_driver:
                until(lambda: path.read_text().count(" detached") == 4 or driver.poll() is not None, 2 * DEADLINE)
            driver.communicate(timeout=2 * DEADLINE)
        finally:
            driver.kill()
    text = path.read_text()
    assert driver.returncode == 0, text
    assert "Call ray.init() before attach()." in text
    by_us = re.findall(r"^\[(\d+) \S+/-\] (\w+) (.*)$", text, re.MULTILINE)
    verbs = ("echoed", "logged", "printed", "told", "warned")
    assert sorted(by_us) == [("0", verb, when) for verb in verbs for when in ("at the end", "attached")], text
    by_ray = re.findall(r"^\S*\(say pid=\d+\)\S* (\w+) (.*)$", text, re.MULTILINE)
    expected = [(verb, when) for verb in ("echoed", "printed", "told", "warned") for when in ("before", "detached")]
    assert sorted(by_ray) == (expected if log_to_driver else []), text
    assert ":task_name:" not in text


@pytest.mark.parametrize("driver", ["own_hook", "ours_as_hook"])
def test_a_hook_given_to_ray_in_the_documented_way_is_used(driver: str) -> None:
    done = run_python("-m", f"{__package__}.ray_drivers", driver, timeout=3 * DEADLINE)
    run_directory.clean(
        run_directory.base(), 0.0
    )  # the run directory of the relay that ended with Ray, as the next client would do
    assert done.stdout.count("printed hooked") == done.stderr.count("logged hooked") == 1, done
    assert ("attach(hooked=True)" in done.stdout) == (driver == "own_hook")


@pytest.mark.parametrize("script", PAGE.scripts("ray"))
def test_the_scripts_of_the_page_run(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")  # not the cluster of the other tests
    PAGE.run(script, tmp_path)
