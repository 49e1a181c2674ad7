"""Interpreters of `InterpreterPoolExecutor`: what cannot work there is a clear error, and the recipe for them works."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .documents import Page
from .procs import run_python

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="no InterpreterPoolExecutor")

REFUSED = """
import logging
from concurrent.futures import InterpreterPoolExecutor
import meshlog_handler

def attempt(name, address):
    import logging.config, sys
    import meshlog_handler
    try:
        if name == "install":
            meshlog_handler.install(address)
        elif name == "MeshHandler":
            logging.config.dictConfig({"version": 1, "handlers": {"mesh": {"class": "meshlog_handler.MeshHandler"}}})
        else:
            meshlog_handler.LogClient().start()
    except ValueError as error:
        return f"{type(error).__name__}: {error.__cause__ or error}", logging.getLogger().level, logging.getLogger().handlers

with meshlog_handler.LogClient() as client, InterpreterPoolExecutor(1) as pool:
    for name in ("install", "MeshHandler", "LogClient"):
        print(pool.submit(attempt, name, client.address).result())
    print(dict(client.stats()))
"""


def test_joining_in_an_interpreter_of_a_pool_is_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "refused.py"
    path.write_text(REFUSED)
    *refused, ranks = run_python(str(path)).stdout.splitlines()
    assert len(refused) == 3
    for line, what in zip(refused, ("install()", "a MeshHandler", "a LogClient"), strict=True):
        assert f"{what} does not work in this interpreter" in line
        assert "QueueHandler" in line
        assert line.endswith(", 30, [])")  # logging is as it was
    assert ranks == "{}"


def test_the_recipe_shows_records_with_their_interpreter(tmp_path: Path) -> None:
    page = Page("docs/integrations.md")
    page.run(page.file("interpreters.py"), tmp_path)
