"""``meshlog exec``: added to the command of mpirun or srun, it marks each line with its rank.

The tests run the real mpirun where it is installed. The commands of Slurm need a cluster, so these tests act as the
launcher and set the variables that Slurm sets.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlog_handler.testing import collected
from meshlog_handler.transport import run_directory
from tests.waiting import until

from .command_line import MESHLOG, PYTHON, WAIT_FOR, Meshlog, meshlog, running
from .documents import Page
from .procs import DEADLINE, run_command

RANKS = range(4)

HELLO = "import os, sys; print('out', os.getpid()); print('err', os.getpid(), file=sys.stderr)"
RECORD = "import logging, meshlog_handler as m; m.install(); logging.info('record of %d', os.getpid())"
GATED = f"{WAIT_FOR}print('begins'); wait_for(sys.argv[1]); print('goes on'); sys.exit(int(sys.argv[2]))"


def variables(rank: int) -> dict[str, str]:
    """Return the variables that srun sets for a task."""
    return {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NTASKS": str(len(RANKS))}


@contextlib.contextmanager
def task(tmp_path: Path, rank: int, *words: str) -> Iterator[Meshlog]:
    """Start a task of a job as srun does; it runs ``python -c`` with these words."""
    directory = tmp_path / f"task-{rank}"
    directory.mkdir()
    with running(directory, "exec", "--", *PYTHON, *words, env=variables(rank)) as started:
        yield started


def test_each_line_of_a_job_is_shown_once_with_its_rank(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        tasks = [stack.enter_context(task(tmp_path, rank, f"{HELLO}; {RECORD}")) for rank in RANKS]
        assert [each.wait() for each in tasks] == [0] * len(tasks)
    out, err = ("".join(getattr(each, name) for each in tasks) for name in ("out", "err"))
    told = re.findall(r"^\[(\d)\] out (\d+)$", out, re.MULTILINE)
    assert sorted(int(rank) for rank, _ in told) == list(RANKS), out + err
    for kind in ("err", "record of"):
        assert sorted(re.findall(rf"^\[(\d)\] {kind} (\d+)$", err, re.MULTILINE)) == sorted(told), out + err
    assert len(out.splitlines()) + len(err.splitlines()) == 3 * len(RANKS), "and nothing else is said"


def test_the_first_rank_shows_the_other_ranks_until_they_have_ended(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with task(tmp_path, 2, GATED, str(tmp_path / "first"), "0") as first:
        first.until("[2] begins")
        with task(tmp_path, 1, GATED, str(gate), "3") as second:
            first.until("[1] begins")
            (tmp_path / "first").touch()
            first.until("[2] goes on")
            assert first.process.poll() is None
            gate.touch()
            assert second.wait() == 3, "it has become the command"
            assert first.wait() == 0
        assert first.out.splitlines()[-1] == "[1] goes on"
        assert (second.out, second.err) == ("", "")


def test_the_first_rank_ends_at_once_when_it_fails(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with task(tmp_path, 0, GATED, str(tmp_path / "first"), "7") as first:
        first.until("[0] begins")
        with task(tmp_path, 1, GATED, str(gate), "0") as second:
            first.until("[1] begins")
            (tmp_path / "first").touch()
            assert first.wait() == 7
            assert second.process.poll() is None
            gate.touch()
            assert second.wait() in (1, -signal.SIGPIPE), "as when any reader of its output goes"


def test_a_rank_that_starts_after_the_first_has_ended_becomes_the_first(tmp_path: Path) -> None:
    for rank in range(2):
        with task(tmp_path, rank, HELLO) as only:
            assert only.wait() == 0
            assert only.out.startswith(f"[{rank}] out ")
    assert os.listdir(run_directory.base()) == []


def test_the_next_rank_becomes_the_first_after_the_first_is_killed(tmp_path: Path) -> None:
    with task(tmp_path, 0, GATED, str(tmp_path / "never"), "0") as first:
        first.until("[0] begins")
        first.process.kill()
        first.wait()
        with task(tmp_path, 1, HELLO) as second:
            assert second.wait() == 0
            assert second.out.startswith("[1] out ")
        (tmp_path / "never").touch()  # the command of the killed rank ends, too


def test_a_stop_signal_is_passed_on_to_the_command(tmp_path: Path) -> None:
    with task(tmp_path, 0, GATED, str(tmp_path / "never"), "0") as first:
        first.until("[0] begins")
        first.process.terminate()
        assert first.wait() == 128 + signal.SIGTERM


def test_the_command_reads_the_stdin_of_the_launcher() -> None:
    done = run_command(*MESHLOG, "exec", "--", "cat", env={**os.environ, **variables(0)}, text="for rank 0\n", code=0)
    assert done.stdout == "[0] for rank 0\n"


# With a client: MESHLOG_ADDRESS is set.


def test_the_output_of_a_program_without_meshlog_reaches_a_client(tmp_path: Path) -> None:
    with collected() as logs:
        env = {**logs.environ(), **variables(3)}
        script = "echo said; echo wrong >&2; printf 'no end'; kill -9 $$"
        with running(tmp_path, "exec", "--", "sh", "-c", script, env=env) as ran:
            assert ran.wait() == -signal.SIGKILL
            pid = ran.process.pid
            until(lambda: "no end" in logs.messages, DEADLINE, lambda: str(logs.messages))
        logs.flush()
        found = [(record.getMessage(), vars(record)["stream"], vars(record)["rank"], record.process) for record in logs.records]
        stats = logs.client.stats()[3]
    assert ("said", "stdout", 3, pid) in found
    assert ("wrong", "stderr", 3, pid) in found
    assert ("no end", "stdout", 3, pid) in found
    assert (ran.out, ran.err) == ("", "")
    assert (stats.lines, stats.alive) == (3, False)


def test_a_flush_shows_the_output_written_so_far(tmp_path: Path) -> None:
    with collected() as logs:
        program = GATED.replace("print('begins'", f"{RECORD}; open(sys.argv[1] + '1', 'w'); print('begins'")
        with running(tmp_path, "exec", "--", *PYTHON, program, str(tmp_path / "gate"), "0", env=logs.environ()) as ran:
            until((tmp_path / "gate1").exists, DEADLINE)
            receipt = logs.flush()
            assert receipt.missing == ()
            assert receipt.acked == (0,)
            assert f"record of {ran.process.pid}" in logs.messages
            until(lambda: "begins" in logs.messages, DEADLINE)
            (tmp_path / "gate").touch()
            assert ran.wait() == 0
            until(lambda: not logs.client.stats()[0].alive, DEADLINE)
        assert {vars(record)["rank"] for record in logs.records} == {0}, "records and output bear the same rank"
        assert logs.messages[-1] == "goes on"


def test_a_client_that_refuses_new_workers_keeps_the_joined_ones(tmp_path: Path) -> None:
    (late := tmp_path / "late").mkdir()
    with collected() as logs:
        with running(tmp_path, "exec", "--", *PYTHON, GATED, str(tmp_path / "gate"), "0", env=logs.environ()) as ran:
            until(lambda: "begins" in logs.messages, DEADLINE)
            logs.client.refuse_commands()
            assert meshlog(late, "exec", "--", "echo", "late", env=logs.environ()).out == "late\n"
            (tmp_path / "gate").touch()
            assert ran.wait() == 0
        logs.flush()
        until(lambda: logs.messages == ["begins", "goes on"], DEADLINE, lambda: str(logs.messages))


def test_a_joined_program_can_log_after_the_client_refuses_new_workers(tmp_path: Path) -> None:
    program = f"{WAIT_FOR}print('begins'); wait_for(sys.argv[1]); {RECORD}"
    with (
        collected() as logs,
        running(tmp_path, "exec", "--", *PYTHON, program, str(tmp_path / "gate"), env=logs.environ()) as ran,
    ):
        until(lambda: "begins" in logs.messages, DEADLINE)
        logs.client.refuse_commands()
        (tmp_path / "gate").touch()
        assert ran.wait() == 0
        until(lambda: logs.messages == ["begins", f"record of {ran.process.pid}"], DEADLINE, lambda: str(logs.messages))


def test_the_program_runs_normally_if_the_client_is_gone(tmp_path: Path) -> None:
    with collected() as logs:
        env = logs.environ()
    ran = meshlog(tmp_path, "exec", "--", *PYTHON, "print('hello'); raise SystemExit(5)", code=5, env=env)
    assert ran.out == "hello\n"
    assert "meshlog: the output of" in ran.err
    assert "the process that shows the logs is still running" in ran.err.lower()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc")
def test_the_program_does_not_ignore_signals_that_python_ignores(tmp_path: Path) -> None:
    with collected() as logs:
        meshlog(tmp_path, "exec", "--", "cat", "/proc/self/status", env=logs.environ())
        logs.flush()
        (ignored,) = [line for line in logs.messages if line.startswith("SigIgn:")]
    assert int(ignored.split()[1], 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0


def test_the_error_names_the_missing_rank_command_or_program(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "exec", "--", "true", code=2)
    assert re.search(r"no rank and no client .*SLURM_PROCID.*MESHLOG_ADDRESS.*mpirun -n 4 meshlog exec", ran.err)
    ran = meshlog(tmp_path, "exec", code=2, env=variables(0))
    assert "there is no command. Write it last: meshlog exec -- python train.py" in ran.err
    ran = meshlog(tmp_path, "exec", "--", "no-such-program", code=127, env=variables(0))
    assert "command not found" in ran.err


def test_exec_works_inside_a_rank_of_meshlog_run(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "-n", "2", "--", *MESHLOG, "exec", "--", *PYTHON, f"{HELLO}; sys.exit(4)", code=4)
    assert sorted(re.findall(r"^\[(\d)\] out \d+$", ran.out, re.MULTILINE)) == ["0", "1"]
    assert "2 of 2 ranks failed" in ran.err


# With the real mpirun.

MPIRUN = shutil.which("mpirun")
needs_mpirun = pytest.mark.skipif(MPIRUN is None, reason="mpirun is not installed")


def mpirun(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on four ranks."""
    assert MPIRUN is not None
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return run_command(MPIRUN, "-n", str(len(RANKS)), "--oversubscribe", *command, env=env)


