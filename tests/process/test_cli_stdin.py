"""``meshlog run --stdin``: one rank reads the launcher's standard input: a file, a pipe, a terminal with job control."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.command_line import MESHLOG, PYTHON, meshlog
from tests.process.procs import DEADLINE, ROOT, importing, run_command
from tests.waiting import until

READS = "import os, sys; print(repr(sys.stdin.read()), os.environ['RANK'])"


def piped(command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a shell in which ``$M`` is meshlog."""
    return run_command("sh", "-c", command, env={**os.environ, "M": " ".join(MESHLOG)})


@pytest.mark.parametrize(
    ("option", "reader"), [("--stdin 1", 1), ("--stdin=0", 0), ("--stdin none", None), ("", None)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("source", ["pipe", "file"])
def test_only_the_named_rank_reads_stdin(option: str, reader: int | None, source: str, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("a\nb")
    before, after = ("printf 'a\\nb' |", "") if source == "pipe" else ("", f"< {tmp_path / 'input'}")
    done = piped(f'{before} $M run -n 2 {option} -- {sys.executable} -c "{READS}" {after}')
    expected = [f"[{rank}] {'a' + chr(10) + 'b' if rank == reader else ''!r} {rank}" for rank in range(2)]
    assert sorted(done.stdout.splitlines()) == expected
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("option", ["", "--stdin 0"])
def test_a_run_without_a_standard_input_works(option: str) -> None:
    done = piped(f"$M run {option} -- sh -c 'cat 2> /dev/null; echo done' <&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0] done\n", "")


def test_a_file_is_passed_on_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("first\nsecond\n")
    code = "import sys; next(sys.stdin); sys.stdin.seek(0); print(next(sys.stdin), end='')"
    done = piped(f'$M run --stdin 0 -- {sys.executable} -c "{code}" < {tmp_path / "input"}')
    assert done.stdout == "[0] first\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "-n", "2", "--stdin", "2"], "--stdin names rank 2, but this run has only ranks 0-1"),
        (["run", "--stdin", "-1"], "argument --stdin: "),
        (["run", "--stdin", "all"], "'all' is not a rank. Expected 0, 1, ... or none"),
        (["exec", "--stdin", "0"], "unknown arguments: --stdin"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_rank_that_does_not_exist_is_an_argument_error(words: list[str], said: str, tmp_path: Path) -> None:
    ran = meshlog(tmp_path, *words, "--", "true", code=2)
    assert ran.err.startswith("meshlog: error: ")
    assert said in ran.err
    assert ran.err.count("\n") == 1


# What a rank without a standard input is told


@pytest.mark.parametrize("code", ["input('name? ')", "breakpoint()\npass"], ids=["input", "breakpoint"])
def test_the_summary_says_how_a_rank_gets_a_standard_input(code: str, tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "-n", "3", "--", *PYTHON, code, code=1)
    summary = ran.err[ran.err.index("meshlog: ") :]
    assert summary.splitlines()[-1] == (
        "    ranks 0-2 have no standard input, which input() and breakpoint() need. --stdin RANK gives meshlog's to one rank"
    )


def test_other_errors_and_the_end_of_an_input_do_not_get_this_hint(tmp_path: Path) -> None:
    ran = meshlog(tmp_path, "run", "--", *PYTHON, "import pickle; pickle.loads(b'')", code=1)
    assert "EOFError: Ran out of input" in ran.err
    assert "--stdin" not in ran.err
    ran = meshlog(tmp_path, "run", "--stdin", "0", "--", *PYTHON, "input()", code=1)
    assert "EOFError: EOF when reading a line" in ran.err
    assert "--stdin" not in ran.err


# A terminal

STOPPED = "until jobs -s | grep -q run; do sleep 0.01; done; echo has ''stopped\n"


class Shell:
    """An interactive bash on a terminal, with job control."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        self.shown = ""
        self._at = 0

    def type(self, text: str) -> None:
        """Type these keys."""
        os.write(self._terminal, text.encode())

    def read(self) -> None:
        """Read what is there."""
        while select.select([self._terminal], [], [], 0)[0]:
            self.shown += os.read(self._terminal, 65536).decode(errors="replace")

    def until(self, pattern: str) -> None:
        """Wait until the terminal shows this, after what the last call has waited for."""

        def shows() -> bool:
            self.read()
            return re.search(pattern, self.shown[self._at :]) is not None

        until(shows, DEADLINE, lambda: f"{pattern!r} in {self.shown[self._at :]!r}")
        found = re.search(pattern, self.shown[self._at :])
        assert found is not None
        self._at += found.end()


@pytest.fixture
def shell() -> Iterator[Shell]:
    if not shutil.which("bash"):
        pytest.skip("bash is missing")
    with _shell() as started:
        yield started


@contextmanager
def _shell(**more: str) -> Iterator[Shell]:
    leader, follower = os.openpty()
    takes_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    words = [*PYTHON, takes_terminal, "bash", "--norc", "--noprofile", "--noediting", "-i"]
    env = {**importing(), "PS1": "", "CI": "1", "M": " ".join(MESHLOG), "P": sys.executable, "HISTFILE": "", **more}
    with subprocess.Popen(
        words, stdin=follower, stdout=follower, stderr=follower, env=env, cwd=ROOT, start_new_session=True
    ) as process:
        os.close(follower)
        try:
            yield Shell(process, leader)
        finally:
            process.kill()
            os.close(leader)


def test_a_rank_reads_from_the_terminal_and_stops_and_continues(shell: Shell) -> None:
    code = 'import os; os.environ["RANK"] == "1" and print("got", input("na" "me? ")) is print("and", input())'
    shell.type(f"$M run -n 2 --stdin 1 -- $P -c '{code}'\n")
    shell.until(r"\[1\] name\? ")
    shell.type("me\n")
    shell.until(r"\[1\] got me")
    shell.type("\x1a")
    shell.until("Stopped")
    # In the background, the rank must not read what is typed for the shell.
    for _ in range(2):
        shell.type("bg\n" + STOPPED)
        shell.until("has stopped")
    shell.type("fg\n")
    shell.until("run -n 2")
    shell.type("too\n")
    shell.until(r"\[1\] and too")
    shell.type("echo code $?\n")
    shell.until("code 0")


def test_ctrl_c_and_ctrl_d_reach_the_rank(shell: Shell) -> None:
    shell.type("$M run -n 2 --stdin 1 -- cat; echo code $?\n")
    shell.type("hello\n")
    shell.until(r"\[1\] hello")
    shell.type("\x04")
    shell.until("code 0")
    # Not in input(): a signal that arrives just before a call that blocks is seen by Python only after that call.
    code = 'import time; print("be" "gins", flush=True); [time.sleep(0.01) for _ in iter(int, 1)]'
    shell.type(f"$M run --stdin 0 -- $P -c '{code}'; echo code $?\n")
    shell.until("begins")
    shell.type("\x03")
    shell.until("KeyboardInterrupt")
    shell.until("code 130")


def test_a_run_that_does_not_read_continues_in_the_background(shell: Shell) -> None:
    for words in ("run", "exec"):
        shell.type(f"RANK=0 $M {words} -- sh -c 'echo {words} \"\"continues' & wait $!; echo code $?\n")
        shell.until(rf"\[0\] {words} continues")
        shell.until("code 0")


def test_a_run_started_in_the_background_waits_for_the_foreground(shell: Shell) -> None:
    shell.type("$M run --stdin 0 -- cat &\n")
    shell.type(STOPPED)
    shell.until("has stopped")
    shell.type("fg\n")
    shell.until("run --stdin 0")
    shell.type("hello\n")
    shell.until(r"\[0\] hello")
    shell.type("\x04echo code $?\n")
    shell.until("code 0")


# A debugger

STOPS_AT_0 = """
import os, sys, time
if os.environ["RANK"] == "0":
    breakpoint()
    print("goes", "on")
else:
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    print("from", "rank 1")
"""


@pytest.mark.parametrize("command", ["run -n 2 --stdin 0", "serve --"], ids=["run", "serve"])
def test_lines_of_others_wait_while_a_debugger_waits_for_input(command: str, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(STOPS_AT_0)
    printed, go = tmp_path / "logs" / "rank-1.stdout", tmp_path / "go"
    words = f"$P {tmp_path / 'job.py'} {go}"
    if command.startswith("serve"):  # another process of the command, which has joined
        (tmp_path / "other.py").write_text(f"import meshlog_handler; meshlog_handler.install()\n{STOPS_AT_0}")
        words = f"sh -c 'RANK=1 $P {tmp_path / 'other.py'} {go} & RANK=0 $P {tmp_path / 'job.py'}; wait'"
    command = command.removesuffix(" --")
    with _shell(CI="", TERM="xterm", NO_COLOR="1") as shell:
        shell.type(f"$M {command} --log-dir {tmp_path / 'logs'} -- {words}; echo code $?\n")
        shell.until(r"\(Pdb\) ")
        go.touch()
        until(lambda: printed.exists() and "from rank 1" in printed.read_text(), DEADLINE)
        shell.read()
        assert "from rank 1" not in shell.shown
        shell.type("c\n")
        shell.until("from rank 1")
        shell.until("goes on")
        shell.until("code 0")
