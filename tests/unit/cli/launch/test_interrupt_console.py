"""CollapsingConsole: shows the first KeyboardInterrupt and all other lines."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable

import pytest

from meshlog_handler.cli.launch.interrupt_console import CollapsingConsole

INTERRUPT = ("Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "    pause()", "KeyboardInterrupt")
ERROR = ("Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "ValueError: no")
CHAIN = ("", "During handling of the above exception, another exception occurred:", "")


def line(rank: int, text: str, stream: str | None = "stderr") -> logging.LogRecord:
    """Return a captured line as the client makes it, or a record if `stream` is None."""
    fields = {"msg": text, "args": (), "rank": rank, "stream": stream, "levelno": logging.INFO, "levelname": "INFO"}
    return logging.makeLogRecord(fields)


def show(lines: Iterable[tuple[int, str]], folding: bool = True) -> tuple[list[str], set[int]]:
    """Return the lines that a console shows, and the ranks whose tracebacks it omits."""
    out = io.StringIO()
    console = CollapsingConsole(out, out)
    console.folding = folding
    for rank, text in lines:
        console.handle(line(rank, text))
        console.flush()
    console.close()
    return out.getvalue().splitlines(), console.folded


def test_without_an_interrupt_nothing_is_held_or_omitted() -> None:
    lines = [(rank, text) for rank in range(3) for text in INTERRUPT]
    assert show(lines, folding=False) == ([f"[{rank}] {text}" for rank, text in lines], set())


def test_only_the_first_of_interleaved_tracebacks_is_shown() -> None:
    lines = [(rank, text) for text in (*INTERRUPT, "after") for rank in range(3)]
    shown, folded = show(lines)
    assert shown == [*(f"[0] {text}" for text in INTERRUPT), "[0] after", "[1] after", "[2] after"]
    assert folded == {1, 2}


def test_other_tracebacks_are_shown_in_one_piece() -> None:
    lines = [(rank, text) for text in ERROR for rank in range(2)]
    shown, folded = show([*((7, text) for text in INTERRUPT), *lines])
    assert shown[len(INTERRUPT) :] == [f"[{rank}] {text}" for rank in range(2) for text in ERROR]
    assert folded == set()


def test_tracebacks_that_arrive_as_one_text_are_treated_as_their_lines() -> None:
    shown, folded = show((rank, "\n".join(text)) for text in (ERROR, INTERRUPT, ("after",)) for rank in range(2))
    expected = [(0, ERROR), (1, ERROR), (0, INTERRUPT), (0, ("after",)), (1, ("after",))]
    assert shown == [f"[{rank}] {text}" for rank, texts in expected for text in texts]
    assert folded == {1}


@pytest.mark.parametrize(
    ("ranks", "folded"),
    [([(0,), (1, 2, 3)], {1, 2, 3}), ([(0, 1, 2), (3,)], {3}), ([(0, 1), (1, 2)], {2}), ([(0, 1), (1,)], set())],
)
def test_the_ranks_of_a_group_are_omitted_with_its_traceback(ranks: list[tuple[int, ...]], folded: set[int]) -> None:
    out = io.StringIO()
    console = CollapsingConsole(out, out)
    console.folding = True
    for each in ranks:
        record = line(each[0], "\n".join(INTERRUPT))
        if len(each) > 1:
            vars(record).update(msg=f"[{len(each)} similar log lines] {record.msg}", rank=None, ranks=each)
        console.handle(record)
    console.close()
    assert out.getvalue().count("KeyboardInterrupt") == 1
    assert console.folded == folded


def test_tracebacks_chained_to_an_omitted_interrupt_are_omitted() -> None:
    lines = [(rank, text) for rank in range(2) for text in (*INTERRUPT, *CHAIN, *INTERRUPT)]
    shown, folded = show(lines)
    assert [text.removeprefix("[0] ") for text in shown] == [*INTERRUPT]
    assert folded == {1}


def test_an_error_after_an_interrupt_is_shown() -> None:
    shown, _ = show([(rank, text) for rank in range(2) for text in (*INTERRUPT, *CHAIN, *ERROR)])
    assert [text for text in shown if text.startswith("[1]")] == [f"[1] {text}" for text in ERROR]


def test_an_incomplete_traceback_is_shown_at_close() -> None:
    assert show([(0, text) for text in INTERRUPT[:2]])[0] == [f"[0] {text}" for text in INTERRUPT[:2]]


@pytest.mark.parametrize("count", [999, 5000])
def test_an_endless_traceback_is_not_held_for_ever(count: int) -> None:
    lines = [(0, ERROR[0]), *((0, f"  line {number}") for number in range(count))]
    assert len(show(lines)[0]) == count + 1


def test_a_logged_interrupt_loses_only_its_traceback() -> None:
    out = io.StringIO()
    console = CollapsingConsole(out, out)
    console.folding = True
    for rank in range(2):
        record = line(rank, "sorry", None)
        record.exc_text = "\n".join(INTERRUPT)
        console.handle(record)
        assert record.exc_text
    console.close()
    assert out.getvalue().splitlines() == ["[0] sorry", *(f"[0] {text}" for text in INTERRUPT), "[1] sorry"]
    assert console.folded == {1}
