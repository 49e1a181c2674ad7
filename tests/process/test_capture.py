"""Capture of stdout and stderr at the file descriptor. Each script runs in its own process, with streams set by the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
import ctypes, io, json, os, select, signal, subprocess, sys, threading
from meshlog_handler.system.diagnostics import diagnose
from meshlog_handler.system.fd_capture import FdCapture, changes, original_fd
from meshlog_handler.system.descriptors import identity, pending, read_pipe

def held(fd):
    "All that a pipe holds now."
    data = b""
    while piece := read_pipe(fd, 65536):
        data += piece
    return data.decode()

def wait_for(fd, text):
    "Read from a pipe until it has brought this."
    data = ""
    while text not in data:
        assert select.select([fd], [], [], 30)[0], f"only {data!r} came"
        data += held(fd)
    return data

def fds():
    return sorted((int(name), os.readlink(f"/proc/self/fd/{name}").partition(":")[0]) for name in os.listdir("/proc/self/fd")
                  if os.path.exists(f"/proc/self/fd/{name}"))

def join_threads():
    "What is copied and closed in the background has been, afterwards."
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(30)

def reap(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, code

result = {}
capture = FdCapture()
"""


def run(script: str, tmp_path: Path, *, stdout: int = subprocess.PIPE, options: Sequence[str] = ()) -> tuple[Any, str, str]:
    """Run a script; return its `result`, and what it wrote to its original stdout and stderr."""
    wrapped = PRELUDE + textwrap.dedent(script) + "\nwith open(sys.argv[1], 'w') as file:\n    json.dump(result, file)\n"
    with_result = tmp_path / "result.json"
    # Leave out the developer's own settings, such as for buffering.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(
        [sys.executable, *options, "-c", wrapped, str(with_result)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=env,
        timeout=60,
        check=False,
    )
    out, err = ((text or b"").decode() for text in (ended.stdout, ended.stderr))
    assert ended.returncode == 0, f"it ended with {ended.returncode}:\n{out}\n{err}"
    return json.loads(with_result.read_text()), out, err


def test_output_from_every_kind_of_writer_is_captured(tmp_path: Path) -> None:
    result, out, err = run(
        """
        libc = ctypes.CDLL(None)
        pipes = capture.start()
        print("from print")
        sys.stderr.write("from sys.stderr\\n")
        os.write(1, b"from os.write\\n")
        libc.printf(b"from C\\n")
        subprocess.run(["sh", "-c", "echo from a child; echo from a child >&2"], check=True)
        result["out"], result["err"] = held(pipes[1]), held(pipes[2])
        capture.stop()
        print("printed after")
        os.write(2, b"written after\\n")
        libc.printf(b"C after\\n")
        """,
        tmp_path,
    )
    assert result["out"].splitlines() == ["from print", "from os.write", "from C", "from a child"]
    assert result["err"].splitlines() == ["from sys.stderr", "from a child"]
    assert sorted(out.splitlines()) == ["C after", "printed after"]
    assert err == "written after\n"


def test_output_buffered_before_the_capture_goes_to_the_original_stdout(tmp_path: Path) -> None:
    result, out, _ = run(
        """
        ctypes.CDLL(None).printf(b"C before\\n")
        print("before")
        pipes = capture.start()
        print("during", end="")
        result["before"] = held(pipes[1])
        capture.stop(drain=False)
        print("after")
        """,
        tmp_path,
    )
    assert result["before"] == ""
    assert sorted(out.splitlines()) == ["C before", "after", "before"]


