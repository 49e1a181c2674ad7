from __future__ import annotations

import gc
import logging
import logging.handlers
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler.worker.config_transaction import ConfigTransaction


class Recorder(logging.Handler):
    """Notes what it is given, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.flushed = self.closed = False

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def flush(self) -> None:
        self.flushed = True

    def close(self) -> None:
        self.closed = True
        super().close()


class Stubborn(Recorder):
    """Cannot be closed."""

    def close(self) -> None:
        super().close()
        raise AttributeError("half made")


class Forwarding(Recorder):
    forwards = True


def config(**more: Any) -> dict[str, Any]:
    """A configuration with one handler, "console", for the root logger."""
    return {
        "version": 1,
        "handlers": {"console": {"()": Recorder}},
        "root": {"level": "DEBUG", "handlers": ["console"]},
        **more,
    }


def named(name: str) -> Any:
    """Return the handler that logging knows by a name."""
    return logging._handlers.get(name)  # type: ignore[attr-defined]  # has a public name only since 3.12


@pytest.fixture
def old(restored_logging: logging.Logger) -> Iterator[Recorder]:
    """The handler "console" of the root logger, as it is before."""
    handler = Recorder()
    handler.set_name("console")
    restored_logging.addHandler(handler)
    yield handler
    handler.close()


def everything() -> list[tuple[Any, ...]]:
    """All that a configuration can change."""
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    return [
        (each.name, each.level, *each.handlers, *each.filters, each.propagate, each.disabled, each.isEnabledFor(5))
        for each in (logging.root, *known)
        if each.level or each.handlers or each.filters or each.disabled or not each.propagate
    ]


def test_committed_the_new_handlers_are_in_force_and_the_old_ones_closed(old: Recorder) -> None:
    transaction = ConfigTransaction(config())
    assert not old.closed
    transaction.commit()
    new = named("console")
    logging.getLogger("app").debug("hello")
    assert (new.texts, old.texts) == (["hello"], [])
    assert (old.flushed, old.closed, new.closed) == (True, True, False)


def test_the_name_of_a_handler_stays_the_new_ones(old: Recorder) -> None:
    ConfigTransaction(config()).commit()
    new = named("console")
    assert new is not None
    assert new is not old
    ConfigTransaction({"version": 1, "incremental": True, "handlers": {"console": {"level": "ERROR"}}}).commit()
    assert new.level == logging.ERROR


def test_rolled_back_everything_is_as_before(old: Recorder) -> None:
    app = logging.getLogger("app.before")
    app.setLevel(logging.WARNING)
    app.addFilter(logging.Filter("x"))
    app.propagate = False
    before = everything()
    loggers = {"app.before": {"level": "DEBUG", "handlers": ["console"], "propagate": True}, "app.new": {"level": "DEBUG"}}
    transaction = ConfigTransaction(config(loggers=loggers, disable_existing_loggers=True))
    new = named("console")
    assert everything() != before
    transaction.rollback()
    assert everything() == before
    assert (old.closed, new.closed) == (False, True)
    assert named("console") is old
    logging.getLogger().warning("still here")
    assert (old.texts, new.texts) == (["still here"], [])


def test_rolled_back_new_handlers_that_no_logger_uses_are_closed_too(old: Recorder) -> None:
    made: list[weakref.ref[Recorder]] = []
    closed: list[bool] = []

    def make() -> Recorder:
        made.append(weakref.ref(handler := Recorder()))
        weakref.finalize(handler, lambda fields: closed.append(fields["closed"]), handler.__dict__)
        return handler

    transaction = ConfigTransaction({"version": 1, "handlers": {"unused": {"()": make}}})
    gc.collect()
    assert made[0]() is not None
    transaction.rollback()
    gc.collect()
    assert made[0]() is None
    assert closed == [True]


def test_rolled_back_a_handler_that_others_made_meanwhile_goes_on(old: Recorder) -> None:
    transaction = ConfigTransaction(config())
    theirs = Recorder()
    theirs.set_name("theirs")
    transaction.rollback()
    assert not theirs.closed
    assert named("theirs") is theirs
    assert named("console") is old
    assert weakref.ref(theirs) in logging._handlerList  # type: ignore[attr-defined]  # the registry has no public name
    theirs.close()


def test_a_logger_the_configuration_made_is_as_a_new_one(old: Recorder) -> None:
    loggers = {"made.by.it": {"level": "ERROR", "handlers": ["console"], "propagate": False}}
    ConfigTransaction(config(loggers=loggers)).rollback()
    made = logging.getLogger("made.by.it")
    assert (made.level, made.handlers, made.propagate, made.disabled) == (logging.NOTSET, [], True, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 2},
        {"root": {"handlers": ["nobody"]}},
        {"handlers": {"console": {"()": Recorder}, "file": {"class": "no.such.Class"}}},
        {"handlers": {"console": {"()": Stubborn}, "other": {"class": "logging.FileHandler", "filename": "/no/such/dir/file"}}},
        {"loggers": {"app": {"level": "LOUD"}}},
        {"incremental": True, "handlers": {"console": {"level": "ERROR"}}, "loggers": {"app": {"level": "LOUD"}}},
    ],
)
def test_refused_everything_is_as_before(old: Recorder, wrong: dict[str, Any]) -> None:
    before = everything(), old.level
    with pytest.raises(ValueError, match=r".+"):
        ConfigTransaction(config(**wrong))
    assert (everything(), old.level) == before
    assert not old.closed
    assert named("console") is old


def test_without_a_version_it_is_refused(old: Recorder) -> None:
    with pytest.raises(ValueError, match="version"):
        ConfigTransaction({})
    assert old in logging.root.handlers


def test_a_part_is_undone_too(old: Recorder) -> None:
    part = {"version": 1, "incremental": True, "handlers": {"console": {"level": "ERROR"}}, "loggers": {"app": {"level": 10}}}
    before = everything()
    transaction = ConfigTransaction(part)
    assert (old.level, logging.getLogger("app").level) == (logging.ERROR, 10)
    transaction.rollback()
    assert old.level == logging.NOTSET
    assert everything() == before


def test_a_part_closes_nothing(old: Recorder, tmp_path: Path) -> None:
    target = Recorder()  # no logger has it
    memory = logging.handlers.MemoryHandler(10, target=target)
    logging.root.addHandler(memory)
    ConfigTransaction({"version": 1, "incremental": True, "root": {"level": "ERROR"}}).commit()
    assert (target.closed, old.closed) == (False, False)
    memory.close()


def test_handlers_that_a_logger_still_uses_stay_open(old: Recorder) -> None:
    shared = Recorder()
    logging.getLogger("app.shared").addHandler(shared)
    ConfigTransaction(config()).commit()
    assert (shared.closed, old.closed) == (False, True)


def test_a_handler_that_cannot_be_closed_keeps_no_other_open(old: Recorder) -> None:
    stubborn, last = Stubborn(), Recorder()
    for handler in (stubborn, last):
        logging.root.addHandler(handler)
    ConfigTransaction(config()).commit()
    assert (stubborn.closed, last.closed, old.closed) == (True, True, True)
    logging.root.removeHandler(stubborn)


def test_loggers_from_before_go_on_unless_asked(old: Recorder) -> None:
    before = logging.getLogger("made.at.import")
    ConfigTransaction(config()).commit()
    assert not before.disabled
    ConfigTransaction(config(disable_existing_loggers=True)).commit()
    assert before.disabled
    before.disabled = False


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_the_handler_that_forwards_stays_on_root(old: Recorder, end: str) -> None:
    forwarding = Forwarding()
    logging.root.addHandler(forwarding)
    transaction = ConfigTransaction(config())
    logging.getLogger("app").warning("prepared")
    getattr(transaction, end)()
    logging.getLogger("app").warning("ended")
    assert forwarding.texts == ["prepared", "ended"]
    assert not forwarding.closed
    assert logging.root.handlers.count(forwarding) == 1


def test_only_the_first_end_counts(old: Recorder) -> None:
    committed = ConfigTransaction(config())
    committed.commit()
    new = named("console")
    committed.rollback()
    assert new in logging.root.handlers
    assert not new.closed
    undone = ConfigTransaction(config())
    undone.rollback()
    undone.commit()
    assert not new.closed
    assert new in logging.root.handlers


def test_new_handlers_are_known_at_exit_whatever_comes(old: Recorder) -> None:
    def known() -> list[logging.Handler | None]:
        return [reference() for reference in logging._handlerList]  # type: ignore[attr-defined]  # has no public name

    transaction = ConfigTransaction(config())
    new = named("console")
    assert {old, new} <= set(known())
    transaction.rollback()
    assert old in known()
    assert new not in known()
