"""A bad record breaks no program, is not lost and does not block the next one. Its text is the one made in its process."""

from __future__ import annotations

import logging
import multiprocessing
import re

import pytest

from meshlog_handler.protocol.record import info_of
from meshlog_handler.testing import collected

from . import poison
from .procs import DEADLINE, join_all, started

# A pattern for the whole text that is shown for each record.
SHOWN = {
    "a lambda": r"got <function .*<lambda> at 0x[0-9a-f]+>",
    "a lock in extra": "locked",
    "an exception": "failed with it",
    "%d with a string": r"%d apples \('many',\) \[cannot be formatted: TypeError: .*\]",
    "too few arguments": r"%s and %s \(1,\) \[cannot be formatted: TypeError: .*\]",
    "too many arguments": r"one %s \(1, 2\) \[cannot be formatted: TypeError: .*\]",
    "10 MB": f"x{{{poison.BIG}}}",
    "10 MB argument": f"x{{{poison.BIG}}}",
    "NUL and surrogates": "a\0b\ud800c",
    "a surrogate argument": "got \udcff",
    "a broken argument": "got <Broken object: its __str__ raised RuntimeError>",
    "a broken message": "<Broken object: its __str__ raised RuntimeError>",
    "a broken extra": "extra",
    "an argument that logs": "got chatty",
    "a string that lies": "got a lie 1",
    "a message that lies": "a lie",
    "an endless list": r"got \[1, \[\.\.\.\]\]",
    "a number beyond 64 bits": f"got {1 << 80}",
    "a name of ours": "mine",
    "an odd level": "odd",
}


# README, "What is guaranteed": Logging never breaks the program.
@pytest.mark.parametrize("name", poison.POISON)
def test_a_record_that_is_hard_to_send_arrives_as_text_and_the_next_record_arrives(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with collected() as logs:
        with started("fork", poison.log_poison, [(logs.address, name)]) as procs:
            assert join_all(procs) == [0]
        receipt = logs.flush()
        records = logs.records
        stats = logs.client.stats()
    texts = [record.getMessage() for record in records]
    if name == "an argument that logs":
        inside = texts.index("from inside")
        assert 0 < inside < len(texts) - 1
        texts = [text for text in texts if text != "from inside"]
        records = [record for record in records if record.getMessage() != "from inside"]
    assert len(texts) == 3
    assert (texts[0], texts[2]) == ("before", "after 1")
    # Without a message, a failed assertion would print all 10 MB.
    assert re.fullmatch(SHOWN[name], texts[1], re.DOTALL) is not None, texts[1][:1000]
    assert receipt.dropped == 0
    assert {info_of(record).rank for record in records} == {0} == set(stats)
    assert {info_of(record).stream for record in records} == {None}
    assert stats[0].received == stats[0].last_seq >= 3
    check_details(name, records[1])
    assert capfd.readouterr().err == "", "nothing raises in the worker, and nothing is worth a complaint"


def check_details(name: str, record: logging.LogRecord) -> None:
    """Check the other attributes that the record should have."""
    fields = vars(record)
    if name == "a lock in extra":
        assert fields["lock"].startswith("<unlocked _thread.lock object")
    elif name == "a broken extra":
        assert fields["broken"] == "<Broken object: its __str__ raised RuntimeError>"
    elif name == "an exception":
        assert record.exc_info is not None
        assert type(record.exc_info[1]).__name__ == "CannotBeRebuilt"
        assert record.exc_text is not None
        assert record.exc_text.startswith("Traceback (most recent call last):\n")
        assert record.exc_text.endswith("poison.CannotBeRebuilt: this and that")
    elif name == "an odd level":
        assert (record.levelno, record.levelname) == (70_000, "Level 70000")
    elif name == "a name of ours":
        assert info_of(record).hostname != "elsewhere"
        assert (fields["hostname"], fields["count"]) == ("elsewhere", 7), "an extra keeps its name"
    assert record.levelno == (logging.ERROR if name == "an exception" else 70_000 if name == "an odd level" else logging.INFO)


@pytest.mark.parametrize("first", [True, False], ids=["formatted before it is forwarded", "after"])
def test_a_formatter_in_the_client_makes_the_same_text_as_in_the_worker(first: bool) -> None:
    mine, theirs = multiprocessing.Pipe(duplex=False)
    with mine, theirs, collected() as logs:
        with started("fork", poison.log_everything, [(logs.address, first, theirs)]) as procs:
            assert mine.poll(DEADLINE)
            expected = mine.recv()
            assert join_all(procs) == [0]
        logs.flush()
        formatter = logging.Formatter(poison.FORMAT, defaults={"extra": "-"})
        shown = [formatter.format(record) for record in logs.records]
        again = [formatter.format(record) for record in logs.records]
    assert shown == expected
    assert again == expected
    failed = [text for text in shown if "|failed 1\n" in text]
    assert len(failed) == 3
    assert all(text.count("Traceback (most recent call last):") == 2 for text in failed), "the cause's and its own, each once"
