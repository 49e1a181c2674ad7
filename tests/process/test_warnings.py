"""Warnings of workers: the client's filters apply to them, and the warnings that pass come back as records."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import warnings

import pytest

from meshlog_handler import RankError, install, this_host
from meshlog_handler.testing import RecordCollector, collected

from .procs import METHODS

WAIT = 60.0


class HiddenWarning(UserWarning):
    """A warning that the client's process ignores."""


class RefusedWarning(UserWarning):
    """A warning that is an error in the client's process."""


@pytest.fixture(autouse=True)
def filters() -> None:
    """Set the warning filters of the client's process; they are restored after each test."""
    warnings.resetwarnings()
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # of Python 3.12 and later
    warnings.simplefilter("default", UserWarning, append=True)
    warnings.simplefilter("ignore", HiddenWarning)
    warnings.simplefilter("error", RefusedWarning)


def warn(number: int) -> None:
    warnings.warn(f"file {number} is old", UserWarning, stacklevel=1)
    warnings.warn("nobody wants to hear this", HiddenWarning, stacklevel=1)


def warn_of_error() -> None:
    warnings.warn("refused", RefusedWarning, stacklevel=1)


def spell(text: str) -> str:
    return (
        f'{__file__}:{warn.__code__.co_firstlineno + 1}: UserWarning: {text}\n  warnings.warn(f"file {{number}} is old", '
        "UserWarning, stacklevel=1)"
    )


@pytest.mark.parametrize("method", METHODS)
def test_filters_reach_the_workers_of_a_mesh_and_its_warnings_come_back_as_records(method: str) -> None:
    collector = RecordCollector()
    with this_host().spawn_procs({"gpus": 2}, handlers=[collector], start_method=method) as procs:
        procs.logging_option(aggregate_window_sec=None).get(WAIT)
        procs.call(warn, 7).get(WAIT)
        procs.call(warn, 7).get(WAIT)  # the filter lets each place warn once only
        with pytest.raises(RankError) as caught:
            procs.call(warn_of_error).get(WAIT)
        assert isinstance(caught.value.__cause__, RefusedWarning)
    assert collector.messages == [spell("file 7 is old")] * 2
    assert sorted((record.name, record.levelno, record.lineno, vars(record)["rank"]) for record in collector.records) == [
        ("py.warnings", logging.WARNING, warn.__code__.co_firstlineno + 1, rank) for rank in range(2)
    ]


def test_a_mesh_has_the_filters_of_the_call_that_spawns_it() -> None:
    collector = RecordCollector()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        procs = this_host().spawn_procs({"gpus": 1}, handlers=[collector])
    with procs:
        procs.call(warn, 1).get(WAIT)
    assert collector.messages == []


def test_the_same_warning_of_four_ranks_is_shown_once_and_the_other_three_are_grouped() -> None:
    collector = RecordCollector()
    with this_host().spawn_procs({"gpus": 4}, handlers=[collector]) as procs:
        procs.logging_option(aggregate_window_sec=60).get(WAIT)
        procs.call(warn, 7).get(WAIT)
        # The first warning is shown at once; the others are counted.
        procs.flush().get(WAIT)
    first, others = collector.records
    assert first.getMessage() == spell("file 7 is old")
    assert (vars(others)["count"], len(vars(others)["ranks"])) == (3, 3)
    assert others.getMessage().endswith(spell("file 7 is old"))


@pytest.mark.parametrize("method", METHODS)
def test_the_workers_of_a_pool_take_the_filters_if_warnings_is_true(method: str) -> None:
    with collected() as logs:
        initializer = functools.partial(install, logs.address, warnings=True)
        with multiprocessing.get_context(method).Pool(2, initializer) as pool:
            pool.map(warn, [7], 1)
            logs.flush()
            pool.close()
            pool.join()
    assert logs.messages == [spell("file 7 is old")]


def test_the_workers_of_a_pool_keep_their_own_filters_by_default() -> None:
    with collected() as logs, multiprocessing.get_context("spawn").Pool(1, install, (logs.address,)) as pool:
        pool.map(warn, [7], 1)
        logs.flush()
        pool.close()
        pool.join()
    assert {vars(record)["stream"] for record in logs.records} == {"stderr"}
    assert any("nobody wants to hear this" in message for message in logs.messages)
