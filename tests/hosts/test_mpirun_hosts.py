"""Open MPI on three hosts that share nothing but a network: each host's ranks are shown once, also when it is cut off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.process.procs import DEADLINE, ROOT
from tests.waiting import until

from .hosts import hosts, need_hosts, shell

if shutil.which("mpirun") is None:
    pytest.skip("needs the command mpirun (Open MPI)", allow_module_level=True)
need_hosts()

HOSTS, EACH, RECORDS = 3, 2, 150
PROGRAM = f"""
import logging, os, time
import meshlog_handler

meshlog_handler.install()
logging.getLogger().setLevel(logging.INFO)
for number in range({RECORDS}):
    logging.info("record %s-%d", os.environ["OMPI_COMM_WORLD_RANK"], number)
    print(f"line {{os.environ['OMPI_COMM_WORLD_RANK']}}-{{number}}", flush=True)
    time.sleep(0.02)
"""


def test_the_ranks_of_all_hosts_are_shown_by_mpirun_once(tmp_path: Path) -> None:
    with hosts(HOSTS, tmp_path) as (here, made):
        (tmp_path / "program.py").write_text(PROGRAM)
        words = ["mpirun", "--mca", "plm_rsh_agent", shell(tmp_path / "shell"), "--mca", "plm_rsh_no_tree_spawn", "1"]
        words += ["--mca", "oob_tcp_if_include", f"{here}/24", "-H", ",".join(f"{host.name}:{EACH}" for host in made)]
        words += ["-x", "PYTHONPATH", sys.executable, "-m", "meshlog_handler", "exec", "--"]
        allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        output = tmp_path / "output"
        with open(output, "wb") as file:
            job = subprocess.Popen(
                [*words, sys.executable, str(tmp_path / "program.py")],
                env={**os.environ, **allowed, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            until(lambda: shown(output) > 20 or job.poll() is not None, DEADLINE, "the first records")
            made[0].cut()
            until(lambda: shown(output, 5) > RECORDS // 2 or job.poll() is not None, what="records of another host")
            made[0].join()
            assert job.wait(DEADLINE) == 0, output.read_text()
        finally:
            job.kill()
            job.wait()
    ranks = range(HOSTS * EACH)
    expected = [f"[{rank}] {kind} {rank}-{at}" for rank in ranks for kind in ("record", "line") for at in range(RECORDS)]
    assert Counter(output.read_text().splitlines()) == Counter(expected)


def shown(output: Path, rank: int | None = None) -> int:
    """Return how many records are shown, of one rank or of all."""
    return output.read_text().count("record " if rank is None else f"record {rank}-")
