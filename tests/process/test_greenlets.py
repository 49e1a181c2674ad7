"""Programs that gevent or eventlet patches log like other programs, whether the patch comes before our import or after it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from meshlog_handler.testing import collected

from .procs import DEADLINE, importing, run_python

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()",
}

RUN = """
import sys, time
def in_greenlets(function):
    if "gevent" in sys.modules:
        import gevent
        gevent.joinall([gevent.spawn(function, number) for number in range(3)], raise_error=True)
    else:
        import eventlet
        for each in [eventlet.spawn(function, number) for number in range(3)]:
            each.wait()
def log(number):
    for step in range(5):
        logging.info("greenlet %d step %d", number, step)
        time.sleep(0.001)
"""

WORKER = """
import logging
{before}
from meshlog_handler import install
{after}
install()
in_greenlets(log)
print("printed", flush=True)
"""

CLIENT = """
import logging, subprocess
{before}
from meshlog_handler import LogClient
{after}
with LogClient() as client:
    worker = "import logging, meshlog_handler as m; m.install(); logging.info('from a worker')"
    child = subprocess.Popen([sys.executable, "-c", worker], env=client.environ())
    in_greenlets(lambda number: client.flush())
    child.wait()
"""

CONFIGURED = """
import logging, logging.config, os
{before}
from meshlog_handler import MeshHandler
{after}
logging.config.dictConfig({{"version": 1, "root": {{"level": "INFO", "handlers": ["mesh"]}},
    "handlers": {{"mesh": {{"class": "meshlog_handler.MeshHandler"}}}}}})
in_greenlets(log)
child = os.fork()
if child == 0:
    logging.info("from a child")
    os._exit(0)
os.waitpid(child, 0)
in_greenlets(log)
"""

MESH = """
import logging
{before}
from meshlog_handler import this_host
{after}
def work(number):
    logging.warning("from a proc")
    return number
with this_host().spawn_procs(per_host={{"gpus": 1}}) as procs:
    in_greenlets(lambda number: procs.call(work, number).get(30))
    procs.flush().get(30)
"""

QUEUE = """
import logging, logging.handlers
{before}
import queue
from meshlog_handler import LogClient
{after}
items = queue.Queue()
logging.basicConfig(level="INFO", handlers=[logging.handlers.QueueHandler(items)])
with LogClient(queue=items) as client:
    client.flush()  # the queue is empty: who reads it waits
    in_greenlets(log)
    client.flush()
    logging.info("from a queue")
"""
PIPE = QUEUE.replace("import queue", "import multiprocessing").replace("queue.Queue()", "multiprocessing.Queue()")


def patched(program: str, library: str, when: str) -> str:
    if find_spec(library) is None:  # importing eventlet here would change how this process forks
        pytest.skip(f"{library} is not installed")
    patch = {when: PATCHES[library]}
    return RUN + program.format(before=patch.get("before", ""), after=patch.get("after", ""))


each_way = pytest.mark.parametrize(
    ("library", "when"), [(library, when) for library in PATCHES for when in ("before", "after")]
)


@each_way
@pytest.mark.usefixtures("real_stdout")
def test_a_worker_with_greenlets_forwards_all_records(library: str, when: str) -> None:
    with collected() as logs:
        command = [sys.executable, "-c", "import logging\n" + patched(WORKER, library, when)]
        subprocess.run(command, env=importing(logs.client.environ()), check=True, timeout=DEADLINE)
        logs.flush()
        assert sum(text.startswith("greenlet") for text in logs.messages) == 15
        assert "printed" in logs.messages


@each_way
@pytest.mark.parametrize(
    ("program", "shown"),
    [
        (CLIENT, "from a worker"),
        (CONFIGURED, "from a child"),
        (MESH, "from a proc"),
        (QUEUE, "from a queue"),
        (PIPE, "from a queue"),
    ],
    ids=["client", "configured", "mesh", "queue", "pipe"],
)
def test_a_client_with_greenlets_shows_records_without_errors(program: str, shown: str, library: str, when: str) -> None:
    if program == MESH and when == "before" and sys.version_info >= (3, 12):
        pytest.skip("at exit, the resource tracker of multiprocess waits in the patched os.waitpid; see docs/neighbours.md")
    done = run_python(
        "-c", "import logging\n" + patched(program, library, when), env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    said = done.stdout + done.stderr
    assert shown in said
    assert "meshlog:" not in said
    assert "Traceback" not in said
    assert said.count("greenlet") == {CONFIGURED: 30, QUEUE: 15, PIPE: 15}.get(program, 0)


HANGS = """
import logging, subprocess
{before}
from meshlog_handler import LogClient
{after}
told = []
with LogClient(hang_after=1, on_hang=told.append) as client:
    worker = "import meshlog_handler as m, sys; m.install(); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", worker], env=client.environ(), stdin=subprocess.PIPE)
    while not client.stats():
        time.sleep(0.01)
    deadline = time.perf_counter() + 30
    while not told and time.perf_counter() < deadline:
        pass  # no greenlet runs meanwhile
    print("told of", told[0].ranks if told else "nothing")
    child.communicate()
