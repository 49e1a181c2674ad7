"""Fixtures for all tests. One runs around every test and fails those that leave something behind."""

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

# No deadline for a single example: on a busy machine it says more about the machine than about the code.
hypothesis.settings.register_profile("meshlog", deadline=None, print_blob=True)
hypothesis.settings.load_profile("meshlog")

# What a launcher sets. A test run inside of one (a Slurm job, torchrun) is not a rank of it.
_VARIABLES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PMI_RANK"}
_PREFIXES = ("MESHLOG_", "SLURM_", "OMPI_COMM_WORLD_", "MPI_LOCAL")


def pytest_configure() -> None:
    """Take the developer's settings and launcher out of the environment of this run and its children."""
    # Run in the background by a shell, a CI or nohup. Children would inherit it, and the tests that send them these fail.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    for name in list(os.environ):
        if name in _VARIABLES or (name.startswith(_PREFIXES) and name not in (ENGINES, PROGRAMS)):
            del os.environ[name]
    # Every spawned child would import the main module anew: pytest's, of which it needs nothing. A prompt has no file either.
    main = sys.modules["__main__"]
    main.__spec__ = None
    vars(main).pop("__file__", None)
    # What a service that runs checks may set decides on colours: tests that are about that set it themselves.
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        os.environ.pop(name, None)
    # A place of its own: another run of these tests, at the same time, leaves nothing behind here.
    shared_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    os.environ["MESHLOG_RUN_DIR"] = tempfile.mkdtemp(prefix="mlt-", dir=shared_memory)


def pytest_unconfigure() -> None:
    """Remove the place where this run's clients had their directories."""
    shutil.rmtree(os.environ.pop("MESHLOG_RUN_DIR", ""), ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves something behind, and put back what can be.

    After it there are no new threads, child processes, file descriptors or run directories; the root logger,
    the standard streams, ``warnings.showwarning`` and ``MESHLOG_*`` are as before. Warning filters are
    put back without a word, for many a library adds some when it is first imported.

    It is set up before a test's other fixtures and ends after them: what they undo is undone by then. What
    fixtures of a wider scope hold is not the test's.
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
    """Give the root logger to a test that configures logging as it likes; put all loggers back afterwards."""
    loggers = Loggers.take()
    yield logging.getLogger()
    loggers.restore()
