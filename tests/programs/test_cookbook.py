"""The examples with several processes from the logging cookbook in Python's documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from .running import same

METHODS = ("fork", "spawn", "forkserver")

EMPTIES = ("opens .* with mode 'w'",)
"""The warning about a handler of the second example. No spawned process creates that handler again there."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("example", ["listener", "thread", "executor", "client"])
def test_a_cookbook_example_shows_the_same_with_our_handlers(example: str, method: str, tmp_path: Path) -> None:
    names = ((r"(Fork|Spawn|ForkServer)?(Process|PoolWorker)-[\d:]+", "PROCESS"),)
    same(lambda place: place.run("cookbook.py", example, method), tmp_path, normal=names, extra=EMPTIES)


def test_the_second_example_shows_the_same_with_one_of_our_handlers_for_each(tmp_path: Path) -> None:
    same(lambda place: place.run("cookbook.py", "thread", "fork"), tmp_path, "each", extra=EMPTIES)
