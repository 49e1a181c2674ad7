"""The README's code does what it says: every Python block runs, and shows the lines that follow it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .documents import Page

pytestmark = pytest.mark.docs

README = Page("README.md")


@pytest.mark.parametrize("number", range(len(README.scripts())))
def test_python_block(number: int, tmp_path: Path) -> None:
    README.run(README.scripts()[number], tmp_path)


def test_the_first_two_shell_blocks_are_one_command_each() -> None:
    for block in README.blocks("sh")[:2]:
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        assert len(lines) == 1
