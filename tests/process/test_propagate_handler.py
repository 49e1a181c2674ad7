"""Handlers on the loggers of this process get the records of other processes, for example pytest's ``caplog``."""

from __future__ import annotations

import logging
import os

import pytest

from meshlog_handler import LogClient, this_host
from meshlog_handler.testing import PropagateHandler

WAIT = 60.0


def work(number: int) -> None:
    logging.getLogger("job").info("step %d", number, extra={"epoch": 3})
    logging.getLogger("job.quiet").info("not to be seen")
    print("printed")


def test_caplog_gets_what_ranks_log_and_print(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "job.quiet")
    caplog.set_level(logging.INFO)
    with this_host().spawn_procs({"gpus": 2}, handlers=[PropagateHandler()]) as procs:
        procs.logging_option(aggregate_window_sec=None).get(WAIT)
        procs.call(work, 7).get(WAIT)
        procs.flush().get(WAIT)
        # After a flush, there is no need to wait.
        seen = caplog.record_tuples[:]
    assert sorted(seen) == [("job", logging.INFO, "step 7")] * 2 + [("stdout", logging.INFO, "printed")] * 2
    found = [vars(record) for record in caplog.records if record.name == "job"]
    assert sorted((fields["rank"], fields["epoch"], fields["funcName"]) for fields in found) == [(0, 3, "work"), (1, 3, "work")]
    assert os.getpid() not in {fields["process"] for fields in found}


def test_the_levels_of_this_process_apply_to_records_of_workers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with this_host().spawn_procs({"gpus": 1}, handlers=[PropagateHandler()]) as procs:
        procs.call(work, 7).get(WAIT)
    assert caplog.records == []


def test_a_filter_on_a_logger_applies_to_records_of_workers(
    restored_logging: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    logging.getLogger("job").addFilter(lambda record: vars(record)["rank"] == 1)
    with this_host().spawn_procs({"gpus": 2}, handlers=[PropagateHandler()]) as procs:
        procs.logging_option(aggregate_window_sec=None).get(WAIT)
        procs.call(work, 7).get(WAIT)
    assert [vars(record)["rank"] for record in caplog.records if record.name == "job"] == [1]


def test_a_record_of_this_process_is_not_passed_to_its_loggers_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with LogClient(PropagateHandler()) as client:
        own = logging.getLogger("own").makeRecord("own", logging.INFO, __file__, 1, "own", (), None)
        client.on_thread(lambda: client._loop.dispatcher.show(own)).result(WAIT)
    assert caplog.records == []
