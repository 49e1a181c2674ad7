"""`logging.config`: one configuration for all processes; configured twice; where there is no room, no client, no such name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from meshlog_handler import LogClient
from meshlog_handler.testing import collected

from .configured import COUNT
from .procs import DEADLINE, ROOT, importing, run_python

ADDRESS = "MESHLOG_ADDRESS"
WAYS = ["plain", "config", "install", "config", "install", "config", "install"]


def run(*words: str, address: str | None = None) -> tuple[list[str], str]:
    """Run a program of `configured`; return the lines on its stdout, and its stderr."""
    env = importing()
    if address is not None:
        env[ADDRESS] = address
    done = run_python("-m", "tests.process.configured", *words, env=env)
    return done.stdout.splitlines(), done.stderr


def family(parent: str = "INFO None parent") -> list[str]:
    """What is shown of a parent and its seven children; the ranks are in the order in which they joined."""
    return [parent, *(f"INFO {rank} child {rank} {how}" for rank, how in enumerate(WAYS))]


@pytest.mark.parametrize("shown_by", ["aconsole", "zconsole"])
def test_one_dict_for_parent_and_children_with_handlers_in_any_order(shown_by: str) -> None:
    lines, complaints = run("family", shown_by)
    assert lines == family()
    assert complaints == ""


def test_a_file() -> None:
    lines, complaints = run("from_file")
    assert lines == family()
    assert complaints == ""


def test_a_handler_made_by_hand() -> None:
    """Children that apply the same configuration are the dict's; the others are the same here."""
    lines, complaints = run("by_hand")
    assert lines == family()
    assert complaints == ""


def test_configured_twice_shows_once_by_the_second() -> None:
    lines, complaints = run("twice")
    assert lines[0] in ("INFO None one", "second one"), "who configures waits for nobody"
    assert lines[1:] == ["second two", *(f"second child {number} {how}" for number, how in enumerate(WAYS))]
    assert complaints == ""


def test_a_client_that_a_factory_of_the_configuration_starts() -> None:
    lines, complaints = run("by_factory")
    assert [line.rpartition(" ")[2] for line in (*lines, *complaints.splitlines())] == ["factory"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(
    ("program", "second"), [("reconfigured_after_child", "after\n"), ("shut_down_at_once", None)], ids=["again", "shutdown"]
)
def test_what_an_ended_child_logged_is_shown_by_the_configuration_of_its_time(
    program: str, second: str | None, method: str, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="mlt-") as runs:  # `os._exit` leaves the client's directory to the next one
        env = {**os.environ, "MESHLOG_RUN_DIR": runs}
        done = run_python("-m", "tests.process.configured", program, method, str(tmp_path), env=env)
    assert (tmp_path / "first").read_text().splitlines() == [str(number) for number in range(COUNT)]
    assert second is None or (tmp_path / "second").read_text() == second
    assert done.stderr == ""


def test_a_name_that_no_handler_has_is_said_and_nothing_is_lost() -> None:
    lines, complaints = run("unknown_name")
    assert lines == []
    assert "meshlog: MeshHandler: no handler is named 'konsole'. Valid: 'mesh', 'aconsole'.\n" in complaints
    assert complaints.count("konsole") == 1
    assert "shown nevertheless\n" in complaints


def test_names_without_a_configuration_are_refused() -> None:
    done = run_python("-c", "import meshlog_handler; meshlog_handler.MeshHandler(handlers='console')", code=1)
    assert "SettingError" in done.stderr
    assert "no configuration is being read" in done.stderr


def test_without_room_for_a_journal_records_arrive_and_it_is_said() -> None:
    lines, complaints = run("no_room")
    assert lines == ["INFO None parent", "INFO 0 child 0 plain"]
    assert complaints.count("no journal can be made at") == 2
    assert complaints.count("MESHLOG_JOURNAL_SIZE") == 2


READ_ONLY = 'mount -o remount,bind,ro / && {shm} exec "$0" "$@"'


@pytest.mark.skipif(shutil.which("unshare") is None, reason="mounts for one process alone are Linux's")
@pytest.mark.parametrize("memory", [True, False], ids=["with shared memory", "without"])
def test_on_a_read_only_system(memory: bool) -> None:
    script = READ_ONLY.format(shm="" if memory else "mount -t tmpfs -o ro none /dev/shm &&")
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*unshare, script, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")
    code = (
        "import logging.config, os; from tests.process import configured; logging.config.dictConfig(configured.config());"
        "logging.info('parent'); os.fork() or (configured.child('plain', 0), os._exit(0)); os.wait()"
    )
    done = subprocess.run(
        [*unshare, script, sys.executable, "-B", "-c", code],
        env=importing(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=ROOT,
    )
    rank = 0 if memory else None
    assert done.stdout.splitlines() == ["INFO None parent", f"INFO {rank} child 0 plain"]
    assert done.stderr.count("no other process can join this one") == (0 if memory else 1)
    assert done.stderr.count("\n") == (0 if memory else 1)


def test_a_worker_that_configures_logging_itself_keeps_forwarding() -> None:
    with collected() as logs:
        lines, complaints = run("reconfigured_worker", address=logs.address)
        logs.flush()
        assert logs.messages == ["before", "after"]
    assert lines == ["own console: after"]
    assert complaints == ""


@pytest.fixture
def gone() -> str:
    """The address of a client that was stopped."""
    with LogClient() as client:
        return client.address


def test_a_configuration_with_the_address_of_a_client_that_is_gone_makes_a_new_one(gone: str) -> None:
    lines, complaints = run("dead_address", address=gone)
    assert lines == family()
    assert complaints.count("\n") == 1
    assert f"{ADDRESS} names a client that is gone" in complaints
    assert gone.partition("#")[2] not in complaints, "the key"


def test_a_worker_whose_client_is_gone_goes_on_as_it_was(gone: str) -> None:
    lines, complaints = run("worker_of_dead_client", address=gone)
    assert lines == ["kept", "printed"]
    assert complaints.count("\n") == 1
    assert "the logs of this process are not forwarded" in complaints
    assert gone.partition("#")[2] not in complaints, "the key"


def test_a_client_that_is_started_and_stopped_twice() -> None:
    lines, complaints = run("stopped_twice")
    assert lines == ["INFO 0 child 0 install", "INFO 1 child 1 install"]
    assert complaints == ""
