"""The rank from a launcher belongs to the process that it started; child processes of that one inherit only the variables."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from meshlog_handler.testing import collected

from .procs import DEADLINE, importing, run_python

POOL = """
import logging, multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from meshlog_handler import LogClient, install
def start(address, barrier):
    install(address)
    barrier.wait()  # all live at once
    logging.info("record")
    print("printed", flush=True)
    barrier.wait()
if __name__ == "__main__":
    if sys.argv[2] == "client":
        client = LogClient().start()
        address = client.address
    else:
        address = None
        if sys.argv[2] == "joined":
            install()
            logging.info("record")
    context = multiprocessing.get_context(sys.argv[1])
    barrier = context.Barrier(3)
    workers = [context.Process(target=start, args=(address, barrier)) for _ in range(3)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    if sys.argv[2] == "client":
        client.stop()
"""

LAUNCHERS = [
    {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"},
    {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"},
    {"OMPI_COMM_WORLD_RANK": "2"},
    {"PMI_RANK": "2"},
    {"LOCAL_RANK": "1"},
]


def ranks_of(said: str, text: str) -> list[int]:
    return sorted(int(rank) for rank in re.findall(rf"^\[(\d+)\] {text}$", said, re.M))


@pytest.fixture
def program(tmp_path: Path) -> str:
    (tmp_path / "program.py").write_text(POOL)
    return str(tmp_path / "program.py")


@pytest.mark.parametrize("variables", LAUNCHERS, ids=lambda variables: next(iter(variables)))
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_get_their_own_ranks_if_their_client_has_a_rank_from_a_launcher(
    variables: dict[str, str], method: str, program: str
) -> None:
    done = run_python(program, method, "client", env={**importing(), **variables})
    said = done.stdout + done.stderr
    assert ranks_of(said, "record") == ranks_of(said, "printed") == [0, 1, 2]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_a_rank_get_higher_ranks_than_those_of_the_launcher(method: str, program: str) -> None:
    words = ["-m", "meshlog_handler", "run", "-n", "2", "--", sys.executable, program, method, "joined"]
    done = run_python(*words)
    said = done.stdout + done.stderr
    assert ranks_of(said, "record") == list(range(8))
    assert ranks_of(said, "printed") == list(range(2, 8))


def test_processes_of_a_launcher_keep_their_ranks_if_a_shell_starts_them() -> None:
    worker = "import logging, meshlog_handler as m; m.install(); logging.info('record'); print('printed')"
    command = ["sh", "-c", f'{sys.executable} -c "{worker}"; {sys.executable} -c "{worker}"']
    done = run_python("-m", "meshlog_handler", "run", "-n", "2", "--", *command)
    said = done.stdout + done.stderr
    assert ranks_of(said, "record") == ranks_of(said, "printed") == [0, 0, 1, 1]


def test_a_launcher_inside_a_rank_sets_its_own_ranks_and_their_output_is_captured() -> None:
    worker = "import logging, meshlog_handler as m; m.install(); logging.info('record'); print('printed', flush=True)"
    command = ["sh", "-c", f'for r in 0 1 2; do RANK=$r {sys.executable} -c "{worker}" & done; wait']
    done = run_python("-m", "meshlog_handler", "run", "-n", "1", "--", *command)
    said = done.stdout + done.stderr
    assert ranks_of(said, "record") == ranks_of(said, "printed") == [0, 1, 2]


def test_a_process_with_other_pipes_than_its_launcher_is_captured() -> None:
    worker = "import meshlog_handler as m; m.install(); print('printed', flush=True)"
    outer = f"import subprocess, sys; print(subprocess.run([sys.executable, '-c', {worker!r}], capture_output=True))"
    done = run_python("-m", "meshlog_handler", "run", "-n", "1", "--", sys.executable, "-c", outer)
    assert ranks_of(done.stdout + done.stderr, "printed") == [0]
    assert "stdout=b''" in done.stdout


@pytest.mark.usefixtures("real_stdout")
def test_a_restarted_process_gets_the_same_rank_again() -> None:
    worker = "import logging, meshlog_handler as m; m.install(); logging.info('record')"
    with collected() as logs:
        env = {**importing(logs.client.environ()), "RANK": "7"}
        for _ in range(2):
            subprocess.run([sys.executable, "-c", worker], env=env, check=True, timeout=DEADLINE)
        logs.flush()
        assert [record.getMessage() for record in logs.of_rank(7)] == ["record", "record"]
