"""The examples of the logging cookbook of Python's documentation that have several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from .running import same

METHODS = ("fork", "spawn", "forkserver")

EMPTIES = ("opens .* with mode 'w'",)
"""What is said of a handler of the second example, which no spawned process makes anew there."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("example", ["listener", "thread", "executor", "client"])
def test_example(example: str, method: str, tmp_path: Path) -> None:
    names = ((r"(Fork|Spawn|ForkServer)?(Process|PoolWorker)-[\d:]+", "PROCESS"),)
    same(lambda place: place.run("cookbook.py", example, method), tmp_path, normal=names, extra=EMPTIES)


def test_the_second_example_with_a_handler_of_ours_for_each(tmp_path: Path) -> None:
    same(lambda place: place.run("cookbook.py", "thread", "fork"), tmp_path, "each", extra=EMPTIES)
