"""The public calls that `interrupts` interrupts, each with what a program does before it, and to end what was left.

::

    with the surroundings of a call (a client elsewhere, a mesh):  prepare() -> the call, the clean-up; again for each try
"""

from __future__ import annotations

import contextlib
import logging
import logging.config
import multiprocessing
import os
import pickle
import queue
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

import meshlog_handler
from meshlog_handler import JournalQueue, LogClient, LogRelay, MeshHandler, ProcMesh, this_host
from meshlog_handler.cli.view.observer import Observer, runs
from meshlog_handler.mesh.control import LoggingMeshClient
from meshlog_handler.testing import RecordCollector

DEADLINE: Final = 60.0

Step = Callable[[], object]
Prepare = Callable[[], tuple[Step, Step]]
Surroundings = Callable[[], AbstractContextManager[Prepare]]

CALLS: dict[str, Surroundings] = {}
"""The calls by name."""

KEEPS_EXCEPTIONS: Final = ("JournalQueue.put", "JournalQueue.put (again)")
"""Calls that keep an `Exception` of a signal handler from the caller, as in plain `logging`."""


def call(name: str) -> Callable[[Callable[[], Iterator[Prepare]]], None]:
    """Register a generator that yields the function `prepare` of a call."""

    def register(made: Callable[[], Iterator[Prepare]]) -> None:
        CALLS[name] = contextlib.contextmanager(made)

    return register


def nothing() -> None:
    """Do nothing."""


# -- the process of a client -------------------------------------------------------------------------------------------


def a_record() -> logging.LogRecord:
    """Return a record to show."""
    return logging.LogRecord("interrupted", logging.WARNING, __file__, 1, "a record", None, None)


@call("LogClient.start")
def _client_start() -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        client = LogClient(RecordCollector())
        return client.start, client.stop

    yield prepare


@call("LogClient.start (log_dir)")
def _client_start_with_files() -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        client = LogClient(RecordCollector(), log_dir=os.path.join(os.environ["MESHLOG_RUN_DIR"], "files"), hang_after=60)
        return client.start, client.stop

    yield prepare


@call("LogClient.start (console)")
def _client_start_with_a_console() -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        client = LogClient()
        return client.start, client.stop

    yield prepare


@call("LogClient.stop")
def _client_stop() -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        client = LogClient(RecordCollector()).start()
        return client.stop, client.stop

    yield prepare


@call("LogClient.stop (worker, queue)")
def _client_stop_with_a_worker() -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        client = LogClient(RecordCollector()).start()
        client.listen(queue.Queue()).queue.put(a_record())
        client.queue.put(a_record())
        meshlog_handler.install(client.address, capture=False)
        logging.warning("a record")

        def end() -> None:
            client.stop()
            meshlog_handler.uninstall()

        return client.stop, end

    yield prepare


@call("with LogClient")
def _with_client() -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        client = LogClient(RecordCollector())

        def block() -> None:
            with client:
                pass

        return block, client.stop

    yield prepare


@call("LogClient(job).start")
def _job_start() -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        client = LogClient(RecordCollector(), job="interrupted")
        return client.start, client.stop

    yield prepare


@call("LogClient(job).stop")
def _job_stop() -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        client = LogClient(RecordCollector(), job="interrupted").start()
        return client.stop, client.stop

    yield prepare


