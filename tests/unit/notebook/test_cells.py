"""Attaching to IPython, with fakes for cases that a real kernel does not cover: no kernel, other versions, a second shell.

Tests with a real kernel are in tests/process/test_notebook.py.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from meshlog_handler.client.flushes.receipt import FlushReceipt
from meshlog_handler.errors import ClosedError, SettingError
from meshlog_handler.notebook import cells
from meshlog_handler.notebook.ipython import Pulse, own_output, running_cell, write_under
from meshlog_handler.output.console import ConsoleHandler
from meshlog_handler.system.standard_streams import of_parents_kernel

DONE = FlushReceipt(1, (0, 1, 2, 3), (), (), 0, 0.01)
SILENT = FlushReceipt(1, (0, 3), (1, 2), (), 0, 3.0)


class Events:
    """Like IPython's events: a function is registered once; unregistering an unknown function raises ValueError."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Callable[..., object]]] = {"pre_run_cell": [], "post_run_cell": []}

    def register(self, event: str, function: Callable[..., object]) -> None:
        if function not in self.callbacks[event]:
            self.callbacks[event].append(function)

    def unregister(self, event: str, function: Callable[..., object]) -> None:
        self.callbacks[event].remove(function)

    @property
    def counts(self) -> list[int]:
        return [len(callbacks) for callbacks in self.callbacks.values()]


class Shell:
    """A fake shell that runs cells by name."""

    def __init__(self) -> None:
        self.events = Events()
        self.cell = "cell 1"

    def get_parent(self) -> dict[str, Any]:
        return {"header": {"msg_id": self.cell}, "content": {}}

    def start(self, name: str) -> None:
        self.cell = name
        for callback in list(self.events.callbacks["pre_run_cell"]):
            callback(object())

    def end(self, error: BaseException | None = None) -> None:
        for callback in list(self.events.callbacks["post_run_cell"]):
            callback(SimpleNamespace(error_in_exec=error))


class Client:
    """A fake client that answers flushes with given receipts, and logs each flush."""

    def __init__(self, *receipts: FlushReceipt | None, log: list[str] | None = None, name: str = "") -> None:
        self.running = True
        self.console: object = ConsoleHandler()
        self.timeouts: list[float] = []
        self._receipts = list(receipts)
        self._log = log if log is not None else []
        self._name = name

    def flush_soon(self, timeout: float) -> Future[FlushReceipt]:
        self.timeouts.append(timeout)
        self._log.append(f"{self._name} asked")
        future: Future[FlushReceipt] = Future()
        receipt = self._receipts.pop(0) if self._receipts else DONE
        if receipt is not None:
            future.set_result(receipt)
        return future


class Stream:
    """Like ipykernel 6: output appears under the cell in the thread's context variable."""

    def __init__(self) -> None:
        self._parent_header: ContextVar[dict[str, str]] = ContextVar("parent_header")

    @property
    def cell(self) -> str | None:
        return self._parent_header.get({"msg_id": "none"})["msg_id"]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    it = Shell()
    _use(monkeypatch, it)
    return it


def _use(monkeypatch: pytest.MonkeyPatch, shell: object) -> None:
    module = ModuleType("IPython")
    module.get_ipython = lambda: shell  # type: ignore[attr-defined]  # a fake module
    monkeypatch.setitem(sys.modules, "IPython", module)


@pytest.fixture(autouse=True)
def detached() -> Any:
    yield
    cells.detach()
    cells.show_under("running")


def attach(client: Client) -> bool:
    return cells.attach_if_notebook(client)  # type: ignore[arg-type]  # as much of a LogClient as is needed


def test_ipython_without_a_shell_or_partly_imported_is_not_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    assert not attach(client)
    _use(monkeypatch, None)
    assert not attach(client)
    assert cells.current_cell() is None


def test_all_clients_and_calls_share_one_flusher(shell: Shell) -> None:
    first, second = Client(), Client()
    for _ in range(3):
        assert attach(first)
        assert attach(second)
    assert shell.events.counts == [1, 1]
    shell.end()
    assert first.timeouts == second.timeouts == [cells.FLUSH_SEC]