@pytest.mark.parametrize("options", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_stdout_stays_a_real_file(tmp_path: Path, options: list[str]) -> None:
    result, _, _ = run(
        """
        streams = sys.stdout, sys.stderr
        before = [(s.encoding, s.errors, s.line_buffering, s.name, s.mode) for s in streams]
        pipes = capture.start()
        result["same"] = streams == (sys.stdout, sys.stderr) == (sys.__stdout__, sys.__stderr__)
        result["filenos"] = [s.fileno() for s in streams]
        result["terminal"] = [s.isatty() for s in streams]
        result["line_buffering"] = [s.line_buffering for s in streams]
        result["writable"] = [s.writable() and isinstance(s, io.TextIOWrapper) for s in streams]
        sys.stdout.buffer.write(b"bytes\\n")
        sys.stdout.buffer.flush()
        sys.stdout.writelines(["one\\n", "two\\n"])
        result["out"] = held(pipes[1])
        capture.stop()
        result["restored"] = before == [(s.encoding, s.errors, s.line_buffering, s.name, s.mode) for s in streams]
        """,
        tmp_path,
        options=options,
    )
    assert result == {
        "same": True,
        "filenos": [1, 2],
        "terminal": [False, False],
        "line_buffering": [True, True],
        "writable": [True, True],
        "out": "bytes\none\ntwo\n",
        "restored": True,
    }


def test_a_stop_restores_descriptors_and_leaks_none(tmp_path: Path) -> None:
    result, _, _ = run(
        """
        capture.start()
        capture.stop()
        join_threads()
        before, places = fds(), (identity(1), identity(2))
        for drain in (True, False, True):
            pipes = capture.start()
            assert pipes == capture.start() and capture.active
            assert not any(map(os.get_inheritable, (*pipes.values(), *capture.original.values())))
            assert os.get_inheritable(1) and min(pipes.values()) > 2
            capture.stop(drain)
            capture.stop(drain)
            assert not capture.active
        join_threads()
        result["same"] = before == fds() and places == (identity(1), identity(2))
        """,
        tmp_path,
    )
    assert result["same"]


def test_output_that_the_client_did_not_read_goes_to_the_original_streams(tmp_path: Path) -> None:
    _, out, err = run(
        """
        capture.start()
        print("never read")
        print("nor this", end="", file=sys.stderr)
        capture.stop()
        print("after")
        """,
        tmp_path,
    )
    assert (out, err) == ("never read\nafter\n", "nor this")


def test_a_stop_without_draining_leaves_the_output_to_the_client(tmp_path: Path) -> None:
    result, out, _ = run(
        """
        theirs = os.dup(capture.start()[1])
        print("last words")
        capture.stop(drain=False)
        result["theirs"] = held(theirs)
        """,
        tmp_path,
    )
    assert (result["theirs"], out) == ("last words\n", "")


def test_a_stop_unblocks_a_writer_that_waits_for_a_dead_client(tmp_path: Path) -> None:
    result, out, _ = run(
        """
        pipe = capture.start()[1]
        size = 3_000_000
        writer = threading.Thread(target=lambda: print("x" * size))
        writer.start()
        while not pending(pipe):
            pass
        capture.stop()
        writer.join(30)
        result["freed"] = not writer.is_alive()
        join_threads()
        """,
        tmp_path,
    )
    assert result["freed"]
    assert out == "x" * 3_000_000 + "\n"


def test_a_subprocess_that_outlives_the_capture_is_neither_killed_nor_blocked(tmp_path: Path) -> None:
    result, out, _ = run(
        """
        pipe = capture.start()[1]
        child = subprocess.Popen(
            ["sh", "-c", "echo early; read line; echo $line; exec head -c 3000000 /dev/zero"], stdin=subprocess.PIPE
        )
        wait_for(pipe, "early")
        capture.stop()
        child.communicate(b"late\\n", timeout=30)
        result["code"] = child.returncode
        join_threads()
        """,
        tmp_path,
    )
    assert result["code"] == 0
    assert out == "late\n" + "\0" * 3_000_000


def test_a_stop_keeps_the_order_even_if_no_thread_can_be_started(tmp_path: Path) -> None:
    result, out, _ = run(
        """
        def refuse(thread):
            raise RuntimeError("can't start new thread at interpreter shutdown")

        capture.start()
        before = fds()
        threading.Thread.start = refuse
        print("one")
        capture.stop()
        print("two")
        result["closed"] = len(before) - len(fds())
        """,
        tmp_path,
    )
    assert result == {"closed": 4}
    assert out.split() == ["one", "two"]


def test_a_forked_child_still_writes_to_the_pipe_and_does_not_own_the_capture(tmp_path: Path) -> None:
    result, out, _ = run(
        """
        pipe = capture.start()[1]
        pid = os.fork()
        if pid == 0:
            capture.after_fork_in_child()
            capture.stop()
            assert not capture.active
            print("from the child", flush=True)
            os._exit(0)
        reap(pid)
        print("from the parent")
        result["out"] = held(pipe)
        capture.stop()
        """,
        tmp_path,
    )
    assert (result["out"], out) == ("from the child\nfrom the parent\n", "")


def test_a_forked_child_without_the_fork_hook_does_not_own_the_capture(tmp_path: Path) -> None:
    result, out, _ = run(
        """
        pipe = capture.start()[1]
        pid = os.fork()
        if pid == 0:
            capture.stop()
            os.write(1, b"from the child\\n")
            os._exit(0)
        reap(pid)
        result["out"] = held(pipe)
        """,
        tmp_path,
    )
    assert (result["out"], out) == ("from the child\n", "")


def test_a_forked_child_can_have_its_own_capture(tmp_path: Path) -> None:
    result, out, err = run(
        """
        pipe = capture.start()[1]
        pid = os.fork()
        if pid == 0:
            capture.after_fork_in_child()
            own = FdCapture()
            inner = own.start()[1]
            print("captured twice")
            assert held(inner) == "captured twice\\n"
            diagnose("past both")
            own.stop()
            print("captured once", flush=True)
            os._exit(0)
        reap(pid)
        result["out"] = held(pipe)
        """,
        tmp_path,
    )
    assert (result["out"], out, err) == ("captured once\n", "", "meshlog: past both\n")


@pytest.mark.parametrize("first", ["inner", "outer"])
def test_nested_captures_can_stop_in_any_order(tmp_path: Path, first: str) -> None:
    result, out, _ = run(
        f"""
        before = identity(1)
        outer, inner = capture, FdCapture()
        outer.start()
        pipe = inner.start()[1]
        print("inside")
        assert held(pipe) == "inside\\n"
        ends = [outer, inner] if {first == "outer"} else [inner, outer]
        ends[0].stop()
        print("between")
        ends[1].stop()
        result["same"] = before == identity(1)
        print("after")
        """,
        tmp_path,
    )
    assert result["same"]
    assert out == "between\nafter\n"


def test_a_redirection_made_during_the_capture_stays(tmp_path: Path) -> None:
    _, out, _ = run(
        f"""
        capture.start()
        file = os.open({str(tmp_path / "theirs")!r}, os.O_CREAT | os.O_WRONLY)
        os.dup2(file, 1)
        capture.stop()
        os.write(1, b"to the file")
        """,
        tmp_path,
    )
    assert (tmp_path / "theirs").read_text() == "to the file"
    assert out == ""


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_descriptors_are_captured_and_closed_again(tmp_path: Path, closed: tuple[int, ...]) -> None:
    result, _, _ = run(
        f"""
        for fd in {closed}:
            os.close(fd)
        pipes = capture.start()
        assert min(pipes.values()) > 2
        os.write(1, b"out")
        os.write(2, b"err")
        diagnose("does not raise")
        result["held"] = [held(pipes[1]), held(pipes[2])]
        capture.stop()
        result["open"] = [fd for fd in (1, 2) if identity(fd) is not None]
        """,
        tmp_path,
    )
    assert result == {"held": ["out", "err"], "open": [fd for fd in (1, 2) if fd not in closed]}


def test_a_stop_does_not_touch_reused_descriptor_numbers(tmp_path: Path) -> None:
    result, _, _ = run(
        """
        pipes = capture.start()
        os.closerange(3, 100)
        mine = [os.open("/dev/null", os.O_RDWR) for _ in range(20)]
        diagnose("has no place to go")
        capture.stop()
        result["mine"] = all(identity(fd) == identity(mine[0]) for fd in mine)
        result["open"] = [fd for fd in (1, 2) if identity(fd) is not None]
        """,
        tmp_path,
    )
    assert result == {"mine": True, "open": []}


def test_a_capture_without_free_descriptors_fails_and_changes_nothing(tmp_path: Path) -> None:
    result, out, _ = run(
        """
        import resource
        before = fds()
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[-1][0] + 4, 1000))
        try:
            capture.start()
        except OSError as failure:
            result["failure"] = failure.strerror
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
        result["same"] = before == fds()
        print("goes on")
        """,
        tmp_path,
    )
    assert result == {"failure": "Too many open files", "same": True}
    assert out == "goes on\n"


def test_diagnostics_bypass_the_capture(tmp_path: Path) -> None:
    result, _, err = run(
        """
        diagnose("before")
        pipe = capture.start()[2]
        diagnose("two\\nlines \\udc80\\n")
        result["captured"] = held(pipe)
        capture.stop()
        os.close(2)
        diagnose("nowhere")
        """,
        tmp_path,
    )
    assert result["captured"] == ""
    assert err == "meshlog: before\nmeshlog: two\n    lines \\udc80\n"


def test_original_fd_and_changes_follow_the_capture(tmp_path: Path) -> None:
    result, _, _ = run(
        """
        numbers = [changes()]
        place = identity(1)
        assert original_fd(1) == 1
        capture.start()
        numbers.append(changes())
        assert original_fd(1) == capture.original[1] != 1
        assert identity(original_fd(1)) == place
        assert original_fd(0) == 0
        capture.stop()
        numbers.append(changes())
        result["numbers"] = len(set(numbers))
        """,
        tmp_path,
    )
    assert result["numbers"] == 3


def test_a_console_in_a_captured_process_does_not_capture_its_own_output(tmp_path: Path) -> None:
    result, out, err = run(
        """
        import logging
        from meshlog_handler.output.console import ConsoleHandler
        console = ConsoleHandler()
        shown = logging.makeLogRecord({"msg": "shown é", "rank": 3, "stream": "stdout", "levelno": 20})
        pipes = capture.start()
        print("captured")
        console.handle(shown)
        console.handle(logging.makeLogRecord({"msg": "logged", "rank": 3, "levelno": 20}))
        console.flush()
        result["captured"] = [held(pipes[1]), held(pipes[2])]
        capture.stop()
        console.handle(shown)
        console.flush()
        """,
        tmp_path,
    )
    assert result["captured"] == ["captured\n", ""]
    assert (out, err) == ("[3] shown é\n" * 2, "[3] logged\n")


def test_lines_are_in_the_pipe_at_once_even_if_the_process_is_killed(tmp_path: Path) -> None:
    result, _, _ = run(
        """
        pipe = capture.start()[1]
        pid = os.fork()
        if pid == 0:
            print("python's last words")
            ctypes.CDLL(None).printf(b"C's last words\\n")
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        result["out"] = held(pipe)
        """,
        tmp_path,
    )
    assert result["out"].splitlines() == ["python's last words", "C's last words"]


def test_a_capture_works_on_a_terminal(tmp_path: Path) -> None:
    screen, line = os.openpty()
    try:
        result, _, _ = run(
            """
            assert sys.stdout.isatty()
            pipe = capture.start()[1]
            assert not sys.stdout.isatty()
            print("captured")
            result["out"] = held(pipe)
            print("not read")
            capture.stop()
            result["terminal"] = sys.stdout.isatty()
            """,
            tmp_path,
            stdout=line,
        )
        assert result == {"out": "captured\n", "terminal": True}
        assert os.read(screen, 1000) == b"not read\r\n"
    finally:
        os.close(screen)
        os.close(line)
