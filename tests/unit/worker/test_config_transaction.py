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
    """Keeps the messages that it gets, and whether it was flushed and closed."""

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
    """A handler whose `close` raises."""

    def close(self) -> None:
        super().close()
        raise AttributeError("half made")


class Forwarding(Recorder):
    forwards = True


def config(**more: Any) -> dict[str, Any]:
    """Return a configuration with one handler, "console", on the root logger."""
    return {
        "version": 1,
        "handlers": {"console": {"()": Recorder}},
        "root": {"level": "DEBUG", "handlers": ["console"]},
        **more,
    }


def named(name: str) -> Any:
    """Return the handler that is registered under a name."""
    return logging._handlers.get(name)  # type: ignore[attr-defined]  # has a public name only since 3.12


@pytest.fixture
def old(restored_logging: logging.Logger) -> Iterator[Recorder]:
    """The handler "console" that is on the root logger before the transaction."""
    handler = Recorder()
    handler.set_name("console")
    restored_logging.addHandler(handler)
    yield handler
    handler.close()


def everything() -> list[tuple[Any, ...]]:
    """Return everything that a configuration can change."""
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    return [
        (each.name, each.level, *each.handlers, *each.filters, each.propagate, each.disabled, each.isEnabledFor(5))
        for each in (logging.root, *known)
        if each.level or each.handlers or each.filters or each.disabled or not each.propagate
    ]


def test_commit_activates_the_new_handlers_and_closes_the_old_ones(old: Recorder) -> None:
    transaction = ConfigTransaction(config())
    assert not old.closed
    transaction.commit()
    new = named("console")
    logging.getLogger("app").debug("hello")
    assert (new.texts, old.texts) == (["hello"], [])
    assert (old.flushed, old.closed, new.closed) == (True, True, False)


def test_after_a_commit_a_name_refers_to_the_new_handler(old: Recorder) -> None:
    ConfigTransaction(config()).commit()
    new = named("console")
    assert new is not None
    assert new is not old
    ConfigTransaction({"version": 1, "incremental": True, "handlers": {"console": {"level": "ERROR"}}}).commit()
    assert new.level == logging.ERROR


def test_rollback_restores_everything(old: Recorder) -> None:
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


def test_rollback_closes_new_handlers_that_no_logger_uses(old: Recorder) -> None:
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


def test_rollback_keeps_a_handler_that_other_code_made_meanwhile(old: Recorder) -> None:
    transaction = ConfigTransaction(config())
    other = Recorder()
    other.set_name("other")
    transaction.rollback()
    assert not other.closed
    assert named("other") is other
    assert named("console") is old
    assert weakref.ref(other) in logging._handlerList  # type: ignore[attr-defined]  # the registry has no public name
    other.close()


def test_rollback_resets_a_logger_that_the_configuration_created(old: Recorder) -> None:
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
def test_an_invalid_configuration_changes_nothing(old: Recorder, wrong: dict[str, Any]) -> None:
    before = everything(), old.level
    with pytest.raises(ValueError, match=r".+"):
        ConfigTransaction(config(**wrong))
    assert (everything(), old.level) == before
    assert not old.closed
    assert named("console") is old


def test_a_configuration_without_a_version_is_rejected(old: Recorder) -> None:
    with pytest.raises(ValueError, match="version"):
        ConfigTransaction({})
    assert old in logging.root.handlers


def test_rollback_restores_what_an_incremental_configuration_changed(old: Recorder) -> None:
    part = {"version": 1, "incremental": True, "handlers": {"console": {"level": "ERROR"}}, "loggers": {"app": {"level": 10}}}
    before = everything()
    transaction = ConfigTransaction(part)
    assert (old.level, logging.getLogger("app").level) == (logging.ERROR, 10)
    transaction.rollback()
    assert old.level == logging.NOTSET
    assert everything() == before


def test_rollback_of_an_incremental_configuration_leaves_other_loggers_alone(old: Recorder) -> None:
    transaction = ConfigTransaction({"version": 1, "incremental": True, "root": {"level": 10}})
    other = logging.getLogger("app.meanwhile")
    other.setLevel(33)
    transaction.rollback()
    assert other.level == 33
    other.setLevel(logging.NOTSET)


def test_an_incremental_configuration_closes_no_handler(old: Recorder, tmp_path: Path) -> None:
    target = Recorder()  # on no logger
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


def test_other_handlers_are_closed_if_one_cannot_be_closed(old: Recorder) -> None:
    stubborn, last = Stubborn(), Recorder()
    for handler in (stubborn, last):
        logging.root.addHandler(handler)
    ConfigTransaction(config()).commit()
    assert (stubborn.closed, last.closed, old.closed) == (True, True, True)
    logging.root.removeHandler(stubborn)


def test_existing_loggers_stay_enabled_by_default(old: Recorder) -> None:
    before = logging.getLogger("made.at.import")
    ConfigTransaction(config()).commit()
    assert not before.disabled
    ConfigTransaction(config(disable_existing_loggers=True)).commit()
    assert before.disabled
    before.disabled = False


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_the_handler_that_forwards_stays_on_the_root_logger(old: Recorder, end: str) -> None:
    forwarding = Forwarding()
    logging.root.addHandler(forwarding)
    transaction = ConfigTransaction(config())
    logging.getLogger("app").warning("prepared")
    getattr(transaction, end)()
    logging.getLogger("app").warning("ended")
    assert forwarding.texts == ["prepared", "ended"]
    assert not forwarding.closed
    assert logging.root.handlers.count(forwarding) == 1


def test_only_the_first_commit_or_rollback_has_an_effect(old: Recorder) -> None:
    committed = ConfigTransaction(config())
    committed.commit()
    new = named("console")
    committed.rollback()
    assert new in logging.root.handlers
    assert not new.closed
    rolled_back = ConfigTransaction(config())
    rolled_back.rollback()
    rolled_back.commit()
    assert not new.closed
    assert new in logging.root.handlers


def test_handlers_that_must_be_closed_at_exit_are_registered(old: Recorder) -> None:
    def known() -> list[logging.Handler | None]:
        return [reference() for reference in logging._handlerList]  # type: ignore[attr-defined]  # has no public name

    transaction = ConfigTransaction(config())
    new = named("console")
    assert {old, new} <= set(known())
    transaction.rollback()
    assert old in known()
    assert new not in known()
