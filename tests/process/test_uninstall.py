"""The state of a process that has left its client and continues."""

from __future__ import annotations

import gc
import logging
import logging.config
import multiprocessing
import os
import sys
import warnings
from typing import Any

import pytest

from meshlog_handler import install, uninstall
from meshlog_handler.mesh.control import LoggingMeshClient
from meshlog_handler.testing import collected
from tests.waiting import until

from .procs import DEADLINE, join_all, run_python, started


def be_turned_up(address: str, ready: Any, go: Any) -> None:
    """Join, and leave after the client has set levels. Leaving restores the old levels."""
    logger = logging.getLogger("app")
    logger.setLevel(logging.ERROR)
    root = logging.getLogger().level
    install(address)
    ready.release()
    assert go.acquire(timeout=DEADLINE)
    assert (logging.getLogger().level, logger.level) == (logging.CRITICAL, logging.DEBUG)
    logger.debug("details")
    uninstall()
    assert (logging.getLogger().level, logger.level) == (root, logging.ERROR)


@pytest.mark.usefixtures("real_stdout")
def test_uninstall_restores_the_levels_that_the_client_has_set() -> None:
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


def be_as_before(address: str) -> None:
    """Join and leave, twice. Leaving restores what a program can set."""

    def state() -> tuple[object, ...]:
        root = logging.getLogger()
        configuring = logging.config.dictConfigClass
        return root.level, root.handlers[:], set(vars(root)), configuring, warnings.showwarning, list(warnings.filters)

    before = state()
    for _ in range(2):
        install(address, warnings=True)
        install(address, level="DEBUG")
        assert logging.getLogger().level == logging.DEBUG
        until(lambda: warnings.showwarning is not before[4])
        logging.config.dictConfig({"version": 1})
        uninstall()
        assert state() == before
    install(address)
    logging.getLogger().setLevel(logging.ERROR)
    uninstall()
    assert logging.getLogger().level == logging.ERROR, "that was the program's"


@pytest.mark.usefixtures("real_stdout")
def test_uninstall_restores_what_a_program_can_set() -> None:
    with collected() as logs, started("spawn", be_as_before, [(logs.address,)]) as procs:
        assert join_all(procs) == [0]


def join_and_leave_many_times(address: str) -> None:
    """Join and leave without the garbage collector, which training loops switch off. Nothing may accumulate."""
    install(address)
    uninstall()
    gc.collect()
    gc.disable()
    before = held()
    for _ in range(3):
        install(address)
        logging.getLogger("app").warning("joined")
        uninstall()
        until(lambda: held() == before, what="descriptors and maps to be given back")


def held() -> tuple[int, int]:
    """Return the number of descriptors, and of maps of a journal."""
    with open("/proc/self/maps") as maps:
        return len(os.listdir("/proc/self/fd")), sum("journal" in line for line in maps)


def join_and_fork(address: str) -> None:
    """Fork a child, which has nothing of the journal."""
    before = held()
    install(address, capture=False)
    pid = os.fork()
    if not pid:
        os._exit(held() != before)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="no other system lists the maps of a process")
@pytest.mark.usefixtures("real_stdout")
def test_uninstall_gives_back_descriptors_and_maps_without_the_garbage_collector() -> None:
    with collected() as logs, started("spawn", join_and_leave_many_times, [(logs.address,)]) as procs:
        assert join_all(procs) == [0]


@pytest.mark.skipif(sys.platform != "linux", reason="no other system lists the maps of a process")
@pytest.mark.usefixtures("real_stdout")
def test_a_forked_child_keeps_nothing_of_the_journal_of_its_parent() -> None:
    with collected() as logs, started("spawn", join_and_fork, [(logs.address,)]) as procs:
        assert join_all(procs) == [0]


LEVELS = """\
import logging, sys
from meshlog_handler import SettingError, install
if sys.argv[1:]: logging.basicConfig(**{"level": sys.argv[1]} if sys.argv[1] != "default" else {})
install()
print(logging.getLogger().level)
"""


@pytest.mark.parametrize(("configured", "level"), [(None, 20), ("default", 30), ("WARNING", 30), ("ERROR", 40), ("DEBUG", 10)])
def test_install_sets_a_level_only_if_the_program_has_not_configured_logging(configured: str | None, level: int) -> None:
    with collected() as logs:
        run_python("-c", LEVELS, *([configured] if configured else []), env=logs.environ())
        logs.flush()
        assert logs.messages == [str(level)]


def test_an_invalid_setting_is_found_before_anything_is_installed() -> None:
    code = "import logging, meshlog_handler\ntry: meshlog_handler.install()\nexcept ValueError as failure: print(failure)"
    with collected() as logs:
        done = run_python("-c", code, env={**logs.environ(), "MESHLOG_FAST_LOGGER": "maybe"})
        logs.flush()
        assert done.stdout.startswith("MESHLOG_FAST_LOGGER='maybe' is neither on nor off")
        assert logs.messages == []


def print_and_log(address: str) -> None:
    """Join, print and log: the root logger has pytest's handlers, and ``sys.stdout`` is pytest's."""
    install(address)
    print("printed")
    logging.info("logged")


def test_a_worker_that_is_forked_in_a_test_is_shown_as_in_a_program() -> None:
    with collected() as logs:
        with started("fork", print_and_log, [(logs.address,)]) as procs:
            join_all(procs)
        logs.flush()
        assert sorted(logs.messages) == ["logged", "printed"]