@contextlib.contextmanager
def worker_of(address: str) -> Iterator[None]:
    """Run a worker in another process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(address, there))
    process.start()
    here.recv()
    try:
        yield
    finally:
        here.send(None)
        process.join()
        here.close()
        there.close()


def _work(address: str, pipe: Any) -> None:
    meshlog_handler.install(address, capture=False)
    pipe.send(None)
    pipe.recv()


def _of_a_client(ask: Callable[[LogClient], object], check: Callable[[LogClient], object]) -> Iterator[Prepare]:
    with LogClient(RecordCollector()) as client, worker_of(client.address):
        yield lambda: (partial(ask, client), partial(check, client))


def _flushes(client: LogClient) -> None:
    assert client.flush(DEADLINE).missing == ()


_OF_A_CLIENT: Final[dict[str, Callable[[LogClient], object]]] = {
    "flush": lambda client: client.flush(),
    "stats": lambda client: client.stats(),
    "insight": lambda client: client.insight(),
    "stacks": lambda client: client.stacks(),
    "set_window": lambda client: client.set_window(1.0),
    "set_handlers": lambda client: client.set_handlers([RecordCollector()]),
    "set_streaming": lambda client: client.set_streaming(True),
    "_repr_html_": lambda client: client._repr_html_(),
}
for _name, _ask in _OF_A_CLIENT.items():
    call(f"LogClient.{_name}")(partial(_of_a_client, _ask, _flushes))


@call("LogClient.listen")
def _listen() -> Iterator[Prepare]:
    with LogClient(RecordCollector()) as client:

        def prepare() -> tuple[Step, Step]:
            source: queue.Queue[Any] = queue.Queue()
            return partial(client.listen, source), lambda: client.listen(source).stop(DEADLINE)

        yield prepare


@call("QueueReader.stop")
def _reader_stop() -> Iterator[Prepare]:
    with LogClient(RecordCollector()) as client:

        def prepare() -> tuple[Step, Step]:
            reader = client.listen(queue.Queue())
            return reader.stop, partial(reader.stop, DEADLINE)

        yield prepare


# -- a worker ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def client_elsewhere() -> Iterator[str]:
    """Run a client in another process; yield its address."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,))
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join()
        here.close()
        there.close()


def _serve(pipe: Any) -> None:
    with LogClient(RecordCollector()) as client:
        pipe.send(client.address)
        pipe.recv()


def _installs(**options: Any) -> Iterator[Prepare]:
    with client_elsewhere() as address:
        yield lambda: (partial(meshlog_handler.install, address, **options), meshlog_handler.uninstall)


call("install")(partial(_installs, capture=False))
call("install (capture)")(partial(_installs))


def _uninstalls(**options: Any) -> Iterator[Prepare]:
    with client_elsewhere() as address:

        def prepare() -> tuple[Step, Step]:
            meshlog_handler.install(address, **options)
            logging.warning("a record")
            return meshlog_handler.uninstall, meshlog_handler.uninstall

        yield prepare


call("uninstall")(partial(_uninstalls, capture=False))
call("uninstall (capture)")(partial(_uninstalls))


@call("complete")
def _complete() -> Iterator[Prepare]:
    with client_elsewhere() as address:
        meshlog_handler.install(address, capture=False)

        def completes() -> None:
            assert meshlog_handler.complete(DEADLINE)

        yield lambda: (meshlog_handler.complete, completes)
        meshlog_handler.uninstall()


@call("LogRelay.start")
def _relay_start() -> Iterator[Prepare]:
    with client_elsewhere() as address:

        def prepare() -> tuple[Step, Step]:
            relay = LogRelay(address)
            return relay.start, relay.stop

        yield prepare


@call("LogRelay.stop")
def _relay_stop() -> Iterator[Prepare]:
    with client_elsewhere() as address:

        def prepare() -> tuple[Step, Step]:
            relay = LogRelay(address).start()
            return relay.stop, relay.stop

        yield prepare


@call("JournalQueue.put")
def _queue_put() -> Iterator[Prepare]:
    with client_elsewhere() as address:

        def prepare() -> tuple[Step, Step]:
            made = JournalQueue(None, address)
            return partial(made.put, a_record()), made.close

        yield prepare


@call("JournalQueue.put (again)")
def _queue_put_again() -> Iterator[Prepare]:
    with client_elsewhere() as address:
        made = JournalQueue(None, address)
        made.put(a_record())
        yield lambda: (partial(made.put, a_record()), partial(made.put, a_record()))
        made.close()


@call("JournalQueue.close")
def _queue_close() -> Iterator[Prepare]:
    with client_elsewhere() as address:

        def prepare() -> tuple[Step, Step]:
            made = JournalQueue(None, address)
            made.put(a_record())
            return made.close, made.close

        yield prepare


# -- handlers ----------------------------------------------------------------------------------------------------------


