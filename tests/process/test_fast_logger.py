"""After `install`, plain calls make no `LogRecord`, and the client shows the same."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from meshlog_handler import install, uninstall
from meshlog_handler.testing import collected
from meshlog_handler.worker import fast_logger

from .procs import METHODS, join_all, started

COUNT = 100


def work(address: str, fast: bool) -> None:
    made = []
    standard = logging.LogRecord.__init__

    def counted(self: logging.LogRecord, *args: Any, **kwargs: Any) -> None:
        made.append(1)
        standard(self, *args, **kwargs)

    logging.LogRecord.__init__ = counted  # type: ignore[method-assign]  # counts in this process only
    fast_logger._INIT = counted
    logging.root.handlers[:] = []  # a forked process has those of pytest
    before = logging.Logger._log
    install(address, capture=False, fast=fast)
    log = logging.getLogger("work")
    for number in range(COUNT):
        log.info("step %d", number)
        log.info(f"of {number}")
    log.info("made %d", len(made))
    pid = os.fork()
    if pid == 0:
        for number in range(COUNT):
            log.info("child %d", number)
        os._exit(0)
    os.waitpid(pid, 0)
    log.info("after the fork")
    uninstall()
    assert logging.Logger._log is before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fast", [True, False])
def test_calls_make_no_record_and_the_same_is_shown(method: str, fast: bool) -> None:
    with collected() as logs:
        with started(method, work, [(logs.client.address, fast)]) as procs:
            join_all(procs)
        logs.flush()
        shown = [record for record in logs.records if record.name == "work"]
    texts = [record.getMessage() for record in shown]
    assert [text for text in texts if text.startswith("step")] == [f"step {number}" for number in range(COUNT)]
    assert [text for text in texts if text.startswith("of")] == [f"of {number}" for number in range(COUNT)]
    assert [text for text in texts if text.startswith("child")] == [f"child {number}" for number in range(COUNT)]
    assert texts[-1] == "after the fork"
    assert {(record.funcName, record.filename, record.levelname) for record in shown} == {
        ("work", "test_fast_logger.py", "INFO")
    }
    (made,) = (int(text.split()[1]) for text in texts if text.startswith("made"))
    assert made < 10 if fast else made >= 2 * COUNT


def test_a_variable_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    before = logging.Logger._log
    with collected() as logs:
        for value, changed in (("0", False), ("1", True)):
            monkeypatch.setenv("MESHLOG_FAST_LOGGER", value)
            install(logs.client.address, capture=False)
            assert (logging.Logger._log is not before) is changed
            uninstall()
            assert logging.Logger._log is before
