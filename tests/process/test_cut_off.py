"""A process loses its connection and goes on, because it called exec or closed all descriptors. No record is lost."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler.testing import collected
from tests.waiting import until

from . import cut_off
from .procs import DEADLINE, ROOT, importing, join_all, run_python, started


def test_a_flush_shows_records_logged_before_an_exec_and_does_not_wait_for_the_new_program() -> None:
    program = "from tests.process import cut_off; import os; cut_off.become_another(os.environ['MESHLOG_ADDRESS'], 5)"
    with collected() as logs:
        words, env = [sys.executable, "-c", program], importing(logs.environ())
        with subprocess.Popen(words, env=env, cwd=ROOT, stdin=subprocess.PIPE) as proc:
            until(lambda: os.readlink(f"/proc/{proc.pid}/exe") and has_become_another(proc.pid), DEADLINE, "the exec")
            begun = time.monotonic()
            receipt = logs.flush(timeout=DEADLINE)
            assert time.monotonic() - begun < DEADLINE / 2
            assert proc.poll() is None, "it still runs"
            assert (receipt.acked, receipt.missing, receipt.dead) == ((0,), (), ())
            expected = ["shipped", *(f"unshipped {number}" for number in range(5))]
            assert logs.messages == expected
            assert logs.flush(timeout=DEADLINE).acked == (0,), "and again"
            proc.communicate(b"x")
        logs.flush(timeout=DEADLINE)
        assert logs.messages == expected, "each once"


def has_become_another(pid: int) -> bool:
    """Tell whether the process runs the new program."""
    with open(f"/proc/{pid}/cmdline") as words:
        return "os.read(0, 1)" in words.read()


@pytest.mark.parametrize("size", [64 * 1024, 4 << 20], ids=["more than the journal holds", "all of it fits"])
def test_a_process_that_closes_all_descriptors_loses_no_record_silently(
    size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MESHLOG_JOURNAL_SIZE", str(size))
    count = 5000
    context: Any = multiprocessing.get_context("fork")
    closed, go = context.Semaphore(0), context.Semaphore(0)
    with collected() as logs:
        with started("fork", cut_off.close_all, [(logs.address, str(tmp_path), count, closed, go)]) as procs:
            assert closed.acquire(timeout=DEADLINE)
            receipt = logs.flush(timeout=DEADLINE)
            assert (receipt.acked, receipt.missing) == ((0,), ())
            assert len([record for record in logs.records if record.name == "cut off"]) + receipt.dropped == count
            go.release()
            assert join_all(procs) == [0], (tmp_path / "worker.stderr").read_text()
        until(lambda: not logs.client.stats()[0].alive, DEADLINE, "the worker to be taken leave of")
        stats = logs.client.stats()[0]
        numbers = [int(record.getMessage().split()[1]) for record in logs.records if record.name == "cut off"]
    assert stats.received == len(numbers)
    assert stats.received + stats.total_dropped == count + 1
    assert stats.duplicates == 0
    assert numbers == sorted(set(numbers))
    assert (stats.total_dropped > 0) == (size < 1 << 20)
    assert (tmp_path / "worker.stderr").read_text() == "", "the client lives: nothing is said as if it did not"


@pytest.mark.parametrize("kind", ["handler", "window", "client", "worker", "job"])
def test_files_whose_descriptors_were_those_of_the_package_are_not_touched(kind: str) -> None:
    program = "import sys; from tests.process import cut_off; cut_off.keep_the_files(sys.argv[1])"
    with collected() as logs:
        begun = time.monotonic()
        done = run_python("-c", program, kind, env=logs.environ() if kind == "worker" else None)
        assert time.monotonic() - begun < 10, "nobody waits for what is closed"
        logs.flush(timeout=DEADLINE)
        lines = sorted(logs.messages if kind == "worker" else done.stdout.splitlines())
    assert lines == ["after", "before", "of the child"]
    assert done.stderr == ""


@pytest.mark.parametrize("how", ["end_in_a_job", "log_while_it_joins_again", "join_again_while_a_handler_has_a_record"])
def test_a_process_that_shows_a_job_and_closes_its_descriptors_ends(how: str) -> None:
    done = run_python("-c", f"from tests.process import cut_off; cut_off.{how}()")
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ["before", "after"], "")


ENDS = """
import logging, os
from meshlog_handler import install
from meshlog_handler.worker.member import Membership

complete = Membership.complete
Membership.complete = lambda self, timeout: (os.write(2, b"waits"), complete(self, timeout))
install(capture=False)
logging.error("before")
os.closerange(3, 256)
"""


def test_a_process_that_has_closed_all_descriptors_does_not_wait_at_its_exit() -> None:
    with collected() as logs:
        done = run_python("-c", ENDS, env=logs.environ())
    assert "before" in logs.messages
    assert "waits" not in done.stderr
