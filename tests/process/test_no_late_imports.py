"""Our threads and forked children import nothing.

A process that is forked during an import would wait for the import lock forever.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from meshlog_handler import LogClient
from meshlog_handler.testing import collected

from .procs import METHODS, run_python

WATCH = """
import logging, logging.config, os, signal, subprocess, sys, threading, traceback

class Watch:
    '''Tells of each import that does not happen on the main thread of this very process.'''
    pid = os.getpid()
    def find_spec(self, name, path=None, target=None):
        thread = threading.current_thread()
        if thread is not threading.main_thread() or os.getpid() != self.pid:
            where = [frame.filename for frame in traceback.extract_stack() if "importlib" not in frame.filename]
            os.write(2, f"LATE {name} on {thread.name}, {where[-3:]}\\n".encode())
watch = Watch()
"""

LOG = """
def log():
    print("printed", flush=True)
    logging.info("logged %d", 1)
    logging.warning("an object %s", object())
    try:
        1 / 0
    except ZeroDivisionError:
        logging.exception("failed")
"""

CLIENT = """
from meshlog_handler import LogClient, install
client = LogClient(aggregate_window_sec=0.1)
sys.meta_path.insert(0, watch)
with client:
    if not os.fork():
        install(client.address)
        log()
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    client.flush()
print("DONE")
"""

CONFIGURED = """
sys.meta_path.insert(0, watch)
logging.config.dictConfig({"version": 1, "root": {"level": "INFO", "handlers": ["mesh"]},
    "handlers": {"mesh": {"class": "meshlog_handler.MeshHandler", "aggregate_window_sec": 0.1}}})
if not os.fork():
    log()
    os._exit(0)
os.wait()
log()
print("DONE")
"""

MESH = """
from meshlog_handler import this_host
sys.meta_path.insert(0, watch)
with this_host().spawn_procs(per_host={"gpus": 2}, start_method=sys.argv[1]) as procs:
    procs.call(log).get()
    procs.flush().get()
    procs.logging_option(aggregate_window_sec=0.1).get()
    procs.call(log).get()
print("DONE")
"""


def late_imports(program: str, *words: str) -> list[str]:
    done = run_python("-c", WATCH + LOG + program, *words)
    assert done.stdout.endswith("DONE\n")
    return [line for line in done.stderr.splitlines() if line.startswith("LATE")]


@pytest.mark.parametrize("program", [CLIENT, CONFIGURED], ids=["client", "configured"])
def test_a_running_client_and_its_forked_workers_import_nothing(program: str) -> None:
    assert late_imports(program) == []


AHEAD = """
from meshlog_handler import this_host
from meshlog_handler.mesh import start_methods
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "meshlog_handler.client.log_client":
            multiprocess = start_methods.load()
            server, tracker = multiprocess.forkserver._forkserver, multiprocess.resource_tracker._resource_tracker
            print("RUNS", server._forkserver_pid is not None, tracker._pid is not None)
sys.meta_path.insert(0, Watch())
this_host().spawn_procs(per_host={"gpus": 1}, start_method=sys.argv[1]).stop().get()
"""


@pytest.mark.parametrize(("method", "runs"), [("fork", "False False"), ("spawn", "False True"), ("forkserver", "True True")])
def test_the_servers_of_a_start_method_start_before_the_client_is_imported(method: str, runs: str) -> None:
    assert run_python("-c", "import sys" + AHEAD, method).stdout == f"RUNS {runs}\n"


TRACKER = """
from meshlog_handler.mesh import start_methods
start_methods.start_ahead("spawn")
pid = start_methods.load().resource_tracker._resource_tracker._pid
found = own = open("/proc/self/cmdline").read()
while found in ("", own):  # the fork has not become another program yet
    with open(f"/proc/{pid}/cmdline") as words:
        found = words.read()
print(found.split("\\0")[-2])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_the_resource_tracker_does_not_import_dill() -> None:
    code, main, _ = run_python("-c", TRACKER).stdout.rpartition(";main(")
    assert main
    assert run_python("-c", f"{code}; import sys; print(sys.modules.get('dill'))").stdout == "None\n"


@pytest.mark.parametrize("method", METHODS)
def test_a_mesh_imports_nothing_after_the_imports_of_its_program(method: str) -> None:
    assert late_imports(MESH, method) == []


# Stops a thread at a line of a module that it imports. (In a finder, the thread would hold a lock that all imports need.)
GATE = """
import sys

def at_line_of(file, stop):
    def trace(frame, event, arg):
        if not frame.f_code.co_filename.endswith(file):
            return None
        def line(frame, event, arg):
            if event == "line":
                stop()
            return line
        return line
    sys.settrace(trace)
"""

