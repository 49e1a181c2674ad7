"""The layout: which module may import which, what an import may do, and what no file may contain."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import io
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from .imports import PACKAGE, imports
from .stress.points import POINTS

ROOT = Path(__file__).parents[1]

# What each folder, and each file beside them, may import of the package. A folder's own files may import each other.
BASE = {"errors", "settings", "protocol", "system"}
WORKER = BASE | {"journal", "transport", "worker"}
CLIENT = WORKER | {"grouping", "insight", "lines", "output", "dispatch", "client"}
MAY_IMPORT = {
    "_version": set(),
    "errors": set(),
    "settings": {"errors"},
    "protocol": {"errors"},
    "system": {"errors", "settings"},
    "journal": BASE,
    "transport": BASE | {"journal"},
    "grouping": {"protocol"},
    "insight": {"errors", "protocol", "grouping"},
    "lines": {"protocol", "grouping"},
    "output": BASE | {"lines"},
    "worker": BASE | {"journal", "transport"},
    "dispatch": WORKER | {"grouping", "lines", "output"},
    "client": CLIENT - {"client"} | {"_version"},
    "handler": CLIENT,
    "notebook": BASE | {"output", "client"},
    "installation": WORKER | {"handler", "notebook"},
    "mesh": CLIENT | {"handler", "installation", "notebook"},
    "integrations": CLIENT | {"handler", "installation", "notebook", "mesh"},
    "cli": CLIENT | {"_version"},
    "testing": CLIENT,
    "__init__": {"_version", "system"},  # the rest is imported when it is first used
    "__main__": {"cli"},
}
# What the folders inside a folder may import of it, and what the files beside them may. Of other folders: see above.
INNER = {
    "client.peers": set(),
    "client.flushes": {"client.peers"},
    "client.queues": {"client.peers"},
    "client.jobs": {"client.peers"},
    "client.downstream": {"client.peers", "client.flushes"},
    "client.health": {"client.peers", "client.flushes", "client.downstream"},
    "client.reports": {"client.peers", "client.health"},
    "client.observers": {"client.peers", "client.flushes", "client.downstream", "client.health"},
}
INNER |= {"client": set(INNER), "client.relay": {*INNER, "client"}}
INNER |= {"cli": set(), "cli.launch": {"cli"}, "cli.view": {"cli"}, "cli.page": {"cli", "cli.view"}}
INNER |= {"cli.commands": {"cli", "cli.launch", "cli.view", "cli.page"}}
INNER |= {"integrations": set()} | {f"integrations.{each}": {"integrations"} for each in ("dask", "monarch", "ray")}
# These may import types from above: the public names, and the receipt of a `FlushTimeout`. Within a folder, every file may.
NAMES_TYPES_ABOVE = {"__init__", "errors"}
# No threads, no clocks, nothing that waits.
PURE = [
    "protocol.*",
    "grouping.*",
    "insight.*",
    "lines.*",
    "journal.layout",
    "journal.reader",
    "journal.writer",
    "output.formatter",
]
PURE += [
    "output.prefix",
    "client.flushes.acknowledgements",
    "client.downstream.clocks",
    "client.downstream.passed_streams",
    "client.downstream.unconfirmed",
    "client.flushes.receipt",
    "client.peers.stats",
    "mesh.rpc",
    "mesh.shape",
]
PURE += [f"cli.page.{name}" for name in ("events", "grid", "groups", "model", "findings", "render")]
MAX_ENTRIES = 24
MAX_POSITIONAL = 5  # self included
WAITING = {"threading", "_thread", "time", "socket", "queue", "select", "selectors", "asyncio"}
WAITING |= {"multiprocessing", "subprocess"}

# What a user may import from the package. The documentation names each.
PUBLIC = {
    "complete",
    # A mesh
    "this_host",
    "HostMesh",
    "ProcMesh",
    "MeshFuture",
    "current_rank",
    "current_coords",
    # The control surface
    "LoggingManager",
    "LoggingMeshClient",
    "LoggerRuntime",
    "LogForwarder",
    "FlushReceipt",
    "RankStats",
    "Insight",
    "Stacks",
    "Hang",
    # A client of its own, and the proc's side
    "LogClient",
    "JournalQueue",
    "LogRelay",
    "install",
    "uninstall",
    "MeshHandler",
    # Shown records
    "MeshFormatter",
    "JsonFormatter",
    "ConsoleHandler",
    # Errors
    "MeshlogError",
    "SettingError",
    "ClosedError",
    "ForwardingDisabledWarning",
    "ConnectError",
    "ProtocolError",
    "BusyError",
    "FlushTimeout",
    "RankError",
    "RankDied",
    "ConfigRefused",
    "RemoteTraceback",
}

MAX_LINES = 600

# What makes seconds that the kernel accepts, and what passes on such.
BOUNDED = {"capped", "seconds_until", "self._patience"}

SOURCES = {path: path.read_text() for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path) for path in SOURCES}
each_file = pytest.mark.parametrize("path", SOURCES, ids=name_of)


def folder_of(module: str) -> str:
    """Return the folder in which a module is; of a file beside the folders, its own name."""
    return module.partition(".")[0]


def inner_folder_of(module: str) -> str:
    """Return the innermost folder in which a module is."""
    return module if module in INNER else module.rpartition(".")[0]


def is_pure(module: str) -> bool:
    return any(fnmatch.fnmatchcase(module, entry) for entry in PURE)


def forbidden_imports(module: str, source: str, modules: set[str], is_package: bool = False) -> list[str]:
    """Say what is wrong with the imports of a module."""
    here = folder_of(module)
    if here not in MAY_IMPORT:
        return [f"{module} is in no known folder: list it in MAY_IMPORT"]
    wrong = []
    for line, name, inside, types_only in imports(module, source, modules, is_package):
        there = folder_of(name)
        if types_only and (not inside or there == here or here in NAMES_TYPES_ABOVE):
            continue
        if inside and there != here and there not in MAY_IMPORT[here]:
            wrong.append(f"{module}:{line} imports {name}, which {here} may not")
        within, source_of = inner_folder_of(module), inner_folder_of(name)
        if inside and there == here and source_of not in INNER.get(within, {source_of}) | {within}:
            wrong.append(f"{module}:{line} imports {name}, which {within} may not")
        if inside and name == module:
            wrong.append(f"{module}:{line} imports itself")
        if not inside and name.partition(".")[0] == "multiprocess" and module != "mesh.start_methods":
            wrong.append(f"{module}:{line} imports multiprocess, which only mesh.start_methods may")
        if not inside and name.partition(".")[0] in WAITING and is_pure(module):
            wrong.append(f"{module}:{line} imports {name}, but nothing waits in {here}")
    return wrong


def imported_files() -> dict[str, set[str]]:
    """Return what each module imports of the package, also for type checkers alone."""
    graph: dict[str, set[str]] = {}
    for path, source in SOURCES.items():
        module = name_of(path)
        found = imports(module, source, MODULES, path.name == "__init__.py")
        graph[module] = {each.name for each in found if each.inside and each.name in MODULES} - {module}
    return graph


def swallowed_errors(source: str) -> list[str]:
    """Say where an exception disappears without a word."""
    wrong = []
    comments = {
        token.start[0] for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.COMMENT
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                wrong.append(f"line {node.lineno}: a bare except")
            if all(_says_nothing(statement) for statement in node.body):
                wrong.append(f"line {node.lineno}: an except that only passes; use suppress with a comment")
        if isinstance(node, (ast.With, ast.AsyncWith)) and any(map(_is_suppress, node.items)):
            around = range(node.lineno - 1, node.body[0].lineno + 1)
            if comments.isdisjoint(around):
                wrong.append(f"line {node.lineno}: suppress without a comment that says why")
    return wrong


def uncapped_waits(source: str) -> list[str]:
    """Say where the kernel is given seconds that `waits` has not seen, or where a deadline is of another clock than its."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        seconds = [keyword.value for keyword in node.keywords if keyword.arg == "timeout"]
        if called.endswith((".select", ".poll")):
            seconds += node.args[-1:]
        elif not called.endswith(".acquire"):
            seconds = []
        wrong += [f"line {each.lineno}: {ast.unparse(node)}" for each in seconds if not _is_bounded(each)]
        if called in {"time.monotonic", "time.monotonic_ns", "time.perf_counter"}:
            wrong.append(f"line {node.lineno}: {called}")
    return wrong


