"""The cost of starting: imports, and starting 16 processes.

Imports are timed inside new interpreters that have `logging.config` already, with byte code cached: the milliseconds of
the statement, and in the remark how many modules it loads. "Worker" is the imports of a process that only logs; "client" those
of the process that shows. Starting is timed from the first process until the last one reports ready. The processes do
nothing else, and the standard library's multiprocessing starts them; ours have then joined and have their standard
output captured. "To the first line" is a whole new program with 4 processes, from its first import until a record of one of
them is shown, beside a `ProcessPoolExecutor` until its first result. `install` is timed after the import. The fork server has
our package loaded already, as that of `spawn_procs` has; "spawn" pays for the imports in each process. `spawn_procs` is our
own mesh, until a call has returned from every rank.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from .crew import FORKSERVER, Crew, Gate
from .handlers import Counter
from .peers import version
from .rounds import Row, Scale, in_turn, tell

PROCS: Final = 16
WORKER: Final = "worker: install, MeshHandler"
_BASE: Final = "logging.config"
_IMPORTS: Final = {
    WORKER: "from meshlog_handler import install, MeshHandler",
    "client: LogClient": "from meshlog_handler import LogClient",
    "QueueHandler's multiprocessing.queues": "import logging.handlers, multiprocessing.queues",
    "loguru": "import loguru",
    "multiprocess": "import multiprocess.context",
}
_TIMED: Final = (
    "import sys, time, logging.config; before = len(sys.modules); began = time.perf_counter(); {}; "
    "print((time.perf_counter() - began) * 1e3, len(sys.modules) - before)"
)
_BASE_TIMED: Final = (
    "import sys, time; before = len(sys.modules); began = time.perf_counter(); import logging.config; "
    "print((time.perf_counter() - began) * 1e3, len(sys.modules) - before)"
)


def measure(scale: Scale) -> list[Row]:
    """Measure imports and starts."""
    with _byte_code():
        return [*_imports(scale), *_installs(scale), *_first_lines(scale), *_starts(scale)]


@contextmanager
def _byte_code() -> Iterator[None]:
    """Let the interpreters started in this context find byte code, in a separate place, whatever the environment says."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="meshlog-bench-") as directory:
        os.environ["PYTHONPYCACHEPREFIX"] = directory
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            # The modules that spawned processes load. Each module is imported once more than it is timed.
            subprocess.run([sys.executable, "-c", "import benchmarks.startup, multiprocessing.spawn"], check=True)
            _start("spawn", True, 1)
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _imports(scale: Scale) -> list[Row]:
    codes = {_BASE: _BASE_TIMED, **{name: _TIMED.format(statement) for name, statement in _IMPORTS.items()}}
    absent = "" if version("loguru") else "missing: loguru is not installed (pip install -e '.[bench]')"
    if absent:
        del codes["loguru"]
    tell("  imports")
    for code in codes.values():
        _timed(code)
    runs = in_turn({name: partial(_timed, code) for name, code in codes.items()}, scale.rounds * scale.pick(4, 1))
    rows = [
        Row(
            "import",
            name,
            "ms",
            [took for took, _ in runs[name]],
            () if name == _BASE else (_BASE,),
            f"{statistics.median(count for _, count in runs[name]):.0f} modules",
        )
        for name in codes
    ]
    return [*rows, Row("import", "loguru", "ms", [], (), absent)] if absent else rows


_INSTALL: Final = (
    "import sys, time, logging; from meshlog_handler import install; began = time.perf_counter(); install(sys.argv[1]); "
    "took = time.perf_counter() - began; from meshlog_handler import uninstall; uninstall(); print(took * 1e3)"
)
_FIRST_OF_MESH: Final = """
import logging, sys, threading, time
began = time.perf_counter()
def first():
    logging.getLogger().warning("first")
class Shown(logging.Handler):
    def emit(self, record):
        shown.set()
if __name__ == "__main__":
    from meshlog_handler import this_host
    shown = threading.Event()
    with this_host().spawn_procs(per_host={"gpus": 4}, handlers=[Shown()], start_method=sys.argv[1]) as procs:
        procs.call(first)
        shown.wait(60)
        print((time.perf_counter() - began) * 1e3)
"""
_FIRST_OF_POOL: Final = """
import sys, time
began = time.perf_counter()
def first():
    return "first"
if __name__ == "__main__":
    import concurrent.futures, multiprocessing
    with concurrent.futures.ProcessPoolExecutor(4, multiprocessing.get_context(sys.argv[1])) as pool:
        [pool.submit(first) for _ in range(4)][0].result()
        print((time.perf_counter() - began) * 1e3)
"""


