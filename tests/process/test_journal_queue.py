"""With the queue of a client, programs that follow the logging cookbook change only one line."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import multiprocessing
import os
import pickle
import queue
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from meshlog_handler import ClosedError, JournalQueue, LogClient, install
from meshlog_handler.testing import RecordCollector, collected

from .procs import METHODS, join_all, run_python, started


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """Yield a logger that does not propagate records."""
    logger = logging.getLogger("cookbook")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    yield logger
    logger.handlers[:] = []


def worker_configurer(records: Any) -> logging.Logger:
    """Configure logging like the workers in the cookbook."""
    logger = logging.getLogger("worker")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [logging.handlers.QueueHandler(records)]
    return logger


def work(records: Any, number: int) -> None:
    logger = worker_configurer(records)
    for line in range(100):
        logger.info("%d of %d", line, number)


def work_and_die(records: Any, number: int) -> None:
    work(records, number)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [work, work_and_die])
def test_workers_from_the_cookbook_send_all_records_in_order(method: str, target: Any) -> None:
    with collected() as logs:
        with started(method, target, [(logs.client.queue, number) for number in range(3)]) as procs:
            join_all(procs)
        logs.flush()
        of_workers = [record.getMessage() for record in logs.records if record.name == "worker"]
    assert sorted(of_workers) == sorted(f"{line} of {number}" for line in range(100) for number in range(3))
    for number in range(3):
        assert [each for each in of_workers if each.endswith(f"of {number}")] == [f"{line} of {number}" for line in range(100)]


def test_a_queue_handler_in_the_client_process_sends_records_without_a_rank(log: logging.Logger) -> None:
    with collected() as logs:
        log.addHandler(logging.handlers.QueueHandler(logs.client.queue))
        log.info("one")
        log.info("two %d", 2)
        logs.flush()
        assert logs.messages == ["one", "two 2"]
        assert logs.of_rank(None) == logs.records


def test_records_before_the_start_and_after_the_stop_are_shown_at_once(log: logging.Logger) -> None:
    collector = RecordCollector()
    client = LogClient(collector)
    log.addHandler(logging.handlers.QueueHandler(client.queue))
    log.info("before")
    assert collector.messages == ["before"]
    for number in range(2):
        with client:
            log.info("while it runs %d", number)
    assert collector.messages == ["before", "while it runs 0", "while it runs 1"]
    log.info("after")
    assert collector.messages[-1] == "after"


def child_of_fork(log: logging.Logger) -> None:
    log.info("child")


def test_a_forked_child_gets_its_own_rank(log: logging.Logger) -> None:
    with collected() as logs:
        log.addHandler(logging.handlers.QueueHandler(logs.client.queue))
        log.info("parent")
        with started("fork", child_of_fork, [(log,)]) as procs:
            join_all(procs)
        log.info("parent again")
        logs.flush()
        ranks = [(record.getMessage(), vars(record)["rank"]) for record in logs.records]
    assert sorted(ranks, key=str) == [("child", 0), ("parent again", None), ("parent", None)]


def installed(address: str, records: Any) -> None:
    install(address, capture=False)
    logging.getLogger("other").warning("installed")
    worker_configurer(records).info("put")


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_of_one_client_can_use_the_queue_of_another(method: str) -> None:
    with collected() as one, collected() as other:
        with started(method, installed, [(one.address, other.client.queue), (one.address, one.client.queue)]) as procs:
            join_all(procs)
        one.flush()
        other.flush()
        assert sorted(one.messages) == ["installed", "installed", "put"]
        assert other.messages == ["put"]
        assert len({vars(record)["rank"] for record in one.records}) == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="logging.config knows queues since 3.12")
def test_a_logging_configuration_can_name_the_queue(restored_logging: logging.Logger) -> None:
    with collected() as logs:
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {
                    "queue": {
                        "class": "logging.handlers.QueueHandler",
                        "queue": {"()": lambda: logs.client.queue},
                        "handlers": [],
                    }
                },
                "loggers": {"configured": {"level": "INFO", "handlers": ["queue"], "propagate": False}},
            }
        )
        logging.getLogger("configured").info("by the queue")
        logs.flush()
        assert logs.messages == ["by the queue"]
        logging.getLogger("configured").handlers.clear()


def test_only_the_client_can_read_the_queue() -> None:
    client = LogClient(RecordCollector())
    assert isinstance(client.queue, queue.Queue)
    with pytest.raises(ClosedError):
        client.queue.get_nowait()
    with pytest.raises(ClosedError):
        client.queue.get()
    assert client.queue.empty()
    assert not client.queue.full()
    with pytest.raises(ClosedError, match="start"):
        pickle.dumps(client.queue)


def test_without_a_client_it_is_an_ordinary_queue(log: logging.Logger) -> None:
    collector, records = RecordCollector(), JournalQueue()
    listener = logging.handlers.QueueListener(records, collector)
    log.addHandler(logging.handlers.QueueHandler(records))
    log.info("before")
    for number in range(2):
        listener.start()
        log.info("while it reads %d", number)
        listener.stop()
    assert collector.messages == ["before", "while it reads 0", "while it reads 1"]
    log.info("kept")
    records.put_nowait(None)  # type: ignore[arg-type]  # a sentinel that no listener has read
    with LogClient(collector, queue=records) as client:
        log.info("sent")
        client.flush()
        assert collector.messages[-2:] == ["kept", "sent"]


def test_a_listener_ends_that_began_to_read_before_a_client_got_the_queue(log: logging.Logger) -> None:
    records = JournalQueue()
    listener = logging.handlers.QueueListener(records, RecordCollector())
    listener.start()
    LogClient(RecordCollector(), queue=records)
    listener.stop()


FORKED = """
import logging, os
from meshlog_handler import LogClient
records = LogClient(logging.NullHandler()).queue
if not os.fork():
    for level in (logging.INFO, logging.WARNING):
        records.put(logging.makeLogRecord({"msg": "put at %d", "args": (level,), "levelno": level}))
    os._exit(not records.empty())
