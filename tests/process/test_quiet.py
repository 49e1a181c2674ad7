"""A forwarded record is shown once, whatever the handlers of the program do with it."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler.testing import CollectedLogs, collected

from . import consoles, second_handlers
from .procs import DEADLINE, join_all, run_python, started

COPIED = "a ***" if sys.version_info >= (3, 12) else "a secret"
"""The text after a filter has returned another record. Before Python 3.12, logging ignores the returned record."""

pytestmark = pytest.mark.usefixtures("real_stdout")


def shown(target: Callable[..., None], *args: Any, method: str = "spawn", code: int = 0) -> list[tuple[str, str]]:
    """Run a worker, and return the records that are shown: logger or stream, and text."""
    with collected() as logs, started(method, target, [(*args, logs.address)]) as procs:
        assert join_all(procs) == [code]
        logs.flush()
        return what(logs)


def what(logs: CollectedLogs) -> list[tuple[str, str]]:
    found = [(record.name, record.getMessage().strip()) for record in logs.records]
    return [(name, text) for name, text in found if name != "meshlog" and "rank 0" not in text]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("kind", consoles.KINDS)
def test_each_kind_of_console_shows_a_record_once(kind: str, before: bool) -> None:
    if kind == "rich":
        pytest.importorskip("rich")
    found = shown(consoles.work, kind, before, code=3 if kind == "ends the process" else 0)
    assert [(name, text) for name, text in found if "once" in text] == [("stderr" if kind == "cut off" else "app", "once")]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.parametrize("kind", ["named", "prints"])
def test_a_record_is_shown_once_with_the_other_start_methods(kind: str, method: str) -> None:
    assert shown(consoles.work, kind, True, method=method) == [("app", "once")]


@pytest.mark.parametrize("kind", ["root", "named", "prints", "MemoryHandler"])
def test_a_record_is_shown_once_without_this_package(kind: str) -> None:
    done = run_python("-m", "tests.process.consoles", kind)
    assert (done.stdout + done.stderr).split() == ["once"]


def test_uninstall_restores_the_console_of_the_program() -> None:
    assert shown(consoles.leave_and_log) == [("app", "joined")]  # "left" is shown on the terminal twice, as before


@pytest.mark.parametrize("later", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("handlers", "texts"),
    [
        ([""], ["a secret", "noise", "a word"]),
        ([" Redacting"], ["a ***", "noise", "a word"]),
        ([" Dropping"], ["a secret", "a word"]),
        ([" Redacting", " Dropping"], ["a ***", "noise", "a word"]),
        ([" Dropping", " Dropping"], ["a secret", "a word"]),
        ([" Dropping", ""], ["a secret", "noise", "a word"]),
        (["", " Dropping"], ["a secret", "noise", "a word"]),
        (["Printing Dropping"], ["a secret", "a word"]),
        (["Printing", " Dropping"], ["a secret", "noise", "a word"]),
        ([" Dropping", "Printing"], ["a secret", "noise", "a word"]),
        (["Secretly", " Dropping"], ["a secret", "noise", "a word"]),
        ([" Dropping", "Secretly"], ["a secret", "noise", "a word"]),
        (["Silent", " Dropping"], ["a secret", "a word"]),
        ([" Dropping", "Silent"], ["a secret", "a word"]),
        (["Silent Dropping", ""], ["a secret", "noise", "a word"]),
        (["Silent Dropping"], ["a secret", "noise", "a word"]),
        ([" Dropping", "Printing Redacting"], ["a ***", "noise", "a word"]),
        ([" Copying"], [COPIED, "noise", "a word"]),
        (["Printing Copying"], [COPIED, "noise", "a word"]),
        ([" Copying", "Printing"], ["a secret", "noise", "a word"]),
    ],
)
def test_the_filters_of_a_console_handler_apply_to_forwarded_records(
    handlers: list[str], texts: list[str], later: bool
) -> None:
    # A record that is printed and not forwarded comes through a pipe, so its place among the others is not fixed.
    assert sorted(text for _, text in shown(consoles.be_filtered, handlers, later)) == sorted(texts)


def test_the_error_message_of_logging_about_a_broken_handler_is_shown() -> None:
    found = shown(consoles.break_down)
    assert ("app", "once") in found
    assert ("stderr", "RuntimeError: broken") in found
    assert "half a record" not in [text for _, text in found]


def test_what_a_handler_itself_logs_or_prints_is_shown() -> None:
    assert sorted(shown(consoles.log_within)) == [("app", "once"), ("stderr", "audited"), ("stdout", "printed later")]


def test_a_wrapper_of_a_stream_can_set_its_attributes() -> None:
    found = shown(consoles.log_through_a_proxy)
    assert [text for name, text in found if name == "app"] == ["once", "twice"]
    assert [text for _, text in found if "printed" in text] == ["printed once", "printed twice"]


def test_the_first_record_of_a_forked_child_is_shown_once() -> None:
    assert shown(consoles.fork_and_log) == [("app", "parent"), ("app", "child")]


def test_records_of_other_processes_are_shown_once() -> None:
    assert shown(consoles.hand_on) == [("stderr", "to a handler"), ("app", "to a logger")]


def test_the_console_handler_shows_all_records_after_the_client_is_gone(tmp_path: Path) -> None:
    own = tmp_path / "stderr"
    context: Any = multiprocessing.get_context("spawn")
    joined = context.Event()
    with collected() as logs, started("spawn", consoles.outlive, [(str(own), joined, logs.address)]) as procs:
        assert joined.wait(DEADLINE)
        logs.flush()
        assert what(logs) == [("app", "joined")]
        logs.client.stop()
        assert join_all(procs) == [0]
    lines = [line for line in own.read_text().splitlines() if "the client that shows the logs is gone" not in line]
    assert lines == ["alone", "and warned"]


def test_without_capture_a_record_is_shown_once_on_each_console(tmp_path: Path) -> None:
    own = tmp_path / "stderr"
    assert shown(consoles.uncaptured, str(own)) == [("app", "once")]
    assert own.read_text() == "once\n"  # the client does not show it there
    code = (
        "import sys; from meshlog_handler import LogClient\n"
        "from tests.process import consoles; from tests.process.procs import join_all, started\n"
        "if __name__ == '__main__':\n"
        "    with LogClient() as client, started(sys.argv[1], consoles.uncaptured, [(None, client.address)]) as procs:\n"
        "        print(join_all(procs), client.flush().missing)\n"
    )
    program = tmp_path / "program.py"
    program.write_text(code)
    for method in ("fork", "spawn"):
        done = run_python(str(program), method)
        assert (done.stdout, done.stderr) == ("[0] ()\n", "[0] once\n")


def test_a_record_is_shown_once_beside_a_second_handler() -> None:
    done = run_python("-W", "ignore", "-m", "tests.process.second_handlers")
    found = [line.rpartition(" ")[2] for line in (done.stdout + done.stderr).splitlines()]
    found = [text for text in found if text != second_handlers.NESTED]
    expected = [
        f"{kind}-{second_handlers.name_of(before, capture)}-{number}"
        for kind in second_handlers.SECOND
        for before in (True, False)
        for capture in (True, False)
        for number in (0, 1, "other", "handled")
    ]
    assert sorted(found) == sorted(expected)