# multiprocessing.context and multiprocessing.reduction import each other. Here the main thread is in one of them, and another
# thread is in the other. They continue in the order in which `multiprocessing.connection` finds an incomplete `reduction`.
RACE = """
import threading, time

def waits(thread):  # for a module that another thread imports
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>" and frame.f_code.co_name == "acquire":
            return frame.f_locals["self"].owner not in (None, thread.ident)
        frame = frame.f_back
    return False

def until(predicate):
    deadline = time.monotonic() + 20
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.001)

errors, main, done = [], threading.main_thread(), threading.Event()

def second():
    if hasattr(sys.modules["multiprocessing.reduction"], "HAVE_SEND_HANDLE"):
        until(lambda: done.is_set() or waits(main))

def other():
    at_line_of("multiprocessing/reduction.py", second)
    try:
        import multiprocessing.reduction
        import multiprocessing.connection
    except BaseException as error:
        errors.append(error)

def first():
    if thread.ident is None:
        thread.start()
        until(lambda: waits(thread))

thread = threading.Thread(target=other)
at_line_of("multiprocessing/process.py", first)
try:
    exec(sys.argv[1])
except BaseException as error:
    errors.append(error)
sys.settrace(None)
done.set()
if thread.ident is not None:
    thread.join()
print("ERRORS", errors)
"""


@pytest.mark.parametrize(
    "begins",
    [
        "from meshlog_handler import this_host; this_host().spawn_procs().stop().get()",
        "from meshlog_handler import LogClient; LogClient().start().stop()",
    ],
    ids=["mesh", "client"],
)
def test_a_start_succeeds_while_another_thread_imports_multiprocessing(begins: str) -> None:
    assert "ERRORS []" in run_python("-c", GATE + RACE, begins).stdout


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="a module's parents are imported before the module is locked")
def test_the_race_program_reproduces_the_import_error() -> None:
    assert "ERRORS []" not in run_python("-c", GATE + RACE, "import multiprocessing.connection").stdout


# A thread is in the middle of an import, or of joining, and waits for a fork of the main thread. It waits one second at most,
# because a fork may wait for the thread.
FORKED = """
import logging, os, signal, sys, threading
import meshlog_handler

forked, reached = threading.Event(), threading.Event()
os.register_at_fork(after_in_parent=forked.set)

def stand():
    if not reached.is_set():
        reached.set()
        forked.wait(1.0)
"""

IMPORTING = """
def begin():
    at_line_of("meshlog_handler/installation.py", stand)
    meshlog_handler.install
def go_on():
    meshlog_handler.install(sys.argv[1])
    logging.info("from the child")
"""

CONFIGURING = """
meshlog_handler.MeshHandler
def begin():
    at_line_of("meshlog_handler/client/log_client.py", stand)
    meshlog_handler.MeshHandler()
def go_on():
    meshlog_handler.LogClient
"""

# The gate is a handler of the configuration, before or between the MeshHandlers: the thread holds the lock of `logging`.
DICT_CONFIG = """
import logging.config
def gate():
    stand()
    return logging.NullHandler()
def begin():
    mesh = {"class": "meshlog_handler.MeshHandler", "handlers": ["shown"]}
    handlers = {"GATE": {"()": gate}, "mesh 1": mesh, "mesh 2": mesh, "shown": {"class": "logging.NullHandler"}}
    logging.config.dictConfig({"version": 1, "handlers": handlers, "root": {"handlers": list(handlers)}})
def go_on():
    assert len(logging.getLogger().handlers) == 4
    logging.warning("from the child")
"""

JOINING = """
from meshlog_handler import install
from meshlog_handler.worker import member, this_process
connect = member.connect
def gated(*args):
    if threading.current_thread() is thread:
        stand()
    return connect(*args)
member.connect = gated
def begin():
    install(sys.argv[1], capture=False)
def go_on():
    assert this_process._inherited is not None
    this_process.rejoin()
    assert this_process.current() is not None
"""

FORK = """
thread = threading.Thread(target=begin)
thread.start()
reached.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    go_on()
    os._exit(0)
_, status = os.waitpid(pid, 0)
thread.join()
print("CHILD", status)
"""


@pytest.mark.parametrize(
    "program",
    [IMPORTING, CONFIGURING, DICT_CONFIG.replace("GATE", "a"), DICT_CONFIG.replace("GATE", "mesh 1.5"), JOINING],
    ids=["importing", "configuring", "before-mesh", "between-mesh", "joining"],
)
def test_a_fork_waits_for_a_thread_that_imports_or_configures_or_joins(program: str) -> None:
    with collected() as logs:
        client: LogClient = logs.client
        assert "CHILD 0" in run_python("-c", GATE + FORKED + program + FORK, client.address).stdout


BUSY = """
import sys, time
sys.path.insert(0, sys.argv[1])
from meshlog_handler import this_host
with this_host().spawn_procs(per_host={"gpus": 2}, start_method="fork") as procs:
    import slow
    print(procs.call(lambda: __import__("slow").answer).get(20))
"""


def test_procs_are_not_forked_during_an_import(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(0.5); answer = 42")
    assert run_python("-c", BUSY, str(tmp_path)).stdout == "[42, 42]\n"
