"""Tests of a mesh in a real IPython kernel: which lines are shown, under which cell, and when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import LogClient
from tests.waiting import until

from .documents import Page
from .kernels import Cell, Kernel, family, gone, kernel_env, stopped
from .procs import DEADLINE, ROOT, run_python

pytest.importorskip("ipykernel")
pytestmark = pytest.mark.notebook

SET_UP = """
import logging, os, signal, subprocess, sys, threading, time
import meshlog_handler, meshlog_handler.notebook.cells
from tests.waiting import until

def wait_for(path):
    until(lambda: os.path.exists(path), 50, path)

def greet(number):
    print("printed", number)
    logging.getLogger("job").info("logged %d", number)

def greet_later(path, number):
    def wait():
        wait_for(path)
        print("printed", number)
    threading.Thread(target=wait, daemon=True).start()

pm = meshlog_handler.this_host().spawn_procs({"gpus": 4})
await pm.logging_option(aggregate_window_sec=None)
"""

GREETINGS = [f"[{rank}] {verb} {{}}" for rank in range(4) for verb in ("logged", "printed")]


def greetings(number: int) -> list[str]:
    return sorted(line.format(number) for line in GREETINGS)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as it:
        it.run(SET_UP)
        yield it
        it.run("await pm.stop()")


@pytest.fixture(scope="module")
def unwatched() -> Iterator[Kernel]:
    """Yield a kernel that does not capture its own descriptors."""
    with Kernel(watches=False) as it:
        yield it


def pids(kernel: Kernel) -> dict[int, int]:
    found: dict[int, int] = eval(kernel.run("print(pm.pids)").stdout)
    return found


def test_a_mesh_a_client_and_stacks_are_shown_as_tables(kernel: Kernel) -> None:
    kernel.run(
        "def attack(): logging.getLogger('job').warning('<script>alert(1)</script>')\nawait pm.call(attack)\nawait pm.flush()"
    )
    for shown in ("pm", "pm.logging.client", "await pm.insight()", "pm.slice(ranks=[1])"):
        made = kernel.run(shown).html
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in made, shown
        assert "<script" not in made, shown
        assert made.count("<tr") == (2 if "slice" in shown else 5), shown
    assert "<details open" in kernel.run("await pm.stacks()").html
    assert "not started" in kernel.run("meshlog_handler.LogClient()").html


def test_output_of_four_procs_is_shown_under_the_cell_before_it_ends(kernel: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def watch(cell: Cell) -> None:
        if not cell.ended and cell.lines == greetings(1):
            gate.touch()

    cell = kernel.run(f"await pm.call(greet, 1)\nwait_for({str(gate)!r})", watch)
    assert cell.lines == greetings(1)


def test_a_long_cell_shows_each_line_while_it_runs(kernel: Kernel, tmp_path: Path) -> None:
    gates = [tmp_path / str(number) for number in range(3)]

    def watch(cell: Cell) -> None:
        for number, gate in enumerate(gates):
            if not cell.ended and f"step {number}" in cell.stdout:
                gate.touch()

    cell = kernel.run(
        f"""
def steps(gates):
    for number, gate in enumerate(gates):
        print("step", number)
        wait_for(gate)
