"""A client also shows what is put into a queue of the program: every kind, under every start method."""

from __future__ import annotations

import contextlib
import functools
import logging
import logging.config
import logging.handlers
import multiprocessing
import multiprocessing.util
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import multiprocess
import pytest

from meshlog_handler import FlushTimeout, JournalQueue, LogClient, SettingError
from meshlog_handler.client.queues.queue_reader import END, PUTTER_NAME, READER_NAME, QueueReader
from meshlog_handler.testing import PropagateHandler, RecordCollector, collected
from tests.waiting import until

from .procs import DEADLINE, METHODS, held_up, join_all, run_python

KINDS = ("Queue", "SimpleQueue", "JoinableQueue", "managed")


class PutHandler(logging.handlers.QueueHandler):
    """A `QueueHandler` for `SimpleQueue`, which has no `put_nowait`."""

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put a record."""
        put: Any = self.queue
        put.put(record)


def work(records: Any, number: int) -> None:
    """Log like a worker of the cookbook."""
    logger = logging.getLogger("worker")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [PutHandler(records)]
    for line in range(20):
        logger.info("%d of %d", line, number)
    logger.handlers.clear()


@contextlib.contextmanager
def a_queue(library: Any, method: str, kind: str) -> Iterator[Any]:
    """Yield a queue, and close it at the end."""
    context = library.get_context(method)
    if kind == "managed":
        with context.Manager() as manager:
            yield manager.Queue()
        return
    made = getattr(context, kind)()
    try:
        yield made
    finally:
        made.close()
        if hasattr(made, "join_thread"):
            made.join_thread()


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """Yield a logger that does not propagate records."""
    logger = logging.getLogger("ordinary")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    yield logger
    logger.handlers[:] = []


def to(logger: logging.Logger, records: Any) -> logging.Logger:
    logger.handlers[:] = [PutHandler(records)]
    return logger


def work_with_all(queues: list[Any], number: int) -> None:
    for records in queues:
        work(records, number)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("library", [multiprocessing, multiprocess], ids=lambda library: library.__name__)
def test_records_of_workers_arrive_by_every_kind_of_queue(library: Any, method: str) -> None:
    if sys.version_info >= (3, 15) and library is multiprocess and method != "fork":
        pytest.skip("dill 0.4.1 cannot pickle functions by value on Python 3.15")
    collectors = [RecordCollector() for _ in KINDS]
    with contextlib.ExitStack() as stack:
        queues = [stack.enter_context(a_queue(library, method, kind)) for kind in KINDS]
        with contextlib.ExitStack() as clients:
            for records, collector in zip(queues, collectors, strict=True):
                clients.enter_context(LogClient(collector, queue=records))
            context = library.get_context(method)
            procs = [context.Process(target=work_with_all, args=(queues, number)) for number in range(2)]
            for proc in procs:
                proc.start()
            assert join_all(procs) == [0, 0]
            pids = {proc.pid for proc in procs}
        for proc in procs:
            proc.close()
    for collector in collectors:
        for number in range(2):
            of_one = [each for each in collector.messages if each.endswith(f"of {number}")]
            assert of_one == [f"{line} of {number}" for line in range(20)]
        assert {record.process for record in collector.records} == pids
        assert {vars(record)["rank"] for record in collector.records} == {None}
        if library is multiprocessing:
            assert all("Process-" in str(record.processName) for record in collector.records)


@pytest.mark.parametrize("make", [queue.Queue, queue.SimpleQueue, multiprocessing.Queue])
def test_a_flush_waits_for_what_this_process_has_put(make: Any, log: logging.Logger) -> None:
    records = make()
    with collected() as logs, logs.client.listen(records):
        to(log, records)
        for number in range(50):
            log.info("%d", number)
            if not number % 10:
                logs.flush()
                assert logs.messages[-1] == str(number)
        logs.flush()
        assert logs.messages == [str(number) for number in range(50)]
    if hasattr(records, "join_thread"):
        records.close()
        records.join_thread()


def test_a_flush_waits_for_a_queue_and_for_a_slow_client(log: logging.Logger) -> None:
    records: queue.Queue[Any] = queue.Queue()
    with collected() as logs, logs.client.listen(records):
        with held_up(logs.client):
            for number in range(5000):
                to(log, records).info("%d", number)
            done = logs.client.flush_soon(DEADLINE)
        done.result(DEADLINE)
        assert len(logs.messages) == 5000


def test_stopping_a_reader_shows_what_was_put_and_leaves_the_rest(log: logging.Logger) -> None:
    records: queue.Queue[Any] = queue.Queue()
    with collected() as logs:
        reader = logs.client.listen(records)
        assert logs.client.listen(records) is reader
        with held_up(logs.client):
            to(log, records).info("before")
            stopping = threading.Thread(target=reader.stop)
            stopping.start()
            until(lambda: records.unfinished_tasks == 2 and records.empty(), what="the reader to read its end")
            log.info("after")
        stopping.join(DEADLINE)
        assert logs.messages == ["before"]
        assert records.get_nowait().msg == "after"
        reader.stop()
        with logs.client.listen(records):
            log.info("read again")
        assert logs.messages == ["before", "read again"]


def test_a_queue_can_be_given_before_the_start_and_is_read_after_each_start(log: logging.Logger) -> None:
    records: queue.Queue[Any] = queue.Queue()
    more: queue.SimpleQueue[Any] = queue.SimpleQueue()
    collector = RecordCollector()
    client = LogClient(collector, queue=records)
    unused = client.listen(queue.Queue())
    unused.stop()
    client.listen(more)
    to(log, records).info("before the start")
    to(log, more).info("and here")
    for number in range(2):
        with client:
            to(log, records).info("while it runs %d", number)
    log.info("after the stop")
    assert sorted(collector.messages) == ["and here", "before the start", "while it runs 0", "while it runs 1"]
    assert records.get_nowait().msg == "after the stop"


def test_the_tasks_of_a_queue_are_done_when_their_records_are_shown(log: logging.Logger) -> None:
    both: tuple[Any, Any] = (queue.Queue(), multiprocessing.JoinableQueue())
    for records in both:
        with collected() as logs, logs.client.listen(records):
            to(log, records).info("one")
            log.info("two")
            records.join()
            assert logs.messages == ["one", "two"]
        records.join()
    records.close()
    records.join_thread()


def test_none_ends_the_reader_as_in_the_cookbook(log: logging.Logger) -> None:
    records: queue.Queue[Any] = queue.Queue()
    with collected() as logs:
        reader = logs.client.listen(records)
        to(log, records).info("last")
        records.put(None)
        log.info("not read")
        until(lambda: not reader.running, what="the reader to end")
        logs.flush()
        assert logs.messages == ["last"]
    assert records.get_nowait().msg == "not read"


@pytest.mark.parametrize(("kind", "size"), [("Queue", 100_000), ("JoinableQueue", 100_000), ("SimpleQueue", 1)])
def test_what_is_behind_the_end_stays_in_the_queue_in_its_order(kind: str, size: int) -> None:
    # With `size`, the pipe cannot hold the third record before the first read has taken the second one.
    first, second, third = (logging.makeLogRecord({"msg": text}) for text in ("first", "x" * size, "third"))
    collector = RecordCollector()
    with a_queue(multiprocessing, "fork", kind) as records:
        put_all(records, (first, None, second, third))
        with LogClient(records, collector):
            collector.wait_for(lambda shown: bool(shown))
        assert collector.messages == ["first"]
        assert [records.get().msg, records.get().msg] == [second.msg, "third"]
        assert_done(records, 2)


@pytest.mark.parametrize("asked", ["flush", "stop", "flush and stop"])
@pytest.mark.parametrize("kind", [*KINDS, "queue.Queue", "queue.SimpleQueue"])
def test_nothing_of_a_client_stays_behind_the_end_of_the_program(kind: str, asked: str) -> None:
    # As many records, or a message as long, as a reader reads at most before the client shows them.
    many, length = (2048, 1) if kind == "queue.Queue" else (1, 2 << 20)
    first, second, third, last = (logging.makeLogRecord({"msg": text}) for text in ("x" * length, "second", "third", "last"))
    collector = RecordCollector()
    with contextlib.ExitStack() as stack:
        records = getattr(queue, kind[6:])() if "." in kind else stack.enter_context(a_queue(multiprocessing, "fork", kind))
        client = stack.enter_context(LogClient(collector))
        reader = client.listen(records)
        with held_up(client):
            put_all(records, [first] * many)
            until(lambda: len(reader.arrived) == many, what="the reader to wait")
            put_all(records, (None, second))
            if "flush" in asked:
                reader.put_mark("a flush", 1)
            if "stop" in asked:
                reader.end_soon()
            until(lambda: not putters(), what="the marks to be in the queue, behind None")
            records.put(third)
        until(lambda: not reader.running, what="the reader to end")
        reader.stop()
        until(lambda: not putters(), what="what is behind the end to be put back")
        records.put(last)
        assert [len(message) for message in collector.messages] == [length] * many
        assert [records.get().msg for _ in range(3)] == ["second", "third", "last"]
        assert_done(records, 3)


def test_the_end_of_a_reader_meets_threads_that_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def join_and_start(thread: threading.Thread) -> None:
        if thread.name in (READER_NAME, PUTTER_NAME):
            met.append(thread.name)
            reader.join()
        start(thread)

    start = threading.Thread.start
    met: list[str] = []
    reader = QueueReader(queue.Queue())
    monkeypatch.setattr(threading.Thread, "start", join_and_start)
    reader.start(lambda: None, lambda: 0, lambda record: None)
    reader.end_soon()
    until(lambda: END in reader.arrived, what="the reader to end")
    assert met == [READER_NAME, PUTTER_NAME]


def put_all(records: Any, items: Iterable[object]) -> None:
    """Put items into a queue."""
    for item in items:
        records.put(item)


def putters() -> list[threading.Thread]:
    """Return the threads that put marks into queues."""
    return [thread for thread in threading.enumerate() if thread.name == PUTTER_NAME]


def assert_done(records: Any, count: int) -> None:
    """Check that a queue that counts tasks waits for `count`."""
    if hasattr(records, "task_done"):
        for _ in range(count):
            records.task_done()
        records.join()
        with pytest.raises(ValueError, match="task_done"):
            records.task_done()


class Picky(queue.Queue[Any]):
    """A queue of a program, which expects records and None."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put the attributes of a record, or None."""
        super().put(item if item is None else vars(item), block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return a record, or None."""
        found = super().get(block, timeout)
        return found if found is None else logging.makeLogRecord(found)


def test_a_queue_of_the_program_gets_none_as_its_end(capfd: pytest.CaptureFixture[str]) -> None:
    records = Picky()
    with collected() as logs:
        reader = logs.client.listen(records)
        records.put(logging.makeLogRecord({"msg": "first"}))
        reader.stop()
        assert logs.messages == ["first"]
    assert records.empty()
    assert capfd.readouterr().err == ""


class Unreadable:
    """An object that cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ()


def explode() -> None:
    raise RuntimeError("cannot be unpickled")


def test_items_that_are_no_records_and_broken_pickles_are_reported_once(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    with a_queue(multiprocessing, "fork", "Queue") as records, collected() as logs, logs.client.listen(records):
        for number in range(3):
            records.put({"msg": "a dict"})
            records.put(number)
            records.put(Unreadable())
            to(log, records).info("%d", number)
        odd = logging.makeLogRecord({"msg": "odd", "created": "today", "name": ["x"], "levelno": None, "rank": "no number"})
        records.put(odd)
        logs.flush()
        assert logs.messages == ["0", "1", "2", "odd"]
    told = capfd.readouterr().err
    assert told.count("an item of type dict") == 1
    assert "type int" not in told
    assert told.count("cannot be read, and is left out: RuntimeError: cannot be unpickled") == 1


def test_a_closed_queue_ends_its_reader(capfd: pytest.CaptureFixture[str]) -> None:
    with collected() as logs:
        before = multiprocessing.active_children()
        manager = multiprocessing.get_context("fork").Manager()
        reader = logs.client.listen(manager.Queue())
        # Not `shutdown` at once: a manager that ends answers a call with None, which ends a reader without a message.
        (server,) = (each for each in multiprocessing.active_children() if each not in before)
        server.kill()
        until(lambda: not reader.running, what="the reader to end")
        manager.shutdown()
        logs.flush()
    assert capfd.readouterr().err.count("is not read any more, because it is closed") == 1


def hold_lock_for_ever(records: Any, ready: Any) -> None:
    """Take the lock of a writer, and be killed."""
    vars(records)["_wlock"].acquire()
    ready.send(True)
    signal.pause()


def test_a_killed_writer_that_holds_the_lock_blocks_neither_flush_nor_stop(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    context = multiprocessing.get_context("fork")
    records, (ours, theirs) = context.Queue(), context.Pipe()
    proc = context.Process(target=hold_lock_for_ever, args=(records, theirs))
    proc.start()
    assert ours.poll(DEADLINE)
    proc.kill()
    proc.join()
    collector = RecordCollector()
    client = LogClient(collector, queue=records).start()
    logging.getLogger("other").handlers[:] = [logging.handlers.QueueHandler(client.journal_queue)]
    logging.getLogger("other").warning("by another way")
    to(log, records).info("never comes out")
    with pytest.raises(FlushTimeout, match="has not returned the mark of the flush"):
        client.flush(0.2)
    began = time.monotonic()
    client.stop(timeout=0.4)
    assert time.monotonic() - began < 5
    assert collector.messages == ["by another way"]
    assert "was not read to its end" in capfd.readouterr().err
    logging.getLogger("other").handlers.clear()
    vars(records)["_wlock"].release()  # so that the threads end, which otherwise end with the process
    until(
        lambda: not any(thread.name.startswith("meshlog-queue") for thread in threading.enumerate()), what="the reader to end"
    )
    assert collector.messages == ["by another way", "never comes out"], "a record that comes late is shown all the same"
    for each in (ours, theirs, records):
        each.close()
    records.join_thread()
    proc.close()


def test_a_process_whose_queue_is_held_can_exit() -> None:
    program = """
import logging, logging.handlers, multiprocessing, os, signal, sys
from meshlog_handler import LogClient
if __name__ == "__main__":
    records = multiprocessing.get_context("fork").Queue()
    if not (pid := os.fork()):
        vars(records)["_wlock"].acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    client = LogClient(queue=records).start()
    client.stop(timeout=0.2)
"""
    assert "was not read to its end" in run_python("-c", program).stderr


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_a_client_that_nobody_stops_shows_what_its_children_put_at_exit(kind: str) -> None:
    program = f"""
import logging, multiprocessing, sys
from meshlog_handler import LogClient
from tests.process.test_ordinary_queues import work
context = multiprocessing.get_context("fork")
records = context.{kind}()
LogClient(logging.StreamHandler(sys.stdout), queue=records).start()
context.Process(target=work, args=(records, 1)).start()
"""
    assert run_python("-c", program).stdout.splitlines() == [f"{number} of 1" for number in range(20)]


def test_a_client_that_nobody_stops_shows_what_is_in_a_queue_of_this_process_at_exit() -> None:
    program = """
import logging, queue, sys
from meshlog_handler import LogClient
from tests.process.test_ordinary_queues import work
records = queue.Queue()
LogClient(logging.StreamHandler(sys.stdout), queue=records).start()
work(records, 1)
"""
    assert run_python("-c", program).stdout.splitlines() == [f"{number} of 1" for number in range(20)]


def test_a_record_brings_its_rank_and_its_extras(log: logging.Logger) -> None:
    records: queue.Queue[Any] = queue.Queue()
    with collected() as logs, collected() as others, logs.client.listen(records):
        to(log, records).info("mine", extra={"rank": 7, "stream": "water"})
        log.info("none", extra={"hostname": "elsewhere"})
        others.client.set_handlers([PutHandler(records)])
        logging.getLogger("other").handlers[:] = [logging.handlers.QueueHandler(others.client.queue)]
        logging.getLogger("other").warning("of a client")
        others.flush()
        logs.flush()
        first, second, third = (record.__dict__ for record in logs.records)
        infos: list[Any] = [record.meshlog for record in logs.records]  # type: ignore[attr-defined]  # records of a client
    assert (first["rank"], first["stream"], infos[0].rank) == (7, "water", 7)
    assert (second["rank"], second["hostname"], infos[1].rank) == (None, "elsewhere", None)
    assert third["msg"] == "of a client"
    logging.getLogger("other").handlers.clear()


def test_records_of_a_queue_are_grouped_filed_and_counted(log: logging.Logger, tmp_path: Any) -> None:
    records: queue.Queue[Any] = queue.Queue()
    collector = RecordCollector()
    with LogClient(collector, queue=records, aggregate_window_sec=60, log_dir=str(tmp_path)) as client:
        for number in range(8):
            to(log, records).info("step %d", number)
        client.flush()
        assert client.stats()[None].received == 8
    assert collector.messages == ["[8 similar log lines] step 0..7"]
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file() and "journal" not in path.name)
    assert all(f"step {number}" in written for number in range(8))


# -- no feedback ---------------------------------------------------------------------------------------------------


class Talkative(RecordCollector):
    """A handler that logs what it gets."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record, and log it."""
        super().emit(record)
        logging.getLogger("talkative").warning("got %s", record.getMessage())


@pytest.fixture
def root(restored_logging: logging.Logger) -> logging.Logger:
    """Return the root logger with no handlers."""
    restored_logging.handlers[:] = []
    restored_logging.setLevel(logging.DEBUG)
    return restored_logging


@pytest.mark.parametrize("kind", ["own", "ordinary", "multiprocessing"])
@pytest.mark.parametrize("handler", [Talkative, PropagateHandler])
def test_a_handler_that_logs_does_not_trigger_itself(kind: str, handler: Any, root: logging.Logger) -> None:
    collector = RecordCollector()
    records: Any = queue.Queue() if kind == "ordinary" else multiprocessing.Queue() if kind == "multiprocessing" else None
    with LogClient(collector, handler(), queue=records) as client:
        root.addHandler(logging.handlers.QueueHandler(client.queue))
        logging.getLogger("program").info("once")
        proc = multiprocessing.get_context("fork").Process(target=work, args=(client.queue, 1))
        proc.start()
        join_all([proc])
        for _ in range(3):
            client.flush()
    proc.close()
    assert collector.messages.count("once") == 1
    # A forked process has a copy of an ordinary queue, which nothing reads.
    assert len([each for each in collector.records if each.name == "worker"]) == (0 if kind == "ordinary" else 20)
    assert "talkative" not in {record.name for record in collector.records}
    if kind == "multiprocessing":
        records.close()
        records.join_thread()


def test_what_multiprocessing_logs_about_its_queue_is_shown_once(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = RecordCollector()
    records = multiprocessing.get_context("fork").Manager
    monkeypatch.setattr(multiprocessing.util, "_logger", None)  # else later children log their ends
    logger = multiprocessing.get_logger()
    monkeypatch.setattr(logger, "propagate", True)
    logger.setLevel(logging.DEBUG)
    with records() as manager:
        shared = manager.Queue()
        shared.put(logging.makeLogRecord({"msg": "the connection of this thread"}))
        with LogClient(collector, queue=shared) as client:
            root.addHandler(logging.handlers.QueueHandler(shared))
            for _ in range(3):
                client.flush()
            logger.info("of multiprocessing")
            client.flush()
            shown = len(collector.records)
            for _ in range(3):
                client.flush()
            own = [each for each in collector.records[shown:] if str(each.threadName).startswith("meshlog")]
        root.handlers.clear()
    logger.setLevel(logging.NOTSET)
    assert own == []
    assert collector.messages.count("of multiprocessing") == 1


# -- a QueueListener -----------------------------------------------------------------------------------------------


def test_a_client_takes_the_arguments_of_a_queue_listener_and_keeps_its_attributes() -> None:
    records: queue.Queue[Any] = queue.Queue()
    collector, other = RecordCollector(), RecordCollector(logging.ERROR)
    client = LogClient(records, collector, other, respect_handler_level=False)
    assert isinstance(client, logging.handlers.QueueListener)
    assert client.queue is records
    assert client.handlers == (collector, other)
    records.put("item")
    got: object = client.dequeue(True)
    assert got == "item"
    record = logging.makeLogRecord({"msg": "given", "levelno": logging.INFO})
    assert client.prepare(record) is record
    client.handle(record)
    client.respect_handler_level = True
    client.handle(record)
    assert (collector.messages, other.messages) == (["given", "given"], ["given"])
    client.handlers = (other,)
    with client:
        records.put(logging.makeLogRecord({"msg": "shown", "levelno": logging.ERROR}))
        client.enqueue_sentinel()
        client.flush()
    assert other.messages[1:] == ["shown"]
    assert collector.messages == ["given", "given"]


class Client(LogClient):
    """A client that sees every record."""

    def __init__(self, *handlers: Any, **options: Any) -> None:
        super().__init__(*handlers, **options)
        self.prepared: list[str] = []
        self.handled: list[str] = []

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Change a record."""
        self.prepared.append(record.getMessage())
        record.msg = f"<{record.getMessage()}>"
        return record

    def handle(self, record: logging.LogRecord) -> None:
        """Note a record."""
        self.handled.append(record.getMessage())
        super().handle(record)


@pytest.mark.parametrize("window", [None, 60.0])
def test_a_subclass_sees_every_record_that_is_shown(window: float | None, log: logging.Logger) -> None:
    records: queue.Queue[Any] = queue.Queue()
    collector = RecordCollector()
    client = Client(collector, aggregate_window_sec=window)
    with client:
        with client.listen(records):
            to(log, records).warning("by a queue")
            client.flush()
        to(log, client.queue).warning("by the journal")
        client.flush()
        process = multiprocessing.get_context("fork").Process(target=work, args=(client.queue, 1))
        process.start()
        join_all([process])
    process.close()
    client.queue.put(logging.makeLogRecord({"msg": "after the end", "levelno": logging.INFO}))
    assert client.handled == client.prepared
    assert collector.messages == [f"<{each}>" for each in client.handled]
    assert client.handled[:2] == ["by a queue", "by the journal"]
    assert client.handled[-1] == "after the end"
    assert len(client.handled) == (23 if window is None else 4)


class Polling(LogClient):
    """A client with another source of records, as in the cookbook."""

    def dequeue(self, block: bool) -> Any:
        """Return the next record, which travels as JSON or similar."""
        found = self.queue.get(timeout=0.05)
        return found if found is None else logging.makeLogRecord(found)

    def enqueue_sentinel(self) -> None:
        """Put the sentinel."""
        self.queue.put(None)


def test_a_subclass_may_override_dequeue() -> None:
    records: queue.Queue[Any] = queue.Queue()
    collector = RecordCollector()
    with Polling(records, collector) as client:
        records.put({"msg": "a dict"})
        collector.wait_for(lambda records: bool(records))
        client.flush()
        records.put({"msg": "another"})
    assert collector.messages == ["a dict", "another"]


def test_what_is_not_a_queue_is_refused() -> None:
    with collected() as logs:
        with pytest.raises(SettingError, match="no method `get`"):
            logs.client.listen(object())
        with pytest.raises(SettingError, match="its own LogClient"):
            logs.client.listen(logs.client.queue)
        with pytest.raises(SettingError, match="another LogClient"):
            LogClient(RecordCollector(), queue=logs.client.queue)
    with pytest.raises(SettingError, match="no method `get`"):
        LogClient(queue=3)


def test_a_forked_child_has_no_reader(log: logging.Logger) -> None:
    records: queue.Queue[Any] = queue.Queue()
    with collected() as logs, logs.client.listen(records) as reader:
        process = multiprocessing.get_context("fork").Process(target=reader.stop)
        process.start()
        assert join_all([process]) == [0]
        process.close()
        to(log, records).info("still read")
        logs.flush()
        assert logs.messages == ["still read"]


CONFIGURATION: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {
        "collector": {"class": "meshlog_handler.testing.RecordCollector"},
        "queue": {"class": "logging.handlers.QueueHandler", "handlers": ["collector"]},
    },
    "loggers": {"configured": {"level": "INFO", "handlers": ["queue"], "propagate": False}},
}


def make_client_factory() -> Any:
    """Return a client with options that a configuration cannot state otherwise."""
    return functools.partial(LogClient, hide=["nothing"])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="logging.config knows queues since 3.12")
@pytest.mark.parametrize("records", [None, "meshlog_handler.JournalQueue", JournalQueue, "queue.Queue"])
@pytest.mark.parametrize("listener", ["meshlog_handler.LogClient", LogClient, {"()": make_client_factory}])
def test_a_configuration_names_a_client_as_listener(records: Any, listener: Any, restored_logging: logging.Logger) -> None:
    handler = {**CONFIGURATION["handlers"]["queue"], "listener": listener, "respect_handler_level": True}
    if records is not None:
        handler["queue"] = records if isinstance(records, str) else {"()": records}
    handlers = {**CONFIGURATION["handlers"], "queue": handler}
    logging.config.dictConfig({**CONFIGURATION, "handlers": handlers})
    logger = logging.getLogger("configured")
    client: Any = vars(logger.handlers[0])["listener"]
    (collector,) = client.handlers
    with client:
        logger.info("by a configuration")
        client.flush()
        if isinstance(client.queue, JournalQueue):
            process = multiprocessing.get_context("fork").Process(
                target=work, args=(pickle.loads(pickle.dumps(client.queue)), 1)
            )
            process.start()
            join_all([process])
            process.close()
    assert collector.messages[0] == "by a configuration"
    assert len(collector.messages) == (21 if isinstance(client.queue, JournalQueue) else 1)
    logger.handlers.clear()