def _is_bounded(seconds: ast.expr) -> bool:
    """Whether they are constant, or came from `waits`."""
    if isinstance(seconds, ast.BinOp):
        return _is_bounded(seconds.left) and _is_bounded(seconds.right)
    if isinstance(seconds, ast.IfExp):
        return _is_bounded(seconds.body) and _is_bounded(seconds.orelse)
    if isinstance(seconds, ast.Name):
        return seconds.id.isupper()
    return isinstance(seconds, ast.Constant) or (isinstance(seconds, ast.Call) and ast.unparse(seconds.func) in BOUNDED)


def _is_suppress(item: ast.withitem) -> bool:
    call = item.context_expr
    return isinstance(call, ast.Call) and ast.unparse(call.func).endswith("suppress")


def _says_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))


@each_file
def test_imports_walk_downward(path: Path) -> None:
    assert forbidden_imports(name_of(path), SOURCES[path], MODULES, path.name == "__init__.py") == []


def test_the_table_is_of_what_exists_and_has_no_cycle() -> None:
    assert set(MAY_IMPORT) == {folder_of(module) for module in MODULES}
    assert set().union(*MAY_IMPORT.values()) <= set(MAY_IMPORT)
    tuple(TopologicalSorter(MAY_IMPORT).static_order())
    assert all(fnmatch.filter(MODULES, entry) for entry in PURE)


