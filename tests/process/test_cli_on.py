"""``meshlog on``: commands on other hosts. The hosts here are this machine, and a script stands for ssh."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from meshlog_handler import LogClient
from meshlog_handler.cli.launch.host_frames import DATA, START, read_frame, write_frame
from meshlog_handler.errors import ProtocolError
from meshlog_handler.protocol.messages import Prepare, level_config
from meshlog_handler.testing import RecordCollector
from meshlog_handler.transport.run_directory import lives
from tests.waiting import until

from .command_line import meshlog, running
from .procs import DEADLINE

_RANK = """
import logging, os, sys, meshlog_handler
meshlog_handler.install()
level = logging.getLogger("far.more").getEffectiveLevel()
logging.getLogger("far").warning("logged on %s, level %d", os.environ["HOST_NAME"], level)
print("printed on", os.environ["HOST_NAME"], flush=True)
{then}
"""


@pytest.fixture
def shell(tmp_path: Path) -> str:
    """A command that starts a program on a "host" whose name it puts into the environment."""
    path = tmp_path / "rsh"
    path.write_text('#!/bin/sh\nHOST_NAME=$1; export HOST_NAME; unset MESHLOG_ADDRESS; shift; exec "$@"\n')
    path.chmod(0o700)
    return str(path)


def ranks(then: str) -> tuple[str, str, str]:
    """Return the command of a program that logs, prints and does something more."""
    return (sys.executable, "-c", _RANK.format(then=then))


def test_all_hosts_are_shown_by_one_client(tmp_path: Path, shell: str) -> None:
    collector = RecordCollector()
    with LogClient(collector) as client:
        client.set_default("", Prepare(0, level_config(5, "far.more")))
        meshlog(
            tmp_path, "on", "--rsh", shell, "east", "west", "--", *ranks("print('more', file=sys.stderr)"), env=client.environ()
        )
        assert not client.flush(DEADLINE).missing
    assert collector.messages.count("printed on east") == collector.messages.count("printed on west") == 1
    assert collector.messages.count("more") == 2
    logged = [record for record in collector.records if record.name == "far"]
    assert sorted(record.getMessage() for record in logged) == ["logged on east, level 5", "logged on west, level 5"]
    assert {vars(record)["rank"] for record in logged} == {0, 1}


def test_when_one_host_fails_the_others_are_ended(tmp_path: Path, shell: str) -> None:
    then = "import time\nif os.environ['HOST_NAME'] == 'east': sys.exit(3)\ntime.sleep(600)"
    words = ("on", "--grace", "0.2", "--rsh", shell, "east", "west", "--", *ranks(then))
    ran = meshlog(tmp_path, "serve", "--", sys.executable, "-m", "meshlog_handler", *words, code=3)
    assert "east: exit code 3" in ran.err
    assert "ended by SIGTERM" in ran.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_each_host(tmp_path: Path, shell: str, number: signal.Signals) -> None:
    then = f"import signal\nsignal.signal({number:d}, lambda *_: sys.exit('told'))\nprint('waits', flush=True)\nsignal.pause()"
    with LogClient(RecordCollector()) as client:
        with running(tmp_path, "on", "--rsh", shell, "east", "west", "--", *ranks(then), env=client.environ()) as ran:
            collector = client.handlers[0]
            assert isinstance(collector, RecordCollector)
            collector.wait_for(lambda _: collector.messages.count("waits") == 2, DEADLINE)
            ran.process.send_signal(number)
            assert ran.wait() == 1
        client.flush(DEADLINE)
    assert collector.messages.count("told") == 2


def test_the_command_ends_if_the_connection_is_gone(tmp_path: Path, shell: str) -> None:
    collector = RecordCollector()
    then = "import time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(600)"
    words = ("on", "--rsh", shell, "east", "--", *ranks(then))
    with LogClient(collector) as client, running(tmp_path, *words, env=client.environ()) as ran:
        collector.wait_for(lambda _: any("pid" in each for each in collector.messages), DEADLINE)
        pid = int(next(each for each in collector.messages if "pid" in each).split()[1])
        ran.process.kill()
        until(lambda: not lives(pid), DEADLINE, "the command to end")


def test_a_host_that_does_not_answer_is_left_after_three_signals(tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\necho reached >&2\nexec sleep 600\n")
    silent.chmod(0o700)
    words = ("on", "--rsh", str(silent), "east", "--", "true")
    with LogClient(RecordCollector()) as client, running(tmp_path, *words, env=client.environ()) as ran:
        ran.until("reached")

        def ended_by_signals() -> bool:
            ran.process.send_signal(signal.SIGINT)
            return ran.process.poll() is not None

        until(ended_by_signals, DEADLINE)
        assert ran.wait() == 128 + signal.SIGKILL
        assert "no longer waited for: east" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["east"], 2, "there is no command. Write it last: meshlog on node1 -- torchrun train.py"),
        (["east", "--", "true"], 2, "MESHLOG_ADDRESS is not set. Use a command that provides one: meshlog serve -- meshlog on"),
    ],
)
def test_a_usage_error_says_what_to_write(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    assert said in meshlog(tmp_path, "on", *words, code=code).err


def test_a_host_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with LogClient(RecordCollector()) as client:
        ran = meshlog(tmp_path, "on", "--rsh", "sh -c 'exit 255'", "east", "--", "true", code=255, env=client.environ())
        assert "east: exit code 255" in ran.err
        ran = meshlog(tmp_path, "on", "--rsh", "no-such-program", "east", "--", "true", code=1, env=client.environ())
        assert "no-such-program: No such file or directory" in ran.err


@pytest.mark.parametrize("optimized", ["", "1"])
def test_a_relay_that_cannot_start_ends_with_an_error(tmp_path: Path, optimized: str) -> None:
    shell = tmp_path / "rsh"
    shell.write_text(f'#!/bin/sh\nexport MESHLOG_RUN_DIR=/proc/none PYTHONOPTIMIZE={optimized}\nshift\nexec "$@"\n')
    shell.chmod(0o700)
    with LogClient(RecordCollector()) as client:
        ran = meshlog(tmp_path, "on", "--rsh", str(shell), "east", "--", "true", code=1, env=client.environ())
    assert "MESHLOG_RUN_DIR='/proc/none' cannot be used: there is no such directory. Valid: " in ran.err
    assert "east: exit code 1" in ran.err


def test_a_relay_without_a_client_says_how_to_start_it(tmp_path: Path) -> None:
    assert "Start this command by meshlog on HOST -- COMMAND" in meshlog(tmp_path, "relay", code=1).err


def test_frames_are_read_as_they_were_written() -> None:
    read, write = os.pipe()
    write_frame(write, START, b"{}")
    write_frame(write, DATA, b"")
    assert [read_frame(read), read_frame(read)] == [(START, b"{}"), (DATA, b"")]
    os.write(write, DATA + b"\xff\xff\xff\xff")
    with pytest.raises(ProtocolError, match="Expected at most"):
        read_frame(read)
    os.close(write)
    with pytest.raises(EOFError):
        read_frame(read)
    os.close(read)
