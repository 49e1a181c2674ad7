"""The README's code does what it says: every Python block runs, and shows the lines that follow it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .documents import Page
from .procs import ROOT

pytestmark = pytest.mark.docs

README = Page("README.md")


@pytest.mark.parametrize("number", range(len(README.scripts())))
def test_python_block(number: int, tmp_path: Path) -> None:
    README.run(README.scripts()[number], tmp_path)


def test_the_first_two_shell_blocks_are_one_command_each() -> None:
    for block in README.blocks("sh")[:2]:
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        assert len(lines) == 1


def test_each_guarantee_is_tested_and_each_test_names_one_that_is_there() -> None:
    """The tests name the guarantees, by a comment; the README names no tests."""
    section = Path(ROOT, "README.md").read_text().partition("## What is guaranteed")[2].partition("\n## ")[0]
    given = set(re.findall(r"^- \*\*(.+?)\.\*\*", section, re.MULTILINE))
    tests = "\n".join(path.read_text() for path in Path(ROOT, "tests").rglob("*.py"))
    named = re.findall(r"^# README, \"What is guaranteed\": ([^.]+)\.", tests, re.MULTILINE)
    assert given
    assert {each for names in named for each in names.split(", ")} == given
