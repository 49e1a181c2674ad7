"""`insight()` of real ranks: one that is slow, one that is stopped, one that raised, and one that misses a milestone."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import meshlog_handler
from meshlog_handler import Insight, LogClient, LogRelay, this_host
from meshlog_handler.testing import RecordCollector
from tests.waiting import until

from .procs import DEADLINE, importing, started, stop_process

SLOW, STOPPED, RAISED = 1, 2, 3


def train(address: str, rank: int, pipe: Any) -> None:
    """Log steps when told to; a slow rank logs every third. At the end, raise or wait."""
    os.environ["RANK"] = str(rank)
    meshlog_handler.install(address)
    logger = logging.getLogger("train")
    logger.info("model loaded")
    done = 0
    while (asked := pipe.recv()) != "end":
        if rank != SLOW or asked % 3 == 0:
            done += 1
            logger.info("step %d loss=%.2f", done, 1 / done)
            print(f"batch {done} of 90", flush=True)
        if asked == 5 and rank != SLOW:
            logger.info(f"epoch {1} done")
        pipe.send(done)
    if rank == RAISED:
        logger.warning("the loader is empty")
        raise ValueError("no data")
    pipe.recv()


def logged(client: LogClient) -> int:
    return sum(each.records + each.lines for each in client.insight().ranks.values())


def check_training(client: LogClient, pids: dict[int, int], pipes: dict[int, Any]) -> None:
    """Let four ranks train until one of them is stopped; check what the client says."""
    for step in range(12):
        for pipe in pipes.values():
            pipe.send(step)
        for pipe in pipes.values():
            assert pipe.poll(DEADLINE)
            pipe.recv()
    client.flush()
    pipes[RAISED].send("end")
    stop_process(pids[STOPPED])

    later = itertools.count(13)

    def found() -> Insight | None:
        step = next(later)
        for rank in (0, SLOW):  # they continue while the stopped rank is silent
            pipes[rank].send(step)
            assert pipes[rank].poll(DEADLINE)
            pipes[rank].recv()
        insight = client.insight()
        # The slow rank has missed the line when it has come as far as the others had when they logged it.
        missed = any(SLOW in each.missing for each in insight.missing)
        return insight if missed and insight.silent and insight.ranks[RAISED].state == "dead" else None

    try:
        insight = until(found, DEADLINE, lambda: str(client.insight()), 0.05)
    finally:
        os.kill(pids[STOPPED], signal.SIGCONT)
    assert insight is not None
    assert {rank: each.state for rank, each in insight.ranks.items()} == {
        0: "running",
        SLOW: "running",
        STOPPED: "stopped",
        RAISED: "dead",
    }
    ((silent, seconds, line),) = insight.silent
    assert (silent, line) in [(STOPPED, "batch 12 of 90"), (STOPPED, "step 12 loss=0.08")]
    assert seconds > 1.0
    progress = {each.label: each for each in insight.progress}
    assert progress.keys() == {"step", "batch"}
    assert SLOW in progress["step"].behind
    assert progress["step"].values[STOPPED] == 12
    assert 0 not in progress["step"].behind
    assert ("epoch 1 done", (SLOW,)) in [(each.text, each.missing) for each in insight.missing]
    assert (
        insight.different[0].text,
        insight.different[0].level,
        insight.different[0].ranks,
    ) == ("the loader is empty", logging.WARNING, (RAISED,))
    (failure,) = insight.failures
    assert (failure.text, failure.first_rank, failure.ranks) == ("ValueError: no data", RAISED, (RAISED,))
    assert failure.signature.startswith("ValueError at test_insight.py:")
    assert (insight.ranks[RAISED].warnings, insight.ranks[RAISED].errors) == (1, 1)


def training(stack: ExitStack, client: LogClient, addresses: list[str]) -> None:
    """Start a rank at each address, let them train, and check the insight."""
    pairs = [multiprocessing.Pipe() for _ in addresses]
    calls = [(address, rank, pairs[rank][1]) for rank, address in enumerate(addresses)]
    for here, there in pairs:
        stack.callback(here.close)
        stack.callback(there.close)
    procs = stack.enter_context(started("forkserver", train, calls))
    pids = {rank: proc.pid for rank, proc in enumerate(procs) if proc.pid is not None}
    check_training(client, pids, {rank: here for rank, (here, _) in enumerate(pairs)})


def test_the_slow_the_stopped_the_raised_and_the_late_rank_are_named() -> None:
    with ExitStack() as stack:
        client = stack.enter_context(LogClient(RecordCollector()))
        training(stack, client, [client.address] * 4)


def test_ranks_downstream_of_relays_are_as_if_they_had_joined_the_client() -> None:
    with ExitStack() as stack:
        client = stack.enter_context(LogClient(RecordCollector(), aggregate_window_sec=0.1))
        relays = [stack.enter_context(LogRelay(client.address)) for _ in range(2)]
        inner = stack.enter_context(LogRelay(relays[1].address))
        training(stack, client, [relays[0].address, client.address, relays[1].address, inner.address])


def say(text: str) -> None:
    logging.getLogger("app").info(text)


def test_a_mesh_and_a_slice_of_it_have_an_insight_too() -> None:
    with this_host().spawn_procs(per_host={"gpus": 2}, handlers=[RecordCollector()]) as procs:
        procs.call(say, "ready").get(DEADLINE)
        procs.slice(gpus=1).call(say, "odd").get(DEADLINE)
        procs.flush().get(DEADLINE)
        found = procs.insight().get(DEADLINE)
        assert {rank: each.records for rank, each in found.ranks.items()} == {0: 1, 1: 2}
        assert found.ranks[1].last_line == "odd"
        assert procs.logging.insight().ranks.keys() == {0, 1}
        assert procs.slice(gpus=1).insight().get(DEADLINE).ranks.keys() == {1}


def test_what_was_known_at_the_end_is_known_after_the_end() -> None:
    client = LogClient(RecordCollector())
    assert client.insight().ranks == {}
    code = "import logging, meshlog_handler as m; m.install(); logging.warning('once'); logging.info('last %d', 1)"
    with client:
        subprocess.run([sys.executable, "-c", code], env={**importing(client.environ()), "RANK": "4"}, check=True)
        until(lambda: client.insight().ranks[4].state == "ended", DEADLINE)
    (rank,) = client.insight().ranks.values()
    assert (rank.state, rank.last_line, rank.records, rank.warnings) == ("ended", "last 1", 2, 1)


def test_a_handler_can_ask_for_an_insight() -> None:
    found: list[Insight] = []

    class Asks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(client.insight())

    code = "import logging, meshlog_handler as m; m.install(); logging.warning('once')"
    with LogClient(Asks()) as client:
        subprocess.run([sys.executable, "-c", code], env={**importing(client.environ()), "RANK": "4"}, check=True)
        until(lambda: found, DEADLINE)
    assert found[0].ranks[4].records == 1