await pm.slice(gpus=2).call(steps, {[str(gate) for gate in gates]})
""",
        watch,
    )
    assert cell.lines == ["[2] step 0", "[2] step 1", "[2] step 2"]


def test_pending_groups_are_shown_under_a_cell_when_it_ends(kernel: Kernel) -> None:
    kernel.run("await pm.logging_option(aggregate_window_sec=50)")
    try:
        cell = kernel.run("await pm.call(greet, 2)")
        assert cell.lines == [f"[4 similar log lines] [ranks 0-3] {verb} 2" for verb in ("logged", "printed")]
        assert cell.seconds < 10
    finally:
        kernel.run("await pm.logging_option(aggregate_window_sec=None)")


def test_output_during_a_later_cell_is_shown_under_that_cell(kernel: Kernel, tmp_path: Path) -> None:
    late, shown = tmp_path / "late", tmp_path / "shown"

    def watch(cell: Cell) -> None:
        if kernel.where("printed 3"):
            shown.touch()

    asked = kernel.run(f"await pm.slice(gpus=1).call(greet_later, {str(late)!r}, 3)")
    between = kernel.run("1")
    running = kernel.run(f"open({str(late)!r}, 'w').close()\nwait_for({str(shown)!r})", watch)
    assert kernel.where("printed 3") == [running]
    assert asked.lines == between.lines == []
    assert running.lines == ["[1] printed 3"]


def test_output_between_cells_is_shown_under_the_last_cell(kernel: Kernel, tmp_path: Path) -> None:
    late = tmp_path / "late"
    kernel.run(f"await pm.slice(gpus=1).call(greet_later, {str(late)!r}, 4)")
    last = kernel.run("1")
    # Requests that front ends send by themselves, for variables and completions, are not cells.
    kernel.client.execute("silent = 1", silent=True, store_history=False)
    kernel.client.complete("pri", reply=True, timeout=DEADLINE)
    late.touch()
    kernel.until(lambda: kernel.where("printed 4"), "the line")
    assert kernel.where("printed 4") == [last]


def test_all_output_can_be_shown_under_the_cell_that_started_the_mesh(kernel: Kernel, tmp_path: Path) -> None:
    shown = tmp_path / "shown"

    def watch(cell: Cell) -> None:
        if len(kernel.cells[0].lines) == len(greetings(5)):
            shown.touch()

    assert kernel.cells[0].source == SET_UP
    assert kernel.cells[0].lines == []
    kernel.run("meshlog_handler.notebook.cells.show_under('starting')")
    cell = kernel.run(f"await pm.call(greet, 5)\nwait_for({str(shown)!r})", watch)
    kernel.run("meshlog_handler.notebook.cells.show_under('running')")
    assert kernel.cells[0].lines == greetings(5)
    assert cell.lines == []
    assert kernel.run("await pm.call(greet, 6)").lines == greetings(6)


def test_a_cell_names_a_silent_rank_at_its_end_and_does_not_fail(kernel: Kernel) -> None:
    pid = pids(kernel)[2]
    with stopped(pid):
        first = kernel.run("asked = pm.call(greet, 7)")
        (told,) = [line for line in first.lines if line.startswith("meshlog: ")]
        assert told.startswith("meshlog: rank 2 of 4 silent for 3.")
        assert 3 <= first.seconds < 6
        assert sorted(first.lines) == sorted([told, *(line for line in greetings(7) if "[2]" not in line)])
        # The rank is known to be silent, so the next cells wait a shorter time for it.
        second = kernel.run("1")
        assert second.stderr.startswith("meshlog: rank 2 of 4 silent for 0.")
        assert second.seconds < 3
    third = kernel.run("asked.get(); None")
    assert "silent" not in third.stderr
    assert sorted(set(second.lines + third.lines) & set(greetings(7))) == ["[2] logged 7", "[2] printed 7"]


def test_an_interrupt_ends_a_flush(kernel: Kernel) -> None:
    pid = pids(kernel)[3]
    with stopped(pid):
        cell = kernel.start("print('flushing')\npm.flush(timeout=50).get()")
        kernel.until(lambda: cell.stdout, "the flush to begin")
        kernel.manager.interrupt_kernel()
        kernel.finish(cell)
        assert cell.error.startswith("KeyboardInterrupt")
        assert "silent" in cell.stderr  # shown at the end of the cell
        awaited = kernel.start("print('flushing')\nawait pm.flush(timeout=50)")
        kernel.until(lambda: awaited.stdout, "the flush to begin")
        kernel.manager.interrupt_kernel()
        kernel.finish(awaited)
        assert awaited.error.partition(":")[0] in ("KeyboardInterrupt", "CancelledError")
        assert max(cell.seconds, awaited.seconds) < 15
    assert kernel.run("await pm.call(greet, 8)").lines == greetings(8)


def test_an_interrupt_ends_the_flush_at_the_end_of_a_cell(kernel: Kernel) -> None:
    pid = pids(kernel)[3]
    kernel.run("1")
    with stopped(pid):
        # The interrupt comes while the main thread of the kernel waits for the flush of the client thread.
        cell = kernel.run(
            """
flush_soon = pm.logging.client.flush_soon
def flush_and_interrupt(timeout):
    future = flush_soon(timeout)
    del pm.logging.client.flush_soon
    def interrupt():
        until(lambda: future._locks)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    return future
