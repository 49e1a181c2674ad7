"""The real torchrun and torch.multiprocessing, on CPUs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from meshlog_handler.testing import collected
from tests.process.documents import Page, active
from tests.process.procs import DEADLINE, ROOT

from .needed import need

need("torch")

PAGE = Page("docs/integrations.md")

RESTARTED = """
import os
attempt, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
print("attempt", attempt, "of", rank)
os.write(2, b"without an end")
if (attempt, rank) == ("0", "1"):
    os.kill(os.getpid(), 9)
"""

STEPS = {f"step {step} loss" for step in (0, 50, 100, 150)}


def torchrun(*words: str, code: int = 0, env: dict[str, str] | None = None) -> tuple[str, str]:
    """Run torchrun with two ranks; return its stdout and stderr, without torch's own log lines."""
    done = subprocess.run(
        ["torchrun", "--standalone", "--nproc-per-node", "2", *words],
        env={**active(), "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    own = [line for line in done.stderr.splitlines() if "torch/distributed" not in line]
    return done.stdout, "\n".join(own)


@pytest.mark.parametrize("body", PAGE.scripts("torch"))
def test_the_recipe_runs(body: str, tmp_path: Path) -> None:
    PAGE.run(body, tmp_path)


def test_a_training_under_torchrun_is_shown(tmp_path: Path) -> None:
    words = PAGE.command("torchrun")
    assert words[1:] == ["--nproc-per-node", "2", "--logs-specs", "meshlog", "examples/ddp.py"]
    out, err = torchrun(*words[3:-1], "--log-dir", str(tmp_path), words[-1])
    assert sorted(out.splitlines()) == ["[0] y = 3.0 x -1.0", "[1] y = 3.0 x -1.0"]
    for rank in range(2):
        logged = re.findall(rf"^\[{rank}\] (step \d+ loss)=", err, re.MULTILINE)
        assert set(logged) == STEPS
        assert len(logged) == len(STEPS)
        assert re.search(rf"^\[{rank}\] rank {rank} of 2 ends", err, re.MULTILINE)
        assert (tmp_path / f"rank-{rank}.stdout").read_text() == "y = 3.0 x -1.0\n"
        assert (tmp_path / f"rank-{rank}.log").read_text().count(" loss=") == len(STEPS) + 1
    assert "meshlog:" not in err, "it has nothing to complain about"


def test_torchrun_shows_similar_lines_as_one() -> None:
    out, err = torchrun("--logs-specs", "meshlog", "examples/ddp.py", env={"MESHLOG_AGGREGATE_WINDOW_SEC": "60"})
    assert out == "[2 similar log lines] [ranks 0-1] y = 3.0 x -1.0\n"
    assert re.search(r"^\[8 similar log lines\] \[ranks 0-1\] step 0\.\.150 loss=", err, re.MULTILINE)


def test_the_last_lines_of_a_killed_rank_are_shown_and_all_ranks_restart(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RESTARTED)
    out, err = torchrun("--max-restarts", "1", "--logs-specs", "meshlog", str(script))
    told = sorted(out.splitlines())
    assert {"[1] attempt 0 of 1", "[0] attempt 1 of 0", "[1] attempt 1 of 1"} <= set(told)
    assert len(told) == len(set(told))
    assert err.count("[1] without an end") == 2, "the last words of the killed one"


def test_torchrun_forwards_with_the_environment_variable_alone() -> None:
    with collected() as logs:
        out, _ = torchrun("examples/ddp.py", env={"MESHLOG_ADDRESS": logs.address})
        logs.flush()
        for rank in range(2):
            said = [record.getMessage() for record in logs.records if vars(record)["rank"] == rank]
            assert {re.sub("=.*", "", text) for text in said if text.startswith("step")} == STEPS
            assert f"rank {rank} of 2 ends with loss=0.0000" in "\n".join(said)
            assert said.count("y = 3.0 x -1.0") == 1
        assert {vars(record)["local_rank"] for record in logs.records} == {0, 1}
    assert out == ""


def test_any_program_is_captured_and_the_filter_chooses_the_shown_ranks() -> None:
    command = ("sh", "-c", "echo rank $RANK; echo ERROR: $RANK >&2")
    out, err = torchrun("--logs-specs", "meshlog", "--local-ranks-filter", "1", "--no-python", *command)
    assert out == "[1] rank 1\n"
    assert sorted(err.splitlines()) == ["[0] ERROR: 0", "[1] ERROR: 1"], "what warns is shown of all"


def test_what_is_redirected_is_in_files_and_only_its_warnings_are_shown(tmp_path: Path) -> None:
    command = ("sh", "-c", "echo out $RANK; echo err $RANK >&2; echo ERROR: $RANK")
    words = ("--logs-specs", "meshlog", "-r", "0:1,1:3", "-t", "1:2", "--log-dir", str(tmp_path), "--no-python", *command)
    out, err = torchrun(*words)
    assert sorted(out.splitlines()) == ["[0] ERROR: 0", "[1] ERROR: 1"]
    assert sorted(err.splitlines()) == ["[0] err 0", "[1] err 1"]
    for rank in range(2):
        assert (tmp_path / f"rank-{rank}.stdout").read_text() == f"out {rank}\nERROR: {rank}\n"


FAILS_ONCE = """
import os, sys
attempt, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
print("attempt", attempt)
print("epoch", rank)
print("error of", attempt, file=sys.stderr)
sys.exit(int(attempt == "0" and rank == "1"))
"""


def test_each_attempt_has_the_files_of_torchrun(tmp_path: Path) -> None:
    script, logs = tmp_path / "script.py", tmp_path / "logs"
    script.write_text(FAILS_ONCE)
    relative = os.path.relpath(logs, ROOT)
    words = ["--max-restarts", "1", "--logs-specs", "meshlog", "-r", "0:2", "-t", "1:1", "--log-dir", relative]
    out, _ = torchrun(*words, "--duplicate-stdout-filters", "epoch,loss", str(script))
    assert out.count("[1] epoch 1") == 2
    for attempt in range(2):
        (directory,) = logs.glob(f"*/attempt_{attempt}")
        found = {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*.log")}
        assert found == {
            "0/stderr.log": f"error of {attempt}\n",
            "1/stdout.log": f"attempt {attempt}\nepoch 1\n",
            "filtered_stdout.log": "[default1]:epoch 1\n",
        }
    assert (logs / "rank-1.stdout").read_text() == "attempt 0\nepoch 1\nattempt 1\nepoch 1\n"


def test_the_null_device_as_the_directory_is_no_directory() -> None:
    out, _ = torchrun("--logs-specs", "meshlog", "--log-dir", "/dev/null", "--no-python", "sh", "-c", "echo rank $RANK")
    assert sorted(out.splitlines()) == ["[0] rank 0", "[1] rank 1"]


def test_a_script_run_as_a_function_is_captured(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import meshlog_handler\nmeshlog_handler.install()\nprint('here')\n")
    out, err = torchrun("--logs-specs", "meshlog", "--run-path", str(script))
    assert sorted(out.splitlines()) == ["[0] here", "[1] here"], err
