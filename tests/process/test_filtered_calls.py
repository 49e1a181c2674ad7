"""Filters of system calls, as containers have them: what is not needed is done without, and nothing is lost."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from .command_line import MESHLOG, PYTHON
from .filtered import NUMBERS
from .procs import DEADLINE, ROOT, importing

RANK = """
import logging, meshlog_handler, os
meshlog_handler.install()
logging.getLogger().setLevel(logging.INFO)
logging.info("large %s", "x" * 1_200_000)
logging.info("logged")
print("printed", flush=True)
os._exit(int(os.environ["RANK"]))
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="the filter has the numbers of x86-64")
@pytest.mark.parametrize("failing", ["EPERM", "ENOSYS"])
def test_a_job_runs_without_the_calls_that_a_container_may_refuse(failing: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.process.filtered", failing, ",".join(NUMBERS), *MESHLOG, "run", "-n", "2", *PYTHON, RANK],
        capture_output=True,
        text=True,
        env=importing(),
        cwd=ROOT,
        timeout=DEADLINE,
    )
    assert ran.returncode == 1, ran.stderr
    shown = (ran.stdout + ran.stderr).splitlines()
    for rank in range(2):
        assert any(line.startswith(f"[{rank}] large xxx") for line in shown)
        assert {f"[{rank}] logged", f"[{rank}] printed"} <= set(shown)
    assert "memfd_create failed: " in ran.stderr
    assert "cannot be" not in ran.stderr
    assert "rank 1" in ran.stderr
