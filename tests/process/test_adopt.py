"""An adopted process: it knows no client, yet the client reads and flushes its output and reports its exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlog_handler import LogClient
from meshlog_handler.client.peers.tail import last_lines
from meshlog_handler.errors import FlushTimeout
from meshlog_handler.protocol.messages import Prepare, level_config
from meshlog_handler.system.descriptors import make_pipe
from meshlog_handler.testing import RecordCollector
from tests.process.command_line import WAIT_FOR
from tests.process.procs import importing, stop_process
from tests.waiting import until

MESH = "a mesh of these tests"


class Adopted:
    """A child of this process that a client adopted."""

    def __init__(self, client: LogClient, rank: int | None, code: str) -> None:
        self.client, self.rank = client, rank
        out, err = make_pipe(), make_pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", code],
            stdin=subprocess.PIPE,
            stdout=out[1],
            stderr=err[1],
            env={**importing(client.environ()), **({} if rank is None else {"RANK": str(rank)}), "MESHLOG_CAPTURED": "1"},
        )
        os.close(out[1])
        os.close(err[1])
        self.source = client.adopt(self.process.pid, rank, rank, {"stdout": out[0], "stderr": err[0]}, MESH)

    def go(self) -> None:
        """Let the `input` call of the process return."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Wait for the process to end, and report the exit to the client."""
        self.client.report_exit(MESH, self.rank, self.process.wait(60))

    def close(self) -> None:
        """Kill the process if it still runs."""
        self.process.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture
def shown() -> RecordCollector:
    """The records that the client shows."""
    return RecordCollector()


@pytest.fixture
def client(shown: RecordCollector) -> Iterator[LogClient]:
    """A running client."""
    with LogClient(shown) as client:
        yield client


@pytest.fixture
def adopted(client: LogClient) -> Iterator[list[Adopted]]:
    """Two adopted processes; the second also joins the client by itself."""
    plain = "print('begin'); input(); print('half', end=''); input()"
    member = "import logging, meshlog_handler; meshlog_handler.install(); logging.info('joined'); print('printed'); input()"
    procs = [Adopted(client, rank, code) for rank, code in enumerate((plain, member))]
    yield procs
    for proc in procs:
        proc.close()


def test_a_flush_shows_the_output_that_is_still_in_the_pipes(
    client: LogClient, shown: RecordCollector, adopted: list[Adopted]
) -> None:
    until(lambda: {"begin", "joined", "printed"} <= set(shown.messages))
    receipt = client.flush(10)
    assert (receipt.acked, receipt.missing, receipt.dead) == ((0, 1), (), ())
    adopted[0].go()
    until(lambda: client.flush(10).acked == (0, 1) and "half" in shown.messages)
    assert {(record.rank, record.stream, record.getMessage()) for record in shown.records} == {  # type: ignore[attr-defined]  # set by the client
        (0, "stdout", "begin"),
        (0, "stdout", "half"),
        (1, None, "joined"),
        (1, "stdout", "printed"),
    }
    assert client.stats()[1]["lines"] == 1
    assert client.stats()[1]["received"] == 1


def test_a_receipt_lists_a_stopped_rank_as_missing(client: LogClient, shown: RecordCollector, adopted: list[Adopted]) -> None:
    until(lambda: "printed" in shown.messages and "begin" in shown.messages)
    stop_process(adopted[1].process.pid)
    with pytest.raises(FlushTimeout) as silent:
        client.flush(0.3)
    assert silent.value.receipt.missing == (1,)
    assert silent.value.receipt.acked == (0,)
    adopted[1].process.send_signal(signal.SIGCONT)
    assert client.flush(10).acked == (0, 1)


def test_an_exit_report_is_shown_once_and_after_the_last_record(
    client: LogClient, shown: RecordCollector, tmp_path: Path
) -> None:
    code = (
        WAIT_FOR
        + """
import logging, signal, meshlog_handler
meshlog_handler.install()
input()
print("last line")
for number in range(3000): logging.info("number %d", number)
os.kill(os.getpid(), signal.SIGSEGV)
"""
    )
    proc = Adopted(client, 3, code)
    try:
        proc.go()
        proc.end()
        client.flush(10)
        said = [message for message in shown.messages if "ended by" in message]
        assert said == [f"rank 3 (pid {proc.process.pid}) ended by SIGSEGV"]
        assert shown.messages[-1] == said[0]
        assert [message for message in shown.messages if message.startswith("number")] == [f"number {n}" for n in range(3000)]
        assert "last line" in shown.messages
        last = client.on_thread(lambda: last_lines(proc.source.tail)).result(10)
        assert "INFO root: number 2999" in last
        assert client.flush(10).dead == ()
    finally:
        proc.close()


def test_a_command_goes_only_to_joined_workers(client: LogClient, shown: RecordCollector, adopted: list[Adopted]) -> None:
    until(lambda: "printed" in shown.messages and "begin" in shown.messages)
    answers = client.send_command_soon(Prepare(client.next_request(), level_config(10), final=True), None).result(10)
    assert {member.rank: error for member, error in answers.items()} == {1: None}  # type: ignore[attr-defined]  # a source


def test_a_successful_exit_has_no_exit_report(client: LogClient, shown: RecordCollector) -> None:
    proc = Adopted(client, 0, "print('done')")
    try:
        proc.end()
        client.flush(10)
        assert shown.messages == ["done"]
    finally:
        proc.close()


def test_a_process_that_got_its_rank_when_it_joined_is_over_with_its_connection(
    client: LogClient, shown: RecordCollector
) -> None:
    code = (
        "import logging, os, meshlog_handler; meshlog_handler.install(); logging.info('joined'); os.closerange(1, 3); input()"
    )
    proc = Adopted(client, None, code)
    try:
        until(lambda: "joined" in shown.messages)
        client.report_exit(MESH, None, 0)
        until(lambda: client.ask(lambda: proc.source.ended and not any(pipe.fd >= 0 for pipe in proc.source.pipes)))
        proc.go()
        proc.process.wait(60)
        assert not client.flush_soon(None).result(20).missing
    finally:
        proc.close()
