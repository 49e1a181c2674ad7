"""`logging.config`: one configuration for all processes, applied twice, without disk space, with no client or a bad name."""

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
from .procs import importing, run_command, run_python

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
    """Return the lines shown for a parent and its seven children, with ranks in the order in which the children joined."""
    return [parent, *(f"INFO {rank} child {rank} {how}" for rank, how in enumerate(WAYS))]


@pytest.mark.parametrize("shown_by", ["aconsole", "zconsole"])
def test_parent_and_children_share_one_dict_with_handlers_in_any_order(shown_by: str) -> None:
    lines, complaints = run("family", shown_by)
    assert lines == family()
    assert complaints == ""


def test_file_config_gives_parent_and_children_the_same_logging() -> None:
    lines, complaints = run("from_file")
    assert lines == family()
    assert complaints == ""


def test_a_handler_made_by_hand_shows_parent_and_children() -> None:
    """The children that apply a configuration apply the dict; the others behave as with the dict."""
    lines, complaints = run("by_hand")
    assert lines == family()
    assert complaints == ""


def test_one_handler_and_an_iterator_of_handlers_are_used() -> None:
    assert run("by_iterator") == (["StreamHandler", "list_iterator"], "")


def test_a_record_of_a_configured_logger_is_shown_once_in_a_child_that_also_installs() -> None:
    lines, complaints = run("family_of_logger")
    names = [f"{method} {how}" for method in ("fork", "spawn") for how in ("config install", "install config")]
    assert lines == [f"INFO {rank} {name}{queued}" for rank, name in enumerate(names) for queued in ("", " queued")]
    assert complaints == ""


def test_a_handler_that_cannot_be_made_leaves_nothing_for_the_exit() -> None:
    assert run("invalid") == (["6"], "")


def test_a_second_configuration_replaces_the_first_and_shows_each_record_once() -> None:
    lines, complaints = run("twice")
    assert lines[0] in ("INFO None one", "second one"), "who configures waits for nobody"
    assert lines[1:] == ["second two", *(f"second child {number} {how}" for number, how in enumerate(WAYS))]
    assert complaints == ""


def test_a_factory_of_a_configuration_can_start_a_client() -> None:
    lines, complaints = run("by_factory")
    assert [line.rpartition(" ")[2] for line in (*lines, *complaints.splitlines())] == ["factory"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(
    ("program", "second"), [("reconfigured_after_child", "after\n"), ("shut_down_at_once", None)], ids=["again", "shutdown"]
)
def test_records_of_an_ended_child_are_shown_by_the_configuration_that_was_active(
    program: str, second: str | None, method: str, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="mlt-") as runs:  # after `os._exit`, only the next client removes the directory
        env = {**os.environ, "MESHLOG_RUN_DIR": runs}
        done = run_python("-m", "tests.process.configured", program, method, str(tmp_path), env=env)
    assert (tmp_path / "first").read_text().splitlines() == [str(number) for number in range(COUNT)]
    assert second is None or (tmp_path / "second").read_text() == second
    assert done.stderr == ""


def test_an_unknown_handler_name_is_reported_and_no_record_is_lost() -> None:
    lines, complaints = run("unknown_name")
    assert lines == []
    assert "meshlog: MeshHandler: no handler is named 'konsole'. Valid: 'mesh', 'aconsole'.\n" in complaints
    assert complaints.count("konsole") == 1
    assert "shown nevertheless\n" in complaints


def test_handler_names_outside_a_configuration_are_rejected() -> None:
    done = run_python("-c", "import meshlog_handler; meshlog_handler.MeshHandler(handlers='console')", code=1)
    assert "SettingError" in done.stderr
    assert "no configuration is being read" in done.stderr


def test_records_arrive_without_space_for_a_journal_and_a_warning_is_shown() -> None:
    lines, complaints = run("no_room")
    assert lines == ["INFO None parent", "INFO 0 child 0 plain"]
    assert complaints.count("no journal can be made at") == 2
    assert complaints.count("MESHLOG_JOURNAL_SIZE") == 2


READ_ONLY = 'mount -o remount,bind,ro / && {shm} exec "$0" "$@"'


@pytest.mark.skipif(shutil.which("unshare") is None, reason="mounts for one process alone are Linux's")
@pytest.mark.parametrize("memory", [True, False], ids=["with shared memory", "without"])
def test_logging_works_on_a_read_only_system(memory: bool) -> None:
    script = READ_ONLY.format(shm="" if memory else "mount -t tmpfs -o ro none /dev/shm &&")
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*unshare, script, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")
    code = (
        "import logging.config, os; from tests.process import configured; logging.config.dictConfig(configured.config());"
        "logging.info('parent'); os.fork() or (configured.child('plain', 0), os._exit(0)); os.wait()"
    )
    done = run_command(*unshare, script, sys.executable, "-B", "-c", code)
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
    """Return the address of a client that was stopped."""
    with LogClient() as client:
        return client.address


def test_a_program_that_outlives_the_one_that_started_it_shows_its_logs_without_a_complaint(gone: str) -> None:
    lines, complaints = run("dead_address", address=gone)
    assert lines == family()
    assert complaints == ""


@pytest.mark.parametrize("why", ["it was killed", "it is on another machine"])
def test_a_configuration_with_the_address_of_a_client_that_is_gone_starts_a_new_client(why: str, gone: str) -> None:
    if why == "it was killed":
        killed = "import os; from meshlog_handler import LogClient; print(LogClient().start().address, flush=True); os._exit(0)"
        gone = run_python("-c", killed).stdout.strip()
    else:
        gone = gone.replace("://", ":///nowhere")
    lines, complaints = run("dead_address", address=gone)
    assert lines == family()
    assert complaints.count("\n") == 1
    assert f"{ADDRESS} names a client that is gone" in complaints
    assert gone.partition("#")[2] not in complaints, "the key"


def test_a_process_that_starts_its_program_anew_shows_its_logs_without_a_complaint() -> None:
    lines, complaints = run("replaced_by_exec")
    assert lines == ["INFO None run 0", "INFO None run 1", "INFO None run 2"]
    assert complaints == ""


def test_a_worker_whose_client_is_gone_keeps_its_own_logging(gone: str) -> None:
    lines, complaints = run("worker_of_dead_client", address=gone)
    assert lines == ["kept", "printed"]
    assert complaints.count("\n") == 1
    assert "the logs of this process are not forwarded" in complaints
    assert gone.partition("#")[2] not in complaints, "the key"


def test_a_client_can_be_started_and_stopped_twice() -> None:
    lines, complaints = run("stopped_twice")
    assert lines == ["INFO 0 child 0 install", "INFO 1 child 1 install"]
    assert complaints == ""