@needs_mpirun
def test_each_line_of_an_mpirun_job_is_shown_once_with_its_rank() -> None:
    words = Page("docs/integrations.md").command("mpirun")
    assert words[3:6] == ["meshlog", "exec", "--"]
    done = mpirun(*MESHLOG, "exec", "--", *PYTHON, f"{HELLO}; {RECORD}")
    assert done.returncode == 0, done.stderr
    told = re.findall(r"^\[(\d)\] out (\d+)\r?$", _plain(done.stdout), re.MULTILINE)
    assert sorted(int(rank) for rank, _ in told) == list(RANKS), done.stdout + done.stderr
    for kind in ("err", "record of"):
        assert sorted(re.findall(rf"^\[(\d)\] {kind} (\d+)\r?$", _plain(done.stderr), re.MULTILINE)) == sorted(told)


@needs_mpirun
@pytest.mark.parametrize("failing", [0, 2])
def test_a_failed_rank_of_mpirun_ends_the_job(failing: int) -> None:
    program = f"import os, time; print('here', flush=True)\nif os.environ['OMPI_COMM_WORLD_RANK'] == '{failing}': 1 / 0\n"
    done = mpirun(*MESHLOG, "exec", "--", *PYTHON, f"{program}time.sleep(60)")
    # mpirun may have killed the rank that shows the lines. Remove its run directory, as the next client would.
    run_directory.clean(run_directory.base())
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"[{failing}] ZeroDivisionError: division by zero" in _plain(done.stderr)


@needs_mpirun
def test_ranks_of_mpirun_join_a_client_through_the_environment() -> None:
    with collected() as logs:
        os.environ["MESHLOG_ADDRESS"] = logs.address
        try:
            done = mpirun(sys.executable, "-c", f"{HELLO}; {RECORD}")
        finally:
            del os.environ["MESHLOG_ADDRESS"]
        assert done.returncode == 0, done.stderr
        logs.flush()
        ranks = [vars(record)["rank"] for record in logs.records if record.getMessage().startswith("record of")]
    assert sorted(ranks) == list(RANKS)


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
