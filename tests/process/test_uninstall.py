"""What a process is like when it has left its client, and goes on."""

from __future__ import annotations

import logging
import multiprocessing
from typing import Any

import pytest

from meshlog_handler import install, uninstall
from meshlog_handler.mesh_client import LoggingMeshClient
from meshlog_handler.testing import collected

from .procs import DEADLINE, join_all, started


def be_turned_up(address: str, ready: Any, go: Any) -> None:
    """Join; when the client has set levels, leave: they are as they were."""
    logger = logging.getLogger("app")
    logger.setLevel(logging.ERROR)
    install(address)
    root = logging.getLogger().level
    ready.release()
    assert go.acquire(timeout=DEADLINE)
    assert (logging.getLogger().level, logger.level) == (logging.CRITICAL, logging.DEBUG)
    logger.debug("details")
    uninstall()
    assert (logging.getLogger().level, logger.level) == (root, logging.ERROR)


@pytest.mark.usefixtures("real_stdout")
def test_levels_that_the_client_has_set_go_with_it() -> None:
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Semaphore(0)
    with collected() as logs, started("spawn", be_turned_up, [(logs.address, ready, go)]) as procs:
        assert ready.acquire(timeout=DEADLINE)
        mesh = LoggingMeshClient(logs.client, "", None)
        mesh.set_level(logging.CRITICAL)
        for level in ("INFO", "DEBUG"):
            mesh.set_level(level, "app", ranks=[0])
        go.release()
        join_all(procs)
        logs.flush()
        assert logs.messages == ["details"]
        assert [proc.exitcode for proc in procs] == [0]
