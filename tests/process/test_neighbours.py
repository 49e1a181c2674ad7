"""Every recipe in docs/neighbours.md works as written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .documents import Page
from .procs import DEADLINE

pytestmark = pytest.mark.docs

PAGE = Page("docs/neighbours.md")


@pytest.mark.parametrize("number", range(len(PAGE.scripts())))
def test_each_recipe_script_works_as_written(number: int, tmp_path: Path) -> None:
    PAGE.run(PAGE.scripts()[number], tmp_path)


def test_the_recipe_for_pytest_works_as_written(tmp_path: Path) -> None:
    name = "test_training.py"
    (tmp_path / name).write_text(PAGE.file(name))
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", name]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
