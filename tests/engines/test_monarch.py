"""On a real Monarch mesh: each program of `monarch_programs` does what its docstring says, directly and through relays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.documents import Page

from .needed import need

need("monarch")

PAGE = Page("docs/monarch.md")

ROOT = Path(__file__).parents[2]
DEADLINE = 110.0
# On two cores shared with other jobs, Monarch alone takes ten seconds to start, and ten more to notice deaths.
pytestmark = pytest.mark.timeout(DEADLINE + 10.0)

DIRECT = (
    "records",
    "grouping",
    "control",
    "killed",
    "killed_in_a_part",
    "killed_at_the_end",
    "broken",
    "detaching",
    "another",
    "stopping",
    "from_an_actor",
)
RELAYED = (
    "records",
    "grouping",
    "control",
    "killed",
    "killed_at_the_end",
    "relay_killed",
    "relay_silent",
    "detaching",
    "stopping",
)


def run(*words: str) -> str:
    """Run a program; return its output."""
    command = [sys.executable, "-m", "tests.engines.monarch_programs", *words]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert ran.returncode == 0, ran.stderr[-5000:]
    assert "procs did not detach cleanly" not in ran.stderr
    return ran.stdout


@pytest.mark.parametrize("program", DIRECT)
def test_the_program_passes_on_the_same_machine(program: str) -> None:
    run(program)


@pytest.mark.parametrize("program", RELAYED)
def test_the_program_passes_through_relays(program: str) -> None:
    run(program, "relay")


@pytest.mark.parametrize("relay", [[], ["relay"]], ids=["direct", "relay"])
def test_the_last_lines_are_shown_when_the_program_ends(relay: list[str]) -> None:
    assert "[4 similar log lines] [ranks 0-3] printed last\n" in run("leaving", *relay)


def test_monarchs_own_forwarding_shows_nothing_twice_and_resumes_afterwards() -> None:
    shown = run("forwarding").splitlines()
    assert sorted(line for line in shown if "printed during" in line) == [f"[{rank}] printed during" for rank in range(4)]
    before, after = (sum(f"printed {when}" in line for line in shown) for when in ("before", "after"))
    assert before == after >= 4


@pytest.mark.parametrize("body", PAGE.scripts("monarch"))
def test_the_recipe_runs(body: str, tmp_path: Path) -> None:
    PAGE.run(body, tmp_path)
