"""``meshlog serve``: a command and everything it starts are shown, whatever starts them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.process.command_line import MESHLOG, meshlog, running
from tests.process.procs import DEADLINE, ROOT, importing

WORKER = """
import logging, os, sys, meshlog_handler
meshlog_handler.install(level="INFO")
logging.getLogger("worker").info("record of %s", sys.argv[1])
print("printed by", sys.argv[1])
"""

HANDLER = """
import logging, meshlog_handler
logging.basicConfig(handlers=[meshlog_handler.MeshHandler()], level="INFO")
logging.info("by a handler")
"""


def test_the_output_of_a_script_and_the_records_of_its_descendants_are_shown(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "handler.py").write_text(HANDLER)
    script = (
        f"echo begun; {sys.executable} {tmp_path}/worker.py a & {sys.executable} {tmp_path}/handler.py & wait; echo done >&2"
    )
    done = meshlog(tmp_path, "serve", "--json", "--", "sh", "-c", script)
    found = {each["message"]: (each["rank"], each["stream"]) for each in map(json.loads, done.out.splitlines())}
    assert found.keys() == {"begun", "record of a", "printed by a", "by a handler", "done"}
    assert (found["begun"], found["done"]) == ((None, "stdout"), (None, "stderr"))
    assert found["record of a"][0] == found["printed by a"][0]
    assert {found["record of a"][0], found["by a handler"][0]} == {0, 1}
    assert done.err == ""


def test_the_exit_code_is_that_of_the_command_and_a_summary_has_its_last_lines(tmp_path: Path) -> None:
    done = meshlog(tmp_path, "serve", "--", "sh", "-c", "echo all is lost; exit 7", code=7)
    assert done.out == "all is lost\n"
    assert "exit code 7 at " in done.err
    assert "rank" not in done.err
    assert done.err.splitlines()[-1].strip() == "all is lost"


def test_the_command_has_the_standard_input_and_no_rank() -> None:
    words = ("serve", "--", "sh", "-c", 'cat; echo "rank ${RANK-unset} captured ${MESHLOG_CAPTURED-unset}"')
    done = subprocess.run(
        [*MESHLOG, *words], input=b"typed\n", stdout=subprocess.PIPE, env=importing(), cwd=ROOT, timeout=DEADLINE, check=True
    )
    assert done.stdout.splitlines() == [b"typed", b"rank unset captured unset"]


def test_a_signal_is_forwarded_and_a_command_that_handles_it_has_its_own_exit_code(tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"
    with running(tmp_path, "serve", "--", "sh", "-c", script) as run:
        run.until("up")
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 5
    assert "bye" in run.out


def test_a_command_that_a_signal_ends_is_not_reported_as_a_failure(tmp_path: Path) -> None:
    with running(tmp_path, "serve", "--", "sh", "-c", "echo up; exec sleep 60") as run:
        run.until("up")
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 130
    assert "stopped sh" in run.err
    assert "ended by SIGINT" in run.err