def test_the_table_of_inner_folders_is_of_what_exists_and_has_no_cycle() -> None:
    folders = {name_of(path) for path in SOURCES if path.name == "__init__.py"}
    assert set(INNER) == {each for each in folders if any(inner.startswith(f"{folder_of(each)}.") for inner in folders)}
    tuple(TopologicalSorter(INNER).static_order())


def test_files_import_each_other_without_a_cycle() -> None:
    tuple(TopologicalSorter(imported_files()).static_order())


@pytest.mark.parametrize("folder", [name_of(path) for path in SOURCES if path.name == "__init__.py"])
def test_importing_a_folder_imports_none_of_its_files(folder: str) -> None:
    """Threads that import two files of it at once would wait for each other."""
    path = next(path for path in SOURCES if name_of(path) == folder and path.name == "__init__.py")
    inner = "" if folder == "__init__" else f"{folder}."
    found = {each.name for each in imports(folder, SOURCES[path], MODULES, True) if each.inside and not each.types_only}
    allowed = MODULES if folder == "cli" else {"_version", "system.lazy_imports"}  # the command line is imported by one thread
    assert {name for name in found if name.startswith(inner)} <= allowed


def test_the_top_of_the_package_has_few_entries() -> None:
    entries = [path.name for path in (ROOT / PACKAGE).iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MAX_ENTRIES


@pytest.mark.parametrize("folder", [folder for folder in MAY_IMPORT if (ROOT / PACKAGE / folder).is_dir()])
def test_a_folder_says_what_is_in_it(folder: str) -> None:
    said = ast.get_docstring(ast.parse((ROOT / PACKAGE / folder / "__init__.py").read_text())) or ""
    listed = re.search(r"^May import: ([^.]*)\.", said, re.MULTILINE)
    assert listed
    assert set(re.split(r",\s+", listed[1])) == MAY_IMPORT[folder] - {folder}


@pytest.mark.parametrize("folder", [folder for folder in INNER if "." in folder])
def test_an_inner_folder_says_what_is_in_it(folder: str) -> None:
    said = ast.get_docstring(ast.parse((ROOT / PACKAGE / folder.replace(".", "/") / "__init__.py").read_text())) or ""
    listed = re.search(r"^May import of [\w ]*: ([^.]*)\.", said, re.MULTILINE)
    assert listed
    outer = folder_of(folder)
    names = {"nothing": set(), "the files beside this folder": {outer}}
    found = [names.get(name, {f"{outer}.{name}"}) for name in re.split(r",\s+", listed[1])]
    assert set().union(*found) == INNER[folder]


def test_the_map_of_the_package_names_what_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = re.findall(r"`((?:\w+/)+\w+\.py)`", text)
    assert [each for each in files if not (ROOT / PACKAGE / each).exists() and not (ROOT / each).exists()] == []
    folders = {each.replace(".", "/") for each in (*MAY_IMPORT, *INNER) if folder_of(each) != "integrations"}
    rows = set(re.findall(r"^\| `([\w/]+)` \|", text, re.MULTILINE))
    assert {each for each in folders if (ROOT / PACKAGE / each).is_dir()} <= rows


def test_the_functions_in_which_the_stress_tests_kill_exist() -> None:
    functions = {
        f"{path.stem}.{node.name}"
        for path, source in SOURCES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    }
    names = set[str]().union(*(names for names, _ in POINTS.values()))
    assert {name for name in names if not fnmatch.filter(functions, name)} == set()


@each_file
def test_no_error_is_swallowed(path: Path) -> None:
    assert swallowed_errors(SOURCES[path]) == []


@each_file
def test_no_wait_is_longer_than_the_kernel_allows(path: Path) -> None:
    assert uncapped_waits(SOURCES[path]) == []


def test_no_two_classes_have_one_name() -> None:
    names = Counter(
        node.name for source in SOURCES.values() for node in ast.parse(source).body if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


@each_file
def test_a_constructor_with_many_arguments_takes_them_by_name(path: Path) -> None:
    kinds = [node for node in ast.walk(ast.parse(SOURCES[path])) if isinstance(node, ast.ClassDef)]
    made = [(kind.name, each) for kind in kinds for each in kind.body if isinstance(each, ast.FunctionDef)]
    assert [name for name, each in made if each.name == "__init__" and len(each.args.args) > MAX_POSITIONAL] == []


@each_file
def test_a_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(SOURCES[path]))


@each_file
def test_a_file_has_one_role(path: Path) -> None:
    assert len(SOURCES[path].splitlines()) <= MAX_LINES, "what is the second role?"


def test_all_is_what_is_promised() -> None:
    package = importlib.import_module(PACKAGE)
    assert set(package.__all__) == PUBLIC
    assert len(package.__all__) == len(PUBLIC)
    undocumented = {name for name in PUBLIC if not getattr(package, name).__doc__}
    assert undocumented == set()


def test_public_folders_need_no_import_of_their_own() -> None:
    """In a fresh process: here, other tests have imported them."""
    code = f"import {PACKAGE} as m; print(m.testing.collected, m.notebook.show_under, m.integrations.ray)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_help_begins_with_what_users_use() -> None:
    first = importlib.import_module(PACKAGE).__doc__ or ""
    assert re.findall(r"`(\w+)`", first)[1] in PUBLIC


def test_the_documentation_names_all_of_it() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    words = "\n".join(page.read_text() for page in pages)
    assert {name for name in PUBLIC if name not in words} == set()


PROBE = f"""
import json, logging, os, signal, sys, threading
def state():
    return {{
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "environment": dict(os.environ),
        "handlers": [repr(handler) for handler in logging.root.handlers],
        "level": logging.root.level,
        "classes": [repr(logging.getLoggerClass()), repr(logging.getLogRecordFactory())],
        "streams": [id(sys.stdout), id(sys.stderr)],
        "hooks": [id(sys.excepthook), id(sys.displayhook), id(threading.excepthook), len(sys.meta_path)],
        "signals": [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "descriptors": sorted(os.listdir("/dev/fd")),
        "directory": os.getcwd(),
    }}
before, modules = state(), set(sys.modules)
import {PACKAGE}
after = state()
print(json.dumps([before, after, sorted(set(sys.modules) - modules)]))
"""
HEAVY = {"multiprocess", "multiprocessing", "dill", "asyncio", "IPython", "ssl", "concurrent.futures.process"}


def test_an_import_of_the_package_does_nothing_else() -> None:
    ran = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    before, after, loaded = json.loads(ran.stdout)
    assert after == before
    assert PACKAGE in loaded
    assert HEAVY.intersection(loaded) == set()
    assert ran.stderr == ""


def test_a_worker_imports_little() -> None:
    """What only a client or a job needs would add a fifth to a worker's start."""
    code = "import sys, logging.config, logging.handlers, pickle, threading; before = {*sys.modules}\n"
    code += f"from {PACKAGE} import MeshHandler, install; print(*({{*sys.modules}} - before))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert {"ast", "dataclasses", "hashlib", "hmac", "inspect", "json", "shutil", "tempfile"}.isdisjoint(ran.stdout.split())


# The checks themselves: each of these sources has one fault, on its last line.

FAULTS = {
    "upward": ("errors", "import os\nfrom .client.log_client import LogClient"),
    "upward from a folder": ("protocol.codec", "from ..client import log_client"),
    "the module itself": ("client.log_client", "from .log_client import LogClient"),
    "upward, absolute": ("errors", "import meshlog_handler.client.log_client"),
    "upward, absolute, by attribute": ("errors", "from meshlog_handler.client import log_client"),
    "the package": ("client.log_client", "from .. import __version__"),
    "the package, absolute": ("client.log_client", "import meshlog_handler"),
    "upward in a function": ("errors", "def lazily():\n    from .client import log_client"),
    "upward in the other branch": ("errors", "if TYPE_CHECKING:\n    x = 1\nelse:\n    from .client import log_client"),
    "upward by name": ("errors", "import importlib\nimportlib.import_module('.client.log_client', __package__)"),
    "upward, two dots": ("integrations.ray", "from ..cli import main"),
    "upward within a folder": ("client.peers.peer", "from ..flushes import receipt"),
    "upward within a folder, beside it": ("client.peers.peer", "from ..log_client import LogClient"),
    "upward for types": ("protocol.codec", "if TYPE_CHECKING:\n    from ..client.log_client import LogClient"),
    "multiprocess": ("client.log_client", "def start():\n    import multiprocess.connection"),
    "a clock": ("client.flushes.acknowledgements", "from time import monotonic"),
    "a queue": ("protocol.codec", "def lazily():\n    import queue"),
    "in no known folder": ("attic.trunk", ""),
}
FREE = {
    "downward": ("client.log_client", "import threading, time\nfrom ..errors import Closed\nfrom ..protocol import codec"),
    "of the same folder": ("protocol.messages", "from .codec import pack"),
    "downward within a folder": ("client.flushes.receipt", "from ..peers.peer import Peer"),
    "the type of an error's receipt": ("errors", "if TYPE_CHECKING:\n    from .client.log_client import LogClient"),
    "upward within a folder, for types": ("client.peers.peer", "if TYPE_CHECKING:\n    from ..flushes import receipt"),
    "multiprocess in its place": ("mesh.start_methods", "import multiprocess"),
    "the standard library's twin": ("transport.channel", "import multiprocessing.connection"),
    "two dots": ("integrations.ray", "from ..client.log_client import LogClient\nfrom .. import errors"),
    "the package's own": ("__init__", "from ._version import __version__"),
}
HOUSE = {
    "_version",
    "errors",
    "settings",
    "protocol.codec",
    "journal.writer",
    "client.flushes.acknowledgements",
    "protocol.messages",
}
HOUSE |= {"mesh.start_methods", "transport.channel", "client.log_client", "client", "protocol", "integrations"}
HOUSE |= {"client.peers", "client.peers.peer", "client.flushes", "client.flushes.receipt"}
HOUSE |= {"integrations.ray", "integrations.dask", "cli", "__init__"}


@pytest.mark.parametrize(("module", "source"), FAULTS.values(), ids=FAULTS)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    found = forbidden_imports(module, source, HOUSE, module in ("__init__", "integrations"))
    assert len(found) == 1
    assert f"{module}:{len(source.splitlines())} " in found[0] or "in no known folder" in found[0]


@pytest.mark.parametrize(("module", "source"), FREE.values(), ids=FREE)
def test_an_allowed_import_is_not(module: str, source: str) -> None:
    assert forbidden_imports(module, source, HOUSE, module in ("__init__", "integrations")) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("try:\n    f()\nexcept:\n    raise", 1),
        ("try:\n    f()\nexcept OSError:\n    pass", 1),
        ("try:\n    f()\nexcept OSError:\n    'why'  # a comment does not help", 1),
        ("with suppress(OSError):\n    f()", 1),
        ("with contextlib.suppress(OSError):  # gone before us: just as well\n    f()", 0),
        ("# gone before us: just as well\nwith suppress(OSError):\n    f()", 0),
        ("with suppress(OSError):\n    # gone before us: just as well\n    f()", 0),
        ("try:\n    f()\nexcept OSError:\n    count += 1", 0),
    ],
)
def test_a_swallowed_error_is_found(source: str, count: int) -> None:
    assert len(swallowed_errors(source)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("selector.select(timeout)", 1),
        ("selector.select(None if deadline is None else deadline - now)", 1),
        ("select.select([fd], [], [], seconds)", 1),
        ("poller.poll(1000 * timeout)", 1),
        ("lock.acquire(timeout=timeout)", 1),
        ("deadline = time.monotonic() + 1", 1),
        ("selector.select(capped(timeout))", 0),
        ("poller.poll(seconds_until(deadline) * 1000)", 0),
        ("poller.poll()", 0),
        ("lock.acquire(timeout=LOCK_SEC)", 0),
        ("process.poll()", 0),
    ],
)
def test_an_uncapped_wait_is_found(source: str, count: int) -> None:
    assert len(uncapped_waits(source)) == count
