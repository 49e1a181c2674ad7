"""Run cells in real IPython kernels, and collect the output under the cell to which it belongs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from types import TracebackType
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from typing_extensions import Self

from tests.process.procs import DEADLINE, importing, state_of, stop_process

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Cell:
    """A cell that was run, with the output under it."""

    source: str
    stdout: str = ""
    stderr: str = ""
    html: str = ""
    error: str = ""
    begun: bool = False
    ended: bool = False
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def lines(self) -> list[str]:
        """The lines of both streams, sorted, without colours."""
        return sorted(_COLOUR.sub("", self.stdout + self.stderr).splitlines())


class Kernel:
    """A kernel, and a front end that collects its output.

    Parameters
    ----------
    watches : bool
        Whether ipykernel captures file descriptors 1 and 2. It does not if the environment says that pytest runs.
    """

    def __init__(self, *, watches: bool = True) -> None:
        self.cells: list[Cell] = []
        self._by_request: dict[str, Cell] = {}
        self._home = tempfile.TemporaryDirectory(prefix="kernel-")
        self.env = kernel_env(self._home.name, watches=watches)
        self.manager = KernelManager()
        self.client: BlockingKernelClient

    def __enter__(self) -> Self:
        self.manager.start_kernel(env=self.env)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=kind is not None)
        self.manager.cleanup_resources()
        self.manager.context.destroy()
        self._home.cleanup()

    @property
    def pid(self) -> int:
        """The pid of the kernel."""
        pid = self.manager.provisioner.pid  # type: ignore[union-attr]  # it was started
        assert isinstance(pid, int)
        return pid

    def start(self, source: str) -> Cell:
        """Start a cell, and return at once."""
        cell = Cell(source)
        self.cells.append(cell)
        self._by_request[self.client.execute(source)] = cell
        return cell

    def run(self, source: str, watch: Callable[[Cell], None] | None = None, *, error: str = "") -> Cell:
        """Run a cell to its end; call `watch` after each output under any cell. Fails if it raises anything but `error`."""
        cell = self.start(source)
        self.finish(cell, watch)
        assert cell.error.partition(":")[0] == error, cell.error
        return cell

    def finish(self, cell: Cell, watch: Callable[[Cell], None] | None = None) -> None:
        """Wait until a cell has ended and, like a front end, for the reply.

        If a kernel of ipykernel 7.3 gets the next request before it has sent the reply, it may never handle that request, with
        or without this package (once in 26 to 378 cells).
        """
        self.until(lambda: cell.ended, f"the cell to end: {cell.source}", watch)
        answered: Cell | None = None
        while answered is not cell:
            reply = self.client.get_shell_msg(timeout=DEADLINE)
            answered = self._by_request.get(reply["parent_header"].get("msg_id", ""))

    def until(
        self,
        predicate: Callable[[], object],
        what: str,
        watch: Callable[[Cell], None] | None = None,
        seconds: float = DEADLINE,
    ) -> None:
        """Collect the output of the kernel until `predicate` returns true."""
        deadline = time.monotonic() + seconds
        while not predicate():
            assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}; so far: {self.cells}"
            with contextlib.suppress(Empty):  # the predicate may depend on something else
                cell = self._file(self.client.get_iopub_msg(timeout=0.1))
                if watch is not None and cell is not None:
                    watch(cell)

    def _file(self, message: dict[str, Any]) -> Cell | None:
        cell = self._by_request.get(message["parent_header"].get("msg_id", ""))
        if cell is None:
            return None
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            setattr(cell, content["name"], getattr(cell, content["name"]) + content["text"])
        elif kind == "execute_result":
            cell.html = content["data"].get("text/html", "")
        elif kind == "error":
            cell.error = f"{content['ename']}: {content['evalue']}\n" + _COLOUR.sub("", "\n".join(content["traceback"]))
        elif kind == "status" and content["execution_state"] == "busy":
            cell.begun = True
        elif kind == "status" and content["execution_state"] == "idle":
            cell.ended = True
            cell.seconds = time.monotonic() - cell.started
        return cell

    def where(self, text: str) -> list[Cell]:
        """Return the cells whose output contains a text."""
        return [cell for cell in self.cells if text in cell.stdout + cell.stderr]


def kernel_env(home: str, *, watches: bool = True) -> dict[str, str]:
    """Return the environment for a kernel, without the developer's own settings and those of this test run."""
    env = {name: value for name, value in importing().items() if not name.startswith(("JUPYTER", "IPYTHON"))}
    env |= {"IPYTHONDIR": home, "JUPYTER_CONFIG_DIR": home, "JUPYTER_DATA_DIR": home, "NO_COLOR": "1"}
    for name in ("PYTEST_CURRENT_TEST", "PYTHONUNBUFFERED"):
        env.pop(name, None)
    if not watches:
        env["PYTEST_CURRENT_TEST"] = "this test"
    return env


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Keep a process stopped during the block."""
    try:
        stop_process(pid)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def family(pid: int) -> set[int]:
    """Return the pids of a process and of all its descendants."""
    found = {pid}
    parents: dict[int, int] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # the process has just ended
            parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def gone(pid: int) -> bool:
    """Tell whether a process has ended; it may be a zombie."""
    try:
        return state_of(pid) in "ZX"
    except FileNotFoundError:
        return True
