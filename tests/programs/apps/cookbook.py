"""The examples of the logging cookbook that have several processes: ``cookbook.py EXAMPLE METHOD``.

``listener``: a process that listens to a queue. ``thread``: a thread of the main process does, and hands records to its
loggers. ``executor``: as ``listener``, with an executor. ``client``: a `LogClient` instead of the listener, and its queue.
"""

from __future__ import annotations

import io
import logging
import logging.config
import logging.handlers
import multiprocessing
import random
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

from swap import KIND, swapped, swapped_handlers

FORMAT = "%(processName)-10s %(name)s %(levelname)-8s %(message)s"
LEVELS = [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL]
LOGGERS = ["a.b.c", "d.e.f", "foo", "foo.bar", "foo.bar.baz"]


def file_handlers() -> list[logging.Handler]:
    """Return the file's handler, or what stands for it."""
    handler = logging.handlers.RotatingFileHandler("mptest.log", "a", 300_000, 10)
    handler.setFormatter(logging.Formatter(FORMAT))
    return [handler]


def listen(queue) -> None:
    """Be the process that writes."""
    root = logging.getLogger()
    root.handlers[:] = swapped_handlers(*file_handlers())
    while True:
        record = queue.get()
        if record is None:
            break
        logging.getLogger(record.name).handle(record)


def work(queue, number: int) -> None:
    """Be a process that logs into the queue."""
    root = logging.getLogger()
    root.handlers[:] = [logging.handlers.QueueHandler(queue)]
    root.setLevel(logging.DEBUG)
    chance = random.Random(number)
    logging.getLogger("worker").info("worker %d begins", number)
    for each in range(10):
        logging.getLogger(chance.choice(LOGGERS)).log(chance.choice(LEVELS), "message no. %d of %d", each, number)
    try:
        int("no number")
    except ValueError:
        logging.getLogger("worker").exception("worker %d fails", number)


def run_workers(context, queue) -> None:
    """Start the workers and wait for them."""
    workers = [context.Process(target=work, args=(queue, number), name=f"worker-{number}") for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def with_a_listener(context) -> None:
    """The first example."""
    queue = context.Queue(-1)
    listener = context.Process(target=listen, args=(queue,))
    listener.start()
    run_workers(context, queue)
    queue.put_nowait(None)
    listener.join()


def with_a_thread(context) -> None:
    """The second one, with a configuration for the main process."""
    logging.config.dictConfig(
        swapped(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {"detailed": {"class": "logging.Formatter", "format": FORMAT}},
                "handlers": {
                    "console": {"class": "logging.StreamHandler", "level": "INFO"},
                    "file": {"class": "logging.FileHandler", "filename": "mplog.log", "mode": "w", "formatter": "detailed"},
                    "foofile": {"class": "logging.FileHandler", "filename": "mplog-foo.log", "formatter": "detailed"},
                    "errors": {
                        "class": "logging.FileHandler",
                        "filename": "mplog-errors.log",
                        "level": "ERROR",
                        "formatter": "detailed",
                    },
                },
                "loggers": {"foo": {"handlers": ["foofile"]}},
                "root": {"level": "DEBUG", "handlers": ["console", "file", "errors"]},
            }
        )
    )
    queue = context.Queue()

    def take() -> None:
        while True:
            record = queue.get()
            if record is None:
                break
            logging.getLogger(record.name).handle(record)

    thread = threading.Thread(target=take)
    thread.start()
    run_workers(context, queue)
    queue.put(None)
    thread.join()


def with_an_executor(context) -> None:
    """The variation with `concurrent.futures`, and a queue of a manager."""
    with context.Manager() as manager:
        queue = manager.Queue(-1)
        listener = context.Process(target=listen, args=(queue,))
        listener.start()
        with ProcessPoolExecutor(2, context) as executor:
            for number in range(3):
                executor.submit(work, queue, number)
        queue.put_nowait(None)
        listener.join()


def with_a_client(context) -> None:
    """A QueueListener on the queue, or our client and its queue: one changed line."""
    if KIND == "plain":
        queue = context.Queue(-1)
        listener = logging.handlers.QueueListener(queue, *file_handlers(), respect_handler_level=True)
    else:
        from meshlog_handler import LogClient

        listener = LogClient(*file_handlers())
        queue = listener.queue
    listener.start()
    run_workers(context, queue)
    if KIND == "plain":
        queue.put(None)  # what a queue of processes still holds comes before it
        listener._thread.join()
        listener._thread = None
    else:
        listener.stop()


if __name__ == "__main__":
    if KIND == "plain":
        # Without a buffer, which has a lock: a worker that is forked while the thread writes would wait for it at its end. With
        # our handlers, a fork waits for the thread.
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
    examples = {"listener": with_a_listener, "thread": with_a_thread, "executor": with_an_executor, "client": with_a_client}
    examples[sys.argv[1]](multiprocessing.get_context(sys.argv[2]))
