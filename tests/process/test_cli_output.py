"""The command line whose stdout is not read, read slowly, closed or full."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshlog_handler.cli.parser import COMMANDS
from meshlog_handler.system.descriptors import takes_more
from meshlog_handler.transport.runs import runs
from tests.process.command_line import MESHLOG, PYTHON, Meshlog, running
from tests.process.procs import DEADLINE, ROOT, importing, run_command
from tests.waiting import until

TASK = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}


@contextmanager
def stopped_reader(*words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start ``meshlog``; yield it and the read end of its stdout when the pipe is full."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(
        [*MESHLOG, *words], stdout=write_end, stderr=subprocess.PIPE, env={**importing(), **TASK}, cwd=ROOT
    )
    try:
        until(lambda: not takes_more(write_end, 0), DEADLINE, "the pipe to be full")
        os.close(write_end)
        yield process, read_end
    finally:
        os.close(read_end)
        process.kill()
        process.communicate()


# A reader that does not read


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["run", "-n", "2"], signal.SIGINT),
        (["run", "-n", "2"], signal.SIGTERM),
        (["exec"], signal.SIGTERM),
        (["serve"], signal.SIGTERM),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value.name,
)
def test_one_signal_ends_a_run_whose_reader_has_stopped(words: list[str], number: signal.Signals) -> None:
    with stopped_reader(*words, "--grace", "0.5", "--", "yes") as (process, _):
        process.send_signal(number)
        assert process.wait(DEADLINE) == 128 + number
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert "meshlog: the output is not read, or too slowly: the rest of it is lost\n" in said
    assert re.search(r"^meshlog: .* [\d,]+ records were not shown: ", said, re.MULTILINE)


def test_one_signal_ends_a_run_on_a_terminal_that_has_stopped() -> None:
    """Its stderr is not read, either. The run directory is removed all the same."""
    reader, terminal = os.openpty()
    command = [*MESHLOG, "run", "--grace", "0.5", "--", "yes"]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=importing(), cwd=ROOT)
    try:
        until(lambda: not takes_more(terminal, 0), DEADLINE, "the terminal to be full")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(terminal)


def test_a_slow_reader_is_waited_for_after_a_signal() -> None:
    with stopped_reader("run", "-n", "2", "--grace", "3", "--", "yes") as (process, reader):
        process.send_signal(signal.SIGINT)
        began, data = time.monotonic(), b""
        while piece := os.read(reader, 4096):
            data = (data + piece)[-100:]
            if time.monotonic() - began < 7:
                time.sleep(0.05)  # the rate at which it reads
        assert process.wait(DEADLINE) == 128 + signal.SIGINT
        assert time.monotonic() - began > 7
        assert process.stderr is not None
        assert b"lost" not in process.stderr.read()
    assert data.endswith(b"] y\n")


@pytest.mark.parametrize("words", [["follow"], ["follow", "--json"], ["top", "--json", "--interval", "0.01"]], ids=" ".join)
def test_ctrl_c_ends_an_observer_whose_reader_has_stopped(words: list[str], tmp_path: Path, place: None) -> None:
    with running(tmp_path, "run", "-q", "--", "yes"):
        until(runs, DEADLINE, "the run to be found")
        with stopped_reader(*words) as (process, _):
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE) == 130
            assert process.stderr is not None
            assert b"KeyboardInterrupt" not in process.stderr.read()


# A closed or full stdout


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clients of this test be alone in a directory."""
    monkeypatch.setenv("MESHLOG_RUN_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Meshlog, Path]]:
    """Yield a run with a rank that has logged, and the directory of its clients and its logs."""
    place = tmp_path_factory.mktemp("run")
    code = "import logging, meshlog_handler, signal; meshlog_handler.install(); logging.warning('ready'); signal.pause()"
    words = ("run", "--log-dir", str(place / "logs"), "--", *PYTHON, code)
    with running(place, *words, env={"MESHLOG_RUN_DIR": str(place)}) as ran:
        ran.until("ready")
        yield ran, place


PRINTS = {
    "tail": "tail {logs}",
    "ls": "ls",
    "top": "top --once",
    "stacks": "stacks",
    "follow": "follow -n 1",
    "level": "level INFO",
    "flush": "flush",
    "web": "web",
    "completion": "completion bash",
}
"""A call of each command that prints by itself."""


@pytest.mark.parametrize(
    "command",
    [*PRINTS.values(), "tail {logs} --json", "ls --json", "top --json", "follow -n 1 --json", "run --help", "--version"],
)
def test_a_command_that_cannot_print_says_why_in_one_line(command: str, run: tuple[Meshlog, Path]) -> None:
    call = " ".join([*MESHLOG, command.format(logs=run[1] / "logs")])
    places = [">&-", ">/dev/full", ">/dev/full 2>/dev/full", ">&- 2>&-"]
    script = "\n".join(f"{call} {place}; echo $? >&2" for place in places)
    done = run_command("sh", "-c", script, env={**os.environ, "MESHLOG_RUN_DIR": str(run[1])})
    assert done.stderr.splitlines() == [
        "meshlog: error: stdout is closed",
        "1",
        "meshlog: error: stdout: No space left on device",
        *"111",
    ]


@pytest.mark.parametrize("command", ["--help", "run --help", "--version"])
def test_a_help_that_cannot_be_written_without_a_buffer_is_an_error(command: str) -> None:
    call = " ".join([*MESHLOG, command, ">/dev/full"])
    done = run_command("sh", "-c", call, env={**os.environ, "PYTHONUNBUFFERED": "1"}, code=1)
    assert done.stderr == "meshlog: error: stdout: No space left on device\n"


def test_each_command_that_prints_is_tried() -> None:
    assert {*PRINTS, "run", "exec", "serve", "on", "relay", "report"} == {*COMMANDS}


def test_a_run_whose_stdout_is_closed_says_so_and_has_the_exit_code_of_its_rank() -> None:
    done = run_command("sh", "-c", " ".join([*MESHLOG, "run -- sh -c 'echo out; exit 7' >&-"]), code=7)
    assert done.stderr.startswith("meshlog: stdout cannot be written: stdout is closed. Its output is lost.\n")
    assert "meshlog: 1 of 1 ranks failed:\n" in done.stderr


def test_a_run_whose_stdout_is_full_says_so_by_its_name() -> None:
    done = run_command("sh", "-c", " ".join([*MESHLOG, "run -- sh -c 'echo out; exit 7' >/dev/full"]), code=7)
    assert "meshlog: stdout cannot be written: [Errno 28] No space left on device. Its output is lost.\n" in done.stderr