def end_own_client() -> None:
    """End what MeshHandlers of this process have left, as a program does that goes on without them."""
    logging.config.dictConfig({"version": 1, "root": {"handlers": []}})
    meshlog_handler.uninstall()
    client = sys.modules["meshlog_handler.handler"]._own_client
    if client is not None:
        client.stop()
    job = sys.modules["meshlog_handler.worker.job_member"]._current
    if job is not None:
        job.leave()
    os.environ.pop("MESHLOG_ADDRESS", None)


@call("MeshHandler()")
def _handler() -> Iterator[Prepare]:
    made: list[MeshHandler] = []

    def end() -> None:
        while made:
            made.pop().close()
        end_own_client()

    yield lambda: (lambda: made.append(MeshHandler(handlers=[RecordCollector()])), end)


def _with_own_handler(step: Callable[[MeshHandler], object]) -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        handler = MeshHandler(handlers=[RecordCollector()])
        logging.getLogger().addHandler(handler)

        def end() -> None:
            logging.getLogger().removeHandler(handler)
            handler.close()
            end_own_client()

        return partial(step, handler), end

    yield prepare


def _copies(handler: MeshHandler) -> None:
    pickle.loads(pickle.dumps(handler)).close()


call("MeshHandler.close")(partial(_with_own_handler, MeshHandler.close))
call("MeshHandler pickled")(partial(_with_own_handler, _copies))


@call("MeshHandler(address)")
def _handler_that_joins() -> Iterator[Prepare]:
    made: list[MeshHandler] = []

    def end() -> None:
        while made:
            made.pop().close()
        end_own_client()

    with client_elsewhere() as address:
        yield lambda: (lambda: made.append(MeshHandler(address=address)), end)


@call("MeshHandler(job)")
def _handler_of_a_job() -> Iterator[Prepare]:
    made: list[MeshHandler] = []

    def end() -> None:
        while made:
            made.pop().close()
        end_own_client()

    yield lambda: (lambda: made.append(MeshHandler(handlers=[RecordCollector()], job="interrupted")), end)


@call("MeshHandler.wrap")
def _wrap() -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        logger = logging.getLogger("wrapped")
        theirs = RecordCollector()
        logger.handlers = [theirs]

        def end() -> None:
            for handler in tuple(logger.handlers):
                if isinstance(handler, MeshHandler):
                    handler.unwrap()
            assert logger.handlers == [theirs]
            logger.handlers = []
            end_own_client()

        return partial(MeshHandler.wrap, logger), end

    yield prepare


@call("MeshHandler.unwrap")
def _unwrap() -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        logger = logging.getLogger("wrapped")
        theirs = RecordCollector()
        logger.handlers = [theirs]
        made = MeshHandler.wrap(logger)

        def end() -> None:
            made.unwrap()
            assert logger.handlers == [theirs]
            logger.handlers = []
            end_own_client()

        return made.unwrap, end

    yield prepare


@call("dictConfig")
def _dict_config() -> Iterator[Prepare]:
    config = {
        "version": 1,
        "handlers": {
            "mesh": {"class": "meshlog_handler.MeshHandler", "handlers": ["file"]},
            "file": {"class": "logging.NullHandler"},
        },
        "root": {"handlers": ["mesh"], "level": "INFO"},
    }
    yield lambda: (partial(logging.config.dictConfig, config), end_own_client)


# -- a mesh ------------------------------------------------------------------------------------------------------------


def a_mesh(method: str = "fork") -> ProcMesh:
    """Start a mesh with one process."""
    return this_host().spawn_procs({"gpus": 1}, start_method=method, handlers=[RecordCollector()])


@call("spawn_procs")
def _spawn() -> Iterator[Prepare]:
    yield lambda: (a_mesh, nothing)  # nobody refers to the mesh: it stops


def _of_a_mesh(ask: Callable[[ProcMesh], object]) -> Iterator[Prepare]:
    with a_mesh() as mesh:
        mesh.initialized.get(DEADLINE)

        def check() -> None:
            assert mesh.call(os.getpid).get(DEADLINE) == [*mesh.pids.values()]
            mesh.logging.configure({"version": 1, "loggers": {"interrupted": {"level": "INFO"}}})
            assert mesh.call(_level).get(DEADLINE) == [logging.INFO]
            assert mesh.flush().get(DEADLINE).missing == ()

        yield lambda: (partial(ask, mesh), check)