pm.logging.client.flush_soon = flush_and_interrupt
"""
        )
        assert cell.lines == ["meshlog: interrupted: the last output is shown under a later cell"]
        assert cell.seconds < 3
    assert kernel.run("await pm.call(greet, 9)").lines == greetings(9)


OWN_OUTPUT = """
import ctypes
os.write(1, b"written\\n")
os.write(2, "gr\\u00fc\\u00df\\n".encode())
subprocess.run(["echo", "by a child"], check=True)
ctypes.CDLL(None).printf(b"by printf\\n")
print("printed\\n", end="")  # one write: another thread writes, too
"""


def test_output_of_c_code_and_children_of_the_kernel_is_shown_once(kernel: Kernel) -> None:
    """If the kernel captures this output itself, it is not captured a second time."""
    cell = kernel.run(OWN_OUTPUT)
    kernel.until(lambda: len(cell.lines) >= 5, "the last line")
    assert cell.lines == ["by a child", "by printf", "gr\u00fc\u00df", "printed", "written"]
    assert kernel.run("print(meshlog_handler.notebook.cells._session._fd_tee)").lines == ["None"]


def test_descriptors_that_the_kernel_does_not_capture_are_captured_until_the_last_mesh_stops(unwatched: Kernel) -> None:
    look = "print([(os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in (1, 2)])"
    before = unwatched.run("import os\n" + look).stdout
    cell = unwatched.run(OWN_OUTPUT.replace("import ctypes", "import ctypes, subprocess"))
    assert cell.lines == ["printed"]
    unwatched.run(SET_UP)
    cell = unwatched.run(OWN_OUTPUT)
    # All lines are shown before the cell ends, so this does not wait for them.
    assert cell.lines == ["by a child", "by printf", "gr\u00fc\u00df", "printed", "written"]
    other = "other = meshlog_handler.this_host().spawn_procs({'gpus': 1}); other.initialized.get()\n"
    captured = unwatched.run(other + look).stdout
    assert captured != before
    unwatched.run("other.stop().get()")
    assert unwatched.run(OWN_OUTPUT).lines == cell.lines
    unwatched.run("await pm.stop()")
    after = unwatched.run(look).stdout
    assert after == before
    assert unwatched.run(OWN_OUTPUT).lines == ["printed"]


FORK = """
pid = os.fork()
if pid == 0:
    try:
        attached = meshlog_handler.notebook.cells.attach_if_notebook(pm.logging)
        os.write(1, b"a child of %r, %r\\n" % (meshlog_handler.notebook.cells._session, attached))
    finally:
        os._exit(0)
_ = os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("watches", ["kernel", "unwatched"])
def test_a_forked_child_has_no_notebook_session_and_its_output_is_shown(watches: str, request: pytest.FixtureRequest) -> None:
    kernel: Kernel = request.getfixturevalue(watches)
    if watches == "unwatched":
        kernel.run(SET_UP)
    cell = kernel.run(FORK)
    kernel.until(lambda: cell.lines, "the line")
    assert cell.lines == ["a child of None, False"]
    assert kernel.run("await pm.call(greet, 1)").lines == greetings(1)


POOL = """
import logging, multiprocessing

def work(number):
    logging.warning("working on %d", number)

handler = logging.StreamHandler()
logging.root.addHandler(handler)
with meshlog_handler.LogClient() as client:
    with multiprocessing.get_context("fork").Pool(1, meshlog_handler.install, (client.address,)) as pool:
        pool.map(work, range(2))
        client.flush()
logging.root.removeHandler(handler)
"""


def test_forked_workers_that_inherit_a_handler_of_the_kernel_show_each_record_once(kernel: Kernel, unwatched: Kernel) -> None:
    for each in (kernel, unwatched):
        each.run("import meshlog_handler")
        cell = each.run(POOL)
        assert not cell.error
        assert cell.lines == ["[0] working on 0", "[0] working on 1"]


@pytest.mark.parametrize("end", ["restart", "SIGKILL"])
def test_a_kernel_that_ends_leaves_no_processes(end: str) -> None:
    with Kernel() as kernel:
        kernel.run(SET_UP)
        kernel.run("await pm.call(greet, 1)")
        processes = family(kernel.pid)
        assert set(pids(kernel).values()) < processes
        kernel.client.stop_channels()
        if end == "SIGKILL":
            os.kill(kernel.pid, signal.SIGKILL)
        else:
            kernel.manager.restart_kernel(env=kernel.env)
        until(lambda: all(map(gone, processes)), 20, lambda: f"the end of {[pid for pid in processes if not gone(pid)]}")
    with LogClient():
        pass  # it removes the run directories of killed processes


