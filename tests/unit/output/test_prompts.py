"""Lines are kept off a terminal while a debugger waits for input there; what is told on a terminal only."""

from __future__ import annotations

import io
import logging
import os
import pdb
import sys
import threading
from collections.abc import Iterator

import pytest

from meshlog_handler.output import console, prompts
from meshlog_handler.output.console import ConsoleHandler, flushing_threads, set_hint, show_kept
from meshlog_handler.output.prompts import debugger_waits, is_prompt

from ...waiting import until
from .test_console import Terminal
from .test_formatter import make


@pytest.fixture(autouse=True)
def on_clients_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this thread show records as that of a client does, which here looks each time whether a debugger waits."""
    monkeypatch.setattr(prompts, "LOOK_SEC", 0.0)
    flushing_threads[threading.get_ident()] = set()
    yield
    del flushing_threads[threading.get_ident()]
    assert not console.keeping


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", "")
    monkeypatch.setenv("NO_COLOR", "1")
    made = Terminal()
    yield made
    made.close()


class Debugger:
    """Whether a debugger of this process waits."""

    waits = True


@pytest.fixture
def debugger(monkeypatch: pytest.MonkeyPatch) -> Debugger:
    made = Debugger()
    monkeypatch.setattr(prompts, "debugger_waits", lambda: made.waits)
    return made


def show(handler: ConsoleHandler, text: str, rank: int = 1) -> None:
    handler.handle(make(text, rank=rank))
    handler.flush()


def printed(text: str, *, partial: bool = False) -> logging.LogRecord:
    """Return the record of a line that rank 0, which reads the terminal, has printed."""
    return make(text, rank=0, stream="stdout", raw=text, partial=partial)


@pytest.mark.parametrize("remote", [False, True], ids=["here", "remote"])
def test_a_thread_at_the_prompt_of_pdb_is_noticed(remote: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a debugger which reads a socket or a file does not count: nothing is typed on this terminal."""
    reader, writer = os.pipe()
    gate = threading.Event()
    ended: list[bool] = []

    def stops(gate: threading.Event) -> None:
        with os.fdopen(reader) as keys:
            monkeypatch.setattr(sys, "stdin", keys)
            out = io.StringIO() if remote else None
            pdb.Pdb(stdin=keys, stdout=out, nosigint=True, readrc=False).set_trace()
            ended.append(gate.is_set())

    thread = threading.Thread(target=stops, args=(gate,))
    assert not debugger_waits()
    thread.start()
    with os.fdopen(writer, "w", buffering=1) as keys:
        if not remote:
            until(debugger_waits)
            print("gate.wait()", file=keys)  # while a command runs, it does not wait
            until(lambda: not debugger_waits())
        gate.set()
        until(lambda: remote or debugger_waits())
        print("c", file=keys)
        thread.join()
    assert ended == [True]
    assert not debugger_waits()


def test_how_grouping_is_switched_off_is_told_once_on_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_hinted", [])
    grouped, out = make("[2 similar log lines] [ranks 0-1] x", count=2, ranks=(0, 1)), io.StringIO()
    handlers = [ConsoleHandler(file, file) for file in (out, terminal.file, terminal.file)]
    for handler in handlers:
        set_hint(handler, "a hint")
        for record in (make("x"), grouped, grouped):
            handler.handle(record)
        handler.flush()
    lines = ["[3] x", grouped.getMessage(), grouped.getMessage()]
    assert out.getvalue().splitlines() == lines
    assert terminal.shows("".join(f"{line}\n" for line in [*lines[:2], "a hint", lines[2], *lines]))


@pytest.mark.parametrize("text", ["(Pdb) ", "((Pdb)) ", "(Pdb++) ", "ipdb> ", "(gdb) ", "(lldb) "])
def test_the_prompts_of_debuggers_are_known(text: str) -> None:
    assert is_prompt(text)


@pytest.mark.parametrize("text", ["", "name? ", "loading (50%) ", "(Pdb) > train.py(3)", "at (Pdb) "])
def test_other_incomplete_lines_are_no_prompts(text: str) -> None:
    assert not is_prompt(text)


def test_lines_wait_until_the_debugger_goes_on(terminal: Terminal, debugger: Debugger) -> None:
    handler = ConsoleHandler(terminal.file, terminal.file)
    show(handler, "first")
    show(handler, "second")
    assert terminal.shows("")
    debugger.waits = False
    show(handler, "third")
    assert terminal.shows("[1] first\n[1] second\n[1] third\n")
    debugger.waits = True
    show(handler, "last")
    show_kept()  # a flush
    assert terminal.shows("[1] last\n")
    show(handler, "at the end")
    handler.close()
    assert terminal.shows("[1] at the end\n")


def test_records_of_this_process_do_not_wait_and_leave_the_others_waiting(terminal: Terminal, debugger: Debugger) -> None:
    handler = ConsoleHandler(terminal.file, terminal.file)
    show(handler, "of a rank")
    thread = threading.Thread(target=lambda: handler.handle(make("of this process", rank=None)))
    thread.start()
    thread.join()
    assert terminal.shows("of this process\n")
    debugger.waits = False
    handler.flush()
    assert terminal.shows("[1] of a rank\n")


def test_what_is_no_terminal_does_not_wait(debugger: Debugger) -> None:
    out = io.StringIO()
    show(ConsoleHandler(out, out), "to a file")
    assert out.getvalue() == "[1] to a file\n"


def test_a_limited_size_waits(terminal: Terminal, debugger: Debugger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_MAX_SIZE", 20)
    handler = ConsoleHandler(terminal.file, terminal.file)
    show(handler, "a" * 10)
    assert terminal.shows("")
    show(handler, "b" * 10)
    assert terminal.shows(f"[1] {'a' * 10}\n[1] {'b' * 10}\n")


def test_at_the_prompt_of_a_rank_only_its_own_lines_are_written(
    terminal: Terminal, debugger: Debugger, monkeypatch: pytest.MonkeyPatch
) -> None:
    debugger.waits = False
    handler = ConsoleHandler(terminal.file, terminal.file)
    handler.reader = 0
    handler.handle(printed("(Pdb) ", partial=True))
    show(handler, "waits")
    assert terminal.shows("[0] (Pdb) \n")
    show(handler, "from another thread of it", rank=0)
    assert terminal.shows("[0] from another thread of it\n")
    handler.handle(printed("5"))
    handler.flush()
    assert terminal.shows("[1] waits\n[0] 5\n")
    handler.handle(printed("(Pdb) ", partial=True))
    show(handler, "until it ends")
    assert terminal.shows("[0] (Pdb) \n")
    handler.reader = None
    handler.flush()
    assert terminal.shows("[1] until it ends\n")
    handler.reader = 0
    monkeypatch.setattr(prompts, "_PROMPT_SEC", 0.0)
    handler.handle(printed("(Pdb) ", partial=True))
    show(handler, "after some time")
    assert terminal.shows("[1] after some time\n[0] (Pdb) \n")
