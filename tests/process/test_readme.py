"""The README's code does what it says: every Python block runs, and shows the lines that follow it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [body for name, body in BLOCK.findall(README.read_text()) if name == language]


def shape(text: str) -> str:
    """Return text without what differs from run to run: times, pids, order of ranks."""
    return re.sub(r"\d+(\.\d+)?", "0", text)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_block(number: int, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(blocks("python")[number])
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(script)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    follows = r"```\n+(?:[^\n`]+\n+)?```text\n(.*?)```"
    promised = re.search(re.escape(blocks("python")[number]) + follows, README.read_text(), re.DOTALL)
    if promised is not None:
        shown = {shape(line) for line in done.stdout.splitlines()}
        for line in promised[1].splitlines():
            assert shape(line) in shown, f"the README promises {line!r}; shown was:\n{done.stdout}"


def test_the_first_two_shell_blocks_are_one_command_each() -> None:
    for block in blocks("sh")[:2]:
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        assert len(lines) == 1