def test_a_notebook_shows_each_line_once_even_if_its_set_up_runs_three_times(tmp_path: Path) -> None:
    """The whole notebook runs with nbclient, which also runs notebooks for documentation."""
    import nbformat
    from nbclient import NotebookClient

    make: Any = nbformat.v4

    count = "\nprint([len(get_ipython().events.callbacks[each]) for each in ('pre_run_cell', 'post_run_cell')])"
    sources = [count, SET_UP, SET_UP, SET_UP, "await pm.logging_option(aggregate_window_sec=None)"]
    sources += ["await pm.call(greet, 1)", "pm.call(greet, 2).get()"]
    # No name refers to the first two meshes any more.
    sources += [
        "import gc; gc.collect(); until(lambda: len(meshlog_handler.notebook.cells._session.clients()) == 1, 50)" + count
    ]
    sources += ["await pm.stop()" + count]
    notebook = make.new_notebook(cells=[make.new_code_cell(source) for source in sources])
    client: Any = NotebookClient(notebook, timeout=DEADLINE, kernel_name="python3")
    client.execute(env=kernel_env(str(tmp_path)))
    texts = ["".join(out.text for out in cell.outputs if out.output_type == "stream") for cell in notebook.cells]
    shown = [sorted(text.splitlines()) for text in texts]
    (at_first,) = shown[0]
    assert shown[1:5] == [[], [], [], []]
    assert shown[5:7] == [greetings(1), greetings(2)]
    counts: list[int] = eval(at_first)
    assert shown[7] == [str([count + 1 for count in counts])]
    assert shown[8] == [at_first]


def test_in_a_terminal_a_cell_ends_after_all_lines_are_shown_and_nothing_is_captured(tmp_path: Path) -> None:
    cells = [
        "import os, meshlog_handler",
        "before = os.fstat(1).st_ino, os.fstat(2).st_ino",
        "pm = meshlog_handler.this_host().spawn_procs({'gpus': 2}); pm.logging_option(aggregate_window_sec=50).get()",
        "_ = pm.call(print, 'greeting').get()",
        "print('next cell')",
        "print('same' if before == (os.fstat(1).st_ino, os.fstat(2).st_ino) else before)",
        "pm.stop().get()",
    ]
    words = ["IPython", "--simple-prompt", "--no-banner", "--no-confirm-exit", "--quick", "--colors=NoColor"]
    ran = subprocess.run(
        [sys.executable, "-m", *words],
        input="\n".join(cells) + "\n",
        cwd=ROOT,
        env=kernel_env(str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    shown = [line for line in ran.stdout.splitlines() if "greeting" in line or "next cell" in line or "same" in line]
    assert [line.rpartition(": ")[2] for line in shown] == ["[2 similar log lines] [ranks 0-1] greeting", "next cell", "same"]
    assert "Traceback" not in ran.stdout + ran.stderr


def test_without_ipython_attaching_does_nothing_and_does_not_import_ipython() -> None:
    code = """
import sys
from meshlog_handler import LogClient, notebook
from meshlog_handler.notebook import cells
with LogClient() as client:
    print(notebook.attach_if_notebook(client), notebook.current_cell(), client.console.before_write)
print(any(name in sys.modules for name in ("IPython", "ipykernel", "zmq", "tornado")), cells._session)
"""
    assert run_python("-c", code).stdout == "False None None\nFalse None\n"


def test_the_cells_of_the_documentation_show_the_documented_output() -> None:
    page = Page("docs/notebooks.md")
    with Kernel() as kernel:
        for source in page.blocks("python"):
            kernel.run(source)
        shown = [cell.lines for cell in kernel.cells]
    promised = [sorted(page.promised(cell.source)) for cell in kernel.cells]
    assert promised[0] == promised[2] == []
    # The third cell shows its output under the first cell.
    promised[0] = [line.replace("step 1", "step 2") for line in promised[1]]
    assert "starting" in kernel.cells[2].source
    assert shown == promised