"""


@each_way
def test_a_hang_is_told_while_no_greenlet_runs(library: str, when: str) -> None:
    done = run_python("-c", "import logging\n" + patched(HANGS, library, when), env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert "told of" in done.stdout
    assert "nothing" not in done.stdout


YIELDS = """
import logging, threading
{before}
from meshlog_handler import MeshHandler
{after}
inside, about_to_log = threading.Event(), threading.Event()
class Yielding(logging.Handler):
    def emit(self, record):
        if record.getMessage() == "first":
            inside.set()
            about_to_log.wait()  # other greenlets run
        print(record.getMessage(), flush=True)
logging.basicConfig(level="INFO", handlers=[MeshHandler(handlers=[Yielding()])])
def log_meanwhile(number):
    if number == 0:
        logging.info("first")
    elif number == 1:
        inside.wait()
        about_to_log.set()
        logging.info("second")
in_greenlets(log_meanwhile)
"""


@each_way
def test_a_greenlet_waits_for_a_handler_in_which_another_one_waits(library: str, when: str) -> None:
    assert run_python("-c", patched(YIELDS, library, when)).stdout == "first\nsecond\n"


EXITS = """
import atexit, logging, os, threading
{before}
from meshlog_handler import MeshHandler
{after}
inside, exiting = threading.Event(), threading.Event()
class Yielding(logging.Handler):
    def emit(self, record):
        if record.getMessage() == "from a greenlet":
            inside.set()
            exiting.wait()  # other greenlets run
        print(record.getMessage(), flush=True)
logging.basicConfig(level="INFO", handlers=[MeshHandler(handlers=[Yielding()])])
spawn = (sys.modules.get("gevent") or sys.modules["eventlet"]).spawn
spawn(logging.info, "from a greenlet")
inside.wait()
child = os.fork()
if child == 0:
    logging.info("from a child")
    os._exit(0)
os.waitpid(child, 0)
atexit.register(spawn, exiting.set)  # called before the client is stopped, and runs when the main greenlet waits
"""


@each_way
def test_a_client_that_stops_lets_greenlets_leave_its_handlers(library: str, when: str) -> None:
    done = run_python("-c", patched(EXITS, library, when), env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert (done.stdout, done.stderr) == ("from a greenlet\nfrom a child\n", "")


IMPORTS = """
import logging, os
{before}
import meshlog_handler
from meshlog_handler.system import lazy_imports, unpatched
{after}
unpatched.use()
def import_while_a_thread_imports():
    threads = unpatched._copies["threading"]
    held = threads.Event()
    def hold():
        with lazy_imports.importing():
            held.set()
            unpatched._copies["time"].sleep(0.05)  # the other thread waits meanwhile, or not: both must work
    thread = threads.Thread(target=hold)
    thread.start()
    held.wait()
    with lazy_imports.importing():
        thread.join()
in_greenlets(lambda number: None)
import_while_a_thread_imports()
child = os.fork()
if child == 0:
    import_while_a_thread_imports()
    print("imported", flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@each_way
def test_a_greenlet_waits_for_a_thread_that_imports(library: str, when: str) -> None:
    assert run_python("-c", patched(IMPORTS, library, when)).stdout == "imported\n"
