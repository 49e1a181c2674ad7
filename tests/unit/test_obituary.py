from __future__ import annotations

import logging
import signal
from dataclasses import dataclass, field

from meshlog_handler.obituary import WORD_SEC, Obituaries, last_lines
from meshlog_handler.thaw import Item

from .crossing import decode, encode, make


@dataclass
class Proc:
    """A proc of a mesh that has been heard to its end."""

    rank: int | None = 3
    exitcode: int | None = None
    mesh: str = "token"
    pid: int = 4711
    tail: list[Item] = field(default_factory=list)


def test_an_end_that_is_known_is_told_at_once() -> None:
    text = Obituaries().heard(Proc(exitcode=-signal.SIGKILL), 0.0)
    assert text == "rank 3 (pid 4711) ended by SIGKILL"


def test_a_good_end_is_not_told() -> None:
    assert Obituaries().heard(Proc(exitcode=0), 0.0) == ""


def test_an_end_waits_for_the_word_of_its_owner() -> None:
    obituaries, proc = Obituaries(), Proc()
    assert obituaries.heard(proc, 10.0) == ""
    assert obituaries.deadline == 10.0 + WORD_SEC
    assert obituaries.word("token", 3, 7) == (proc, "rank 3 (pid 4711) ended by exit code 7")
    assert proc.exitcode == 7
    assert obituaries.deadline is None


def test_the_word_may_come_first() -> None:
    obituaries, proc = Obituaries(), Proc()
    assert obituaries.word("token", 3, -signal.SIGSEGV) is None
    assert obituaries.heard(proc, 0.0) == "rank 3 (pid 4711) ended by SIGSEGV"
    assert obituaries.deadline is None


def test_a_word_is_of_one_rank_of_one_mesh() -> None:
    obituaries = Obituaries()
    obituaries.heard(Proc(), 0.0)
    assert obituaries.word("other", 3, 1) is None
    assert obituaries.word("token", 4, 1) is None
    assert obituaries.word("token", 3, 1) is not None


def test_a_word_is_used_once() -> None:
    obituaries = Obituaries()
    obituaries.word("token", 3, 1)
    # The kernel said the same: the word is for this proc nevertheless, and not for the next one of its rank.
    assert obituaries.heard(Proc(exitcode=1), 0.0)
    assert obituaries.heard(Proc(), 0.0) == ""
    assert obituaries.word("token", 3, 2) is not None
    assert obituaries.heard(Proc(), 0.0) == ""


def test_an_end_of_which_nobody_knows_more_is_forgotten() -> None:
    obituaries = Obituaries()
    obituaries.heard(Proc(), 10.0)
    obituaries.expire(10.0 + WORD_SEC - 0.01)
    assert obituaries.deadline is not None
    obituaries.expire(10.0 + WORD_SEC)
    assert obituaries.deadline is None
    assert obituaries.word("token", 3, 1) is None


def test_nobody_is_waited_for_to_speak_of_a_guest() -> None:
    obituaries = Obituaries()
    assert obituaries.heard(Proc(mesh=""), 10.0) == ""
    assert obituaries.deadline is None


def test_it_ends_with_the_last_lines_as_they_were_shown() -> None:
    tail = decode(
        encode(
            [
                make("loading %d of %d", 3, 8),
                make("it broke", levelno=logging.ERROR, levelname="ERROR", exc_text="Traceback:\n  x\nValueError: why\n"),
                make("%d", "x"),
            ]
        )
    )
    text = Obituaries().heard(Proc(exitcode=1, tail=[*tail, (0.0, None, ("owner", 1))]), 0.0)
    first, *rest = text.split("\n    ")
    assert first == "rank 3 (pid 4711) ended by exit code 1; its last lines:"
    assert rest[:2] == ["INFO app.part: loading 3 of 8", "ERROR app.part: it broke: ValueError: why"]
    assert "cannot be formatted" in rest[2]
    assert len(rest) == 3
    assert last_lines([]) == []
