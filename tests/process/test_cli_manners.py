"""What the command line says: a table of all ranks, misspelt words, missing ranks, and errors that cannot be written."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from meshlog_handler.cli.parser import COMMANDS, listed
from tests.process.command_line import MESHLOG, PYTHON, WAIT_FOR, meshlog
from tests.process.procs import DEADLINE, run_command

# A table of all ranks


def rows(text: str) -> list[tuple[int, int, float, str]]:
    """Return the rows of the table in a summary."""
    return [
        (int(rank), int(pid), float(seconds), end)
        for rank, pid, seconds, end in re.findall(r"^ {8} *(\d+) +(\d+) +(\d+\.\d\d)  (.+)$", text, re.MULTILINE)
    ]


def test_a_summary_of_a_successful_run_is_a_table(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "-n", "2", "--summary", "--", "sh", "-c", "echo $$")
    pids = dict(re.findall(r"\[(\d)\] (\d+)", ran.out))
    first, head, *_ = ran.err.splitlines()
    assert first == "meshlog: 2 of 2 ranks succeeded:"
    assert head.split() == ["rank", "pid", "seconds", "end"]
    assert [(rank, pid, end) for rank, pid, _, end in rows(ran.err)] == [
        (0, int(pids["0"]), "exit code 0"),
        (1, int(pids["1"]), "exit code 0"),
    ]


def test_the_first_failure_comes_before_the_table(tmp_path: Path) -> None:
    code = (
        WAIT_FOR
        + f"""
import signal
os.chdir({str(tmp_path)!r})
os.symlink(str(os.getpid()), f"pid-{{rank}}")
if rank == 1:
    sys.exit(0)
if rank == 2:
    signal.pause()
while not os.path.islink("pid-2"):
    time.sleep(0.002)
while not os.path.islink("pid-1"):
    time.sleep(0.002)
while open(f"/proc/{{os.readlink('pid-1')}}/stat").read().split()[2] != "Z":
    time.sleep(0.002)
os.kill(os.getpid(), signal.SIGSEGV)
"""
    )
    words = ("run", "-n", "3", "--summary", "--grace", "0.2", "--", *PYTHON, code)
    ran = meshlog(tmp_path, *words, code=128 + signal.SIGSEGV, env={"PYTHONFAULTHANDLER": ""})
    summary = ran.err[ran.err.index("meshlog: ") :]
    assert summary.startswith("meshlog: 1 of 3 ranks failed:\n    rank 0 (pid ")
    table = rows(summary)
    assert [(rank, end) for rank, _, _, end in table] == [
        (0, "SIGSEGV"),
        (1, "exit code 0"),
        (2, "SIGTERM, stopped"),
    ]
    assert 0.2 <= table[2][2] < DEADLINE
    assert summary.index("stopped rank 2") < summary.index("1 of 3 ranks succeeded:")


def test_there_is_no_table_unless_it_is_requested(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "-n", "2", "--", "sh", "-c", "exit $RANK", code=1)
    assert "seconds" not in ran.err
    assert meshlog(tmp_path, "run", "-n", "2", "--", "true").err == ""


def test_runs_with_the_same_directory_append_to_its_files(tmp_path: Path) -> None:
    for number in range(2):
        meshlog(tmp_path, "run", "-n", "2", "--log-dir", str(tmp_path / "logs"), "--", "sh", "-c", f"echo {number} of $RANK")
    for rank in range(2):
        assert (tmp_path / "logs" / f"rank-{rank}.stdout").read_text() == f"0 of {rank}\n1 of {rank}\n"


# Words that are not known


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rum", "-n", "2", "--", "true"], f"unknown command 'rum'. Expected {listed(COMMANDS)}; did you mean run?"),
        (["tial", "logs"], "did you mean tail? (see meshlog --help)"),
        (["frobnicate"], f"unknown command 'frobnicate'. Expected {listed(COMMANDS)} (see meshlog --help)"),
        (["--verison"], "unknown arguments: --verison; did you mean --version? (see meshlog --help)"),
        (["run", "--stdn", "0", "--", "true"], "unknown arguments: --stdn; did you mean --stdin? (see meshlog run --help)"),
        (["run", "--rank-filter=0", "--", "true"], "did you mean --ranks-filter? (see meshlog run --help)"),
        (["run", "-n", "2", "--sumary", "true"], "did you mean --summary? (see meshlog run --help)"),
        (["tail", "--line", "3", "."], "did you mean --lines? (see meshlog tail --help)"),
        (["completion", "csh"], "invalid choice: 'csh'"),
        (["completion"], "SHELL (see meshlog completion --help)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_error_names_what_was_probably_meant(words: list[str], said: str, tmp_path: Path) -> None:
    ran = meshlog(tmp_path, *words, code=2)
    assert ran.err.startswith("meshlog: error: ")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert ran.out == ""


def test_a_filter_for_ranks_that_a_job_does_not_have_is_reported(tmp_path: Path) -> None:
    task = {"SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}
    ran = meshlog(tmp_path, "exec", "--ranks-filter", "1,4,9", "--", "echo", "shown", env=task)
    assert ran.out == "[1] shown\n"
    assert ran.err == "meshlog: --ranks-filter names ranks 4,9, but this job has only ranks 0-3\n"
    for elsewhere in ({**task, "SLURM_NTASKS": ""}, {**task, "SLURM_NTASKS": "10"}):  # unknown size; ranks of other hosts
        ran = meshlog(tmp_path, "exec", "--ranks-filter", "1,4,9", "--", "echo", "shown", env=elsewhere)
        assert (ran.out, ran.err) == ("[1] shown\n", "")


# Errors that cannot be written


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", ">/dev/full 2>/dev/full", ">&- 2>&-"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_argument_error_that_cannot_be_written_is_exit_code_2(redirected: str, unbuffered: str) -> None:
    commands = ["run --frobnicate -- true", "run", "run -n x -- true", "rum", "", "tail /no/such/directory"]
    lines = [f"{' '.join(MESHLOG)} {command} {redirected}; echo $?" for command in commands]
    done = run_command("sh", "-c", "\n".join(lines), env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert done.stdout.split() == ["2"] * len(commands)
    assert done.stderr == ""


def test_no_error_goes_to_stdout_instead() -> None:
    command = " ".join([*MESHLOG, "run -- no-such-program 2>&-"])
    done = run_command("sh", "-c", command)
    assert (done.returncode, done.stdout) == (127, "")