print(os.wait()[1])
"""


def test_a_child_that_is_forked_while_the_client_does_not_run_shows_warnings() -> None:
    ran = run_python("-c", FORKED)
    assert (ran.stdout, ran.stderr) == ("0\n", "put at 30\n")


def test_an_item_that_is_no_record_is_reported_once_and_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    with collected() as logs:
        for item in (None, 1, "text", {"msg": "no record"}):
            logs.client.queue.put_nowait(item)
        logs.client.queue.put(logging.makeLogRecord({"msg": "a record", "levelno": 20, "levelname": "INFO"}))
        logs.flush()
        assert logs.messages == ["a record"]
    assert capfd.readouterr().err.count("is left out") == 1


def test_copies_of_a_queue_in_one_process_share_a_connection() -> None:
    """A task of a pool gets a new copy of the queue each time."""
    with collected() as logs:
        pickled = pickle.dumps(logs.client.queue)
        with started("fork", put_into_copies, [(pickled, 5)]) as procs:
            assert join_all(procs) == [0]
        logs.flush()
        assert [record.getMessage() for record in logs.records] == [f"copy {number}" for number in range(5)]
        assert [rank for rank in logs.client.stats() if rank is not None] == [0]


def put_into_copies(pickled: bytes, count: int) -> None:
    for number in range(count):
        pickle.loads(pickled).put(logging.makeLogRecord({"msg": f"copy {number}", "levelno": logging.INFO}))


def test_the_queue_can_be_pickled_and_sent_through_a_pipe() -> None:
    with collected() as logs:
        ours, theirs = multiprocessing.Pipe()
        ours.send(logs.client.queue)
        received = theirs.recv()
        received.put(logging.makeLogRecord({"msg": "sent", "levelno": 20, "levelname": "INFO"}))
        logs.flush()
        assert logs.messages == ["sent"]
        received.close()
        ours.close()
        theirs.close()