def test_all_flushes_start_before_the_first_wait(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    clients = [Client(log=log, name=name) for name in ("one", "other")]
    for client in clients:
        attach(client)
    trouble = cells._trouble

    def waited_for(future: Future[FlushReceipt], timeout: float) -> str:
        log.append("waited")
        return trouble(future, timeout)

    monkeypatch.setattr(cells, "_trouble", waited_for)
    shell.end()
    assert sorted(log[:2]) == ["one asked", "other asked"]
    assert log[2:] == ["waited", "waited"]


def test_silent_ranks_are_named_in_one_line_and_get_a_shorter_wait_until_they_answer(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    client, other = Client(SILENT, SILENT, DONE), Client()
    attach(client)
    attach(other)
    lines = []
    for _ in range(4):
        shell.end()
        lines.append(capsys.readouterr().err)
    assert lines[0].startswith("meshlog: ranks 1-2 of 4 silent for 3.0 s ")
    assert [line.count("\n") for line in lines] == [1, 1, 0, 0]
    assert client.timeouts == [3.0, 0.5, 0.5, 3.0]
    assert other.timeouts == [3.0] * 4


def test_a_flush_that_never_completes_times_out_and_is_reported(
    shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "FLUSH_SEC", 0.01)
    monkeypatch.setattr(cells, "_MARGIN_SEC", 0.01)
    client = Client(None)
    attach(client)
    shell.end()
    assert capsys.readouterr().err == "meshlog: a handler delays the output; it is shown later\n"


def test_a_client_stopped_during_the_flush_is_not_reported(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    class Stopped(Client):
        def flush_soon(self, timeout: float) -> Future[FlushReceipt]:
            raise ClosedError("stopped")

    class Stopping(Client):
        def flush_soon(self, timeout: float) -> Future[FlushReceipt]:
            future: Future[FlushReceipt] = Future()
            future.set_exception(ClosedError("stopped"))
            return future

    clients = Stopped(), Stopping()
    for client in clients:
        attach(client)
    shell.end()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("error", "timeout"), [(KeyboardInterrupt(), 0.5), (ValueError(), 3.0), (None, 3.0)])
def test_the_flush_after_an_interrupted_cell_is_short(shell: Shell, error: BaseException | None, timeout: float) -> None:
    client = Client()
    attach(client)
    shell.end(error)
    assert client.timeouts == [timeout]


def test_an_interrupt_during_the_flush_prints_one_line(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(Client):
        def flush_soon(self, timeout: float) -> Future[FlushReceipt]:
            raise KeyboardInterrupt

    client = Interrupted()
    attach(client)
    shell.end()
    assert capsys.readouterr().err == "meshlog: interrupted: the last output is shown under a later cell\n"


def test_clients_are_weakly_referenced_and_the_last_one_removes_the_flusher(shell: Shell) -> None:
    collected, stopped, detached = Client(), Client(), Client()
    for client in (collected, stopped, detached):
        attach(client)
    del collected, client
    gc.collect()
    shell.end()
    assert shell.events.counts == [1, 1]
    stopped.running = False
    shell.end()
    assert len(stopped.timeouts) == 1
    assert shell.events.counts == [1, 1]
    cells.detach(detached)  # type: ignore[arg-type]  # as in attach
    assert shell.events.counts == [0, 0]
    assert isinstance(detached.console, ConsoleHandler)
    assert detached.console.before_write is None
    attach(detached)
    assert shell.events.counts == [1, 1]


def test_a_new_shell_replaces_the_old_one(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    client, another = Client(), Shell()
    attach(client)
    _use(monkeypatch, another)
    attach(client)
    assert (shell.events.counts, another.events.counts) == ([0, 0], [1, 1])


def test_detach_works_after_the_user_unregistered_the_flusher(shell: Shell) -> None:
    client = Client()
    attach(client)
    for callbacks in shell.events.callbacks.values():
        callbacks.clear()
    cells.detach()
    assert shell.events.counts == [0, 0]


def test_a_forked_child_has_no_notebook(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "_inherited", None)
    client = Client()
    attach(client)
    session = cells._session
    cells._after_fork_in_child()
    assert not attach(client)
    assert cells.current_cell() is None
    assert session is not None
    session.close()
    _use(monkeypatch, Shell())  # one that it starts itself
    assert attach(client)


def test_the_console_writes_under_the_running_cell_or_the_starting_cell(shell: Shell) -> None:
    stream, client, later = Stream(), Client(), Client()
    attach(client)
    shell.start("cell 2")
    cells.attach_if_notebook(later, {"msg_id": "its own"})  # type: ignore[arg-type]  # as in attach

    def shown() -> list[str | None]:
        found = []
        for each in (client, later):
            assert isinstance(each.console, ConsoleHandler)
            assert each.console.before_write is not None
            each.console.before_write(stream)  # type: ignore[arg-type]  # as much of a stream as is needed
            found.append(stream.cell)
        return found

    assert copy_context().run(shown) == ["cell 2", "cell 2"]
    shell.start("cell 3")
    assert copy_context().run(shown) == ["cell 3", "cell 3"]
    # A request that runs no cell: a completion, or a silent execution of a front end.
    shell.cell = "completion"
    assert copy_context().run(shown) == ["cell 3", "cell 3"]
    cells.show_under("starting")
    assert copy_context().run(shown) == ["cell 1", "its own"]
    cells.show_under("running")
    assert copy_context().run(shown) == ["cell 3", "cell 3"]


def test_handlers_of_the_user_are_not_changed(shell: Shell) -> None:
    client = Client()
    client.console = None
    assert attach(client)
    assert client.console is None


def test_an_invalid_place_is_rejected() -> None:
    with pytest.raises(SettingError, match=r"show_under\('last'\).*Valid: 'running', 'starting'"):
        cells.show_under("last")  # type: ignore[arg-type]  # what is refused


def test_a_terminal_has_no_cells() -> None:
    assert running_cell(SimpleNamespace()) is None
    assert running_cell(SimpleNamespace(get_parent=lambda: None)) is None
    assert running_cell(SimpleNamespace(get_parent=dict)) is None


class Seven(Stream):
    """Like ipykernel 7."""

    def set_thread_parent(self, parent: dict[str, str]) -> None:
        self._parent_header.set({"msg_id": parent["msg_id"] + ", by name"})


def test_streams_of_all_versions_and_other_streams() -> None:
    six, seven = Stream(), Seven()

    def write() -> list[str | None]:
        for stream in (six, seven, sys.__stdout__, SimpleNamespace(_parent_header={"msg_id": "of version 5"})):
            write_under({"msg_id": "a cell"}, stream)
        return [six.cell, seven.cell]

    assert copy_context().run(write) == ["a cell", "a cell, by name"]
    assert [six.cell, seven.cell] == ["none", "none"]  # the choice is the thread's own


class OutStream:
    """Like ipykernel's, with the two attributes that are read."""

    def __init__(self, watch: bool, echo: object = None) -> None:
        self._should_watch = watch
        self.echo = echo


@pytest.mark.parametrize(
    ("stdout", "stderr", "captured"),
    [
        (OutStream(True), OutStream(True), None),
        (OutStream(False), OutStream(False), [1, 2]),
        (OutStream(True), OutStream(False), [2]),
        # This stream also writes its output to descriptor 1.
        (OutStream(False, sys.__stdout__), OutStream(False), [2]),
        (sys.__stdout__, sys.__stderr__, None),
    ],
)
def test_which_descriptors_are_captured(
    stdout: object, stderr: object, captured: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = SimpleNamespace(_stdout=stdout, _stderr=stderr)
    monkeypatch.delitem(sys.modules, "ipykernel.iostream", raising=False)
    assert own_output(SimpleNamespace(kernel=kernel), print) is None
    module = ModuleType("ipykernel.iostream")
    module.OutStream = OutStream  # type: ignore[attr-defined]  # a fake module
    monkeypatch.setitem(sys.modules, "ipykernel.iostream", module)
    echo = own_output(SimpleNamespace(kernel=kernel), print)
    assert (None if echo is None else list(echo._routes)) == captured
    assert own_output(SimpleNamespace(), print) is None  # a terminal


def test_a_stream_of_the_parents_kernel_is_recognized() -> None:
    kind = type("OutStream", (), {"__module__": "ipykernel.iostream", "_master_pid": os.getpid()})
    assert not of_parents_kernel(kind())
    kind._master_pid = os.getppid()  # type: ignore[attr-defined]  # as above
    assert of_parents_kernel(kind())
    assert not of_parents_kernel(sys.__stdout__)
    assert not of_parents_kernel(None)


class Loop:
    """A fake event loop that the test advances."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []
        self.later: list[Callable[[], object]] = []

    def add_callback(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        assert 0 < seconds < 1
        self.later.append(callback)

    def turn(self) -> int:
        """Run the pending callbacks, and return the number of timers."""
        soon, self.soon, later, self.later = self.soon, [], self.later, []
        for callback in (*soon, *later):
            callback()
        return len(self.later)


def test_the_loop_is_woken_only_while_a_cell_runs() -> None:
    loop = Loop()
    pulse = Pulse(SimpleNamespace(kernel=SimpleNamespace(io_loop=loop)))
    assert loop.turn() == 0
    pulse.start()
    pulse.start()
    assert [loop.turn() for _ in range(3)] == [1, 1, 1]
    # Cells shorter than the interval do not start further timers.
    for _ in range(5):
        pulse.stop()
        pulse.start()
        assert loop.turn() == 1
    pulse.stop()
    assert [loop.turn() for _ in range(3)] == [0, 0, 0]
    pulse.start()
    assert loop.turn() == 1


def test_a_terminal_has_no_loop_to_wake() -> None:
    pulse = Pulse(SimpleNamespace())
    pulse.start()
    pulse.stop()
    assert not pulse._beating
