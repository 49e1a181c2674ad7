"""Each example runs in its own process and shows what it promises."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .command_line import MESHLOG
from .documents import output
from .procs import run_command

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*command: str) -> str:
    """Run an example; return its output on both streams."""
    return output(*command, cwd=EXAMPLES)


def test_scan_stdlib_merges_similar_lines_and_writes_a_log_for_each_rank(tmp_path: Path) -> None:
    shown = run("scan_stdlib.py", "--ranks", "4", "--limit", "200", "--log-dir", str(tmp_path))
    assert re.search(r"\[\d+ similar log lines\] \[ranks 0-3\] parsed \d+\.\.\d+ lines, \d+\.\.\d+ functions", shown)
    assert "the largest of" in shown
    assert "0 dropped" in shown
    for rank in range(4):
        logged = (tmp_path / f"rank-{rank}.log").read_text()
        told = logged.count("scan: parsed ") + logged.count("cannot be parsed")
        assert told == 50
        assert "\r" not in (tmp_path / f"rank-{rank}.stdout").read_text()


def test_existing_app_with_a_dictconfig_shows_records_of_every_worker() -> None:
    shown = run("existing_app.py")
    assert re.search(r"INFO \[rank None, pid \d+\] orders: the shop is open", shown)
    assert sorted(re.findall(r"INFO \[rank \d+, pid \d+\] orders: order (\d) handled", shown)) == list("012345")
    assert "handled 6" in shown


def test_process_pool_merges_similar_records() -> None:
    shown = run("process_pool.py")
    assert re.search(r"\[9 similar log lines\] \[ranks? [0-9,-]+\] squaring 0\.\.8", shown)
    assert "total 204, dropped 0" in shown


def test_mesh_merges_records_and_reports_the_failed_rank() -> None:
    shown = run("mesh.py")
    for step in range(3):
        assert re.search(rf"\[4 similar log lines\] \[ranks 0-3\] step {step} loss=\d\.\d+\.\.\d\.\d+", shown)
    assert "[3] rank 3 has time for details" in shown
    assert shown.count("has time for details") == 1
    assert "failed on ranks (2,), because: ValueError('the third rank has no data')" in shown


def test_a_stuck_rank_is_named_with_the_place_where_it_is_stuck(tmp_path: Path) -> None:
    words = ("run", "-n", "4", "--hang-after", "5", "--on-hang", "kill", "--grace", "1", "--", sys.executable, "stuck_rank.py")
    shown = run_command(*MESHLOG, *words, env={"STEP_SEC": "0.01", "TMPDIR": str(tmp_path)}, code=124, cwd=EXAMPLES).stderr
    told = next(line for line in shown.splitlines() if "no progress for 5 s: " in line)
    assert "rank 3 in load_batch (stuck_rank.py:44)" in told
    assert "in wait_for_others (stuck_rank.py:" in told  # the others are in one of its two lines