def _level() -> int:
    return logging.getLogger("interrupted").level


_CONFIG: Final = {"version": 1, "loggers": {"interrupted": {"level": "ERROR"}}}
_OF_A_MESH: Final[dict[str, Callable[[ProcMesh], object]]] = {
    "initialized.get": lambda mesh: mesh.initialized.get(),
    "pids": lambda mesh: mesh.pids,
    "call": lambda mesh: mesh.call(os.getpid).get(),
    "flush": lambda mesh: mesh.flush().get(),
    "stacks": lambda mesh: mesh.stacks().get(),
    "insight": lambda mesh: mesh.insight().get(),
    "logging_option": lambda mesh: mesh.logging_option(level=logging.INFO).get(),
    "_repr_html_": lambda mesh: mesh._repr_html_(),
    "logging.set_level": lambda mesh: mesh.logging.set_level(logging.DEBUG, "interrupted"),
    "logging.set_level (for_sec)": lambda mesh: mesh.logging.set_level(logging.DEBUG, "interrupted", for_sec=0.01),
    "logging.set_mode": lambda mesh: mesh.logging.set_mode(True, None, logging.INFO),
    "logging.configure": lambda mesh: mesh.logging.configure(_CONFIG),
    "logging.flush": lambda mesh: mesh.logging.flush(),
    "logging.stats": lambda mesh: mesh.logging.stats(),
    "logging.insight": lambda mesh: mesh.logging.insight(),
    "logging.stacks": lambda mesh: mesh.logging.stacks(),
}
for _name, _of in _OF_A_MESH.items():
    call(f"mesh.{_name}")(partial(_of_a_mesh, _of))


def _stops(stop: Callable[[ProcMesh], object]) -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        mesh = a_mesh()
        mesh.initialized.get(DEADLINE)
        return partial(stop, mesh), lambda: mesh.stop().get(DEADLINE)

    yield prepare


def _ends_a_block(mesh: ProcMesh) -> None:
    with mesh:
        pass


call("mesh.stop")(partial(_stops, lambda mesh: mesh.stop().get()))
call("with mesh")(partial(_stops, _ends_a_block))


@call("LoggingMeshClient.start")
def _mesh_client_start() -> Iterator[Prepare]:
    yield lambda: (partial(LoggingMeshClient.start, "token", {0: {}}, [RecordCollector()]), nothing)


@call("LoggingMeshClient.drain_and_stop")
def _drain_and_stop() -> Iterator[Prepare]:
    def prepare() -> tuple[Step, Step]:
        client = LoggingMeshClient.start("token", {0: {}}, [RecordCollector()])
        return client.drain_and_stop, client.drain_and_stop

    yield prepare


# -- observers ---------------------------------------------------------------------------------------------------------


def _of_an_observer(ask: Callable[[Observer], object]) -> Iterator[Prepare]:
    with client_elsewhere() as address, worker_of(address):

        def prepare() -> tuple[Step, Step]:
            observer = Observer.connect(address)
            return partial(ask, observer), observer.close

        yield prepare


@call("Observer.connect")
def _observer_connect() -> Iterator[Prepare]:
    with client_elsewhere() as address:
        made: list[Observer] = []

        def end() -> None:
            while made:
                made.pop().close()

        yield lambda: (lambda: made.append(Observer.connect(address)), end)


@call("runs")
def _runs() -> Iterator[Prepare]:
    with client_elsewhere():
        yield lambda: (runs, nothing)


_OF_AN_OBSERVER: Final[dict[str, Callable[[Observer], object]]] = {
    "about": lambda observer: observer.about(),
    "stats": lambda observer: observer.stats(),
    "insight": lambda observer: observer.insight(),
    "stacks": lambda observer: observer.stacks(),
    "flush": lambda observer: observer.flush(),
    "set_level": lambda observer: observer.set_level(logging.INFO, "interrupted"),
    "follow": lambda observer: observer.start_following(),
    "items": lambda observer: observer.items(0.001),
    "close": lambda observer: observer.close(),
}
for _name, _of_one in _OF_AN_OBSERVER.items():
    call(f"Observer.{_name}")(partial(_of_an_observer, _of_one))
