"""Fixtures for all tests. One runs around every test and fails the tests that leave something behind."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator

import hypothesis
import pytest

from .engines.needed import ENGINES
from .leaks import Held
from .programs.needed import PROGRAMS
from .setup_state import Loggers, Setup

# No deadline for a single example: on a busy machine it depends more on the machine than on the code.
hypothesis.settings.register_profile("meshlog", deadline=None, print_blob=True)
hypothesis.settings.register_profile("brief", deadline=None, print_blob=True, max_examples=20)  # see .ci/run
hypothesis.settings.load_profile("meshlog")

# Variables of a launcher. A test run inside a Slurm job or torchrun is not one of its ranks.
_VARIABLES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PMI_RANK"}
_PREFIXES = ("MESHLOG_", "SLURM_", "OMPI_COMM_WORLD_", "MPI_LOCAL")


def pytest_configure() -> None:
    """Remove the developer's settings and the launcher's variables from the environment of this run and its children."""
    # A shell, CI or nohup starts background jobs with signals ignored. Children inherit that, and tests that send them fail.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    for name in list(os.environ):
        for_tests = name in (ENGINES, PROGRAMS) or name.startswith("MESHLOG_TEST_")
        if name in _VARIABLES or (name.startswith(_PREFIXES) and not for_tests):
            del os.environ[name]
    # Every spawned child would import pytest's main module again, needing nothing from it. A prompt has no file either.
    main = sys.modules["__main__"]
    main.__spec__ = None
    vars(main).pop("__file__", None)
    # A CI service may set variables that control colours: tests of colours set them themselves.
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        os.environ.pop(name, None)
    # Use a separate place, so that a concurrent run of these tests leaves nothing behind here.
    shared_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    os.environ["MESHLOG_RUN_DIR"] = tempfile.mkdtemp(prefix="mlt-", dir=shared_memory)


def pytest_unconfigure() -> None:
    """Remove the directory that held the run directories of this run's clients."""
    shutil.rmtree(os.environ.pop("MESHLOG_RUN_DIR", ""), ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves something behind, and restore what can be restored.

    After the test there are no new threads, child processes, file descriptors or run directories; the root logger,
    the standard streams, ``warnings.showwarning`` and ``MESHLOG_*`` are as before. Warning filters are
    restored silently, because many libraries add some when they are first imported.

    It is set up before a test's other fixtures and ends after them, so their clean-up is finished by then. Resources
    of fixtures with a wider scope do not count as the test's.
    """
    with warnings.catch_warnings():
        setup, held = Setup.take(), Held.take()
        yield
        changed = setup.changed()
        setup.restore()
    problems = [*held.left(), *changed]
    if problems:
        pytest.fail("the test left behind:\n  " + "\n  ".join(problems), pytrace=False)


@pytest.fixture
def restored_logging() -> Iterator[logging.Logger]:
    """Let a test configure logging freely; restore all loggers afterwards."""
    loggers = Loggers.take()
    yield logging.getLogger()
    loggers.restore()