def _installs(scale: Scale) -> list[Row]:
    from meshlog_handler import LogClient

    tell("  install")
    with LogClient(Counter(1 << 62)) as client:
        times = [_program("-c", _INSTALL, client.address) for _ in range(scale.rounds * scale.pick(4, 1))]
    return [Row("install, after the import", "install", "ms", times)]


def _first_lines(scale: Scale) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="meshlog-bench-") as directory:
        programs = {"spawn_procs": _FIRST_OF_MESH, "ProcessPoolExecutor": _FIRST_OF_POOL}
        paths = {name: os.path.join(directory, f"{name}.py") for name in programs}
        for name, text in programs.items():
            with open(paths[name], "w") as file:
                file.write(text)
        for method in ("fork", FORKSERVER, "spawn"):
            subjects = {name: partial(_program, path, method) for name, path in paths.items()}
            runs = in_turn(subjects, scale.rounds)
            work = f"4 procs to the first line, {method}"
            rows += [Row(work, name, "ms", runs[name], ("ProcessPoolExecutor",) * (name == "spawn_procs")) for name in paths]
    return rows


def _program(*words: str) -> float:
    """Run a Python program; return the number that it prints last."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _timed(code: str) -> tuple[float, int]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    milliseconds, modules = done.stdout.split()
    return float(milliseconds), int(modules)


def _starts(scale: Scale) -> list[Row]:
    subjects: dict[str, Callable[[], float]] = {}
    for method in (FORKSERVER, "spawn"):
        subjects[f"{method}, bare"] = partial(_start, method, False)
        subjects[f"{method}, installed"] = partial(_start, method, True)
    absent = _mesh_absent()
    if not absent:
        subjects["spawn_procs"] = _spawn_procs
    _start(FORKSERVER, False, 1)  # the fork server itself
    runs = in_turn(subjects, scale.few)
    work = f"starting {PROCS} procs"
    rows = []
    for name, times in runs.items():
        method = name.partition(",")[0]
        base = f"{method if method != 'spawn_procs' else FORKSERVER}, bare"
        rows.append(Row(work, name, "ms", times, () if name == base else (base,)))
    return [*rows, Row(work, "spawn_procs", "ms", [], (), absent)] if absent else rows


def _start(method: str, installed: bool, procs: int = PROCS) -> float:
    from meshlog_handler import LogClient

    with LogClient(Counter(1 << 62)) as client:
        address = client.address if installed else None
        began = time.perf_counter()
        with Crew(begin, [(address,)] * procs, method) as crew:
            crew.ready()
            took = time.perf_counter() - began
            crew.go()
            crew.results()
    return took * 1e3


def begin(gate: Gate, address: str | None) -> None:
    """In a process: report ready."""
    if address is not None:
        from meshlog_handler import install

        install(address)
    gate.wait()


def _mesh_absent() -> str:
    try:
        from meshlog_handler import this_host
    except ImportError as failure:
        return f"missing: {failure}"
    return "" if callable(this_host) else "missing"


def _spawn_procs() -> float:
    from meshlog_handler import current_rank, this_host

    began = time.perf_counter()
    mesh = this_host().spawn_procs(per_host={"gpus": PROCS}, handlers=[Counter(1 << 62)])
    try:
        mesh.call(current_rank).get(60.0)
        took = time.perf_counter() - began
    finally:
        mesh.stop().get(60.0)
    return took * 1e3
