"""A change of the whole logging configuration that can be rolled back.

`logging.config.dictConfig` closes every handler before it reads the new configuration, and stops half-way at the first error.
Here the old handlers stay open until the change is final.
"""

from __future__ import annotations

import contextlib
import logging
import logging.config
import weakref
from collections.abc import Iterable
from typing import Any

_LoggerState = tuple[int, list[logging.Handler], list[Any], bool, bool]


class ConfigTransaction:
    """Applies a `dictConfig` dictionary; the first call of `commit` or `rollback` ends the transaction."""

    # Any thread may use it, one thread at a time. If `dictConfig` raises, the constructor restores everything and raises the
    # same. ``disable_existing_loggers`` is False unless `config` sets it: loggers made at import, before the command arrived,
    # must keep working. If the root logger had a handler whose attribute ``forwards`` is true, it has one afterwards.

    def __init__(self, config: dict[str, Any]) -> None:
        self._open = True
        root = logging.getLogger()
        keep = [handler for handler in root.handlers if getattr(handler, "forwards", False)]
        with _module_lock():
            self._disable = root.manager.disable
            self._loggers: dict[str | None, _LoggerState] = {None: _state(root)}
            self._loggers.update((name, _state(each)) for name, each in _all_loggers().items())
            self._handlers = dict(logging._handlers.items())  # type: ignore[attr-defined]  # the registry has no public name
            self._handler_list = list(logging._handlerList)  # type: ignore[attr-defined]  # the registry has no public name
            self._incremental = bool(config.get("incremental"))
            self._named = {*(config.get("loggers") or ()), *({"root"} & config.keys())} if self._incremental else None
            self._levels = [(handler, handler.level) for handler in _alive(self._handler_list)]
            if not self._incremental:
                _set_registry({}, [])
            self._made: list[logging.Handler] = []
            try:
                # As `dictConfig` does. The configurator keeps handlers that no logger uses alive until `_new` has found them.
                configurator = logging.config.dictConfigClass({"disable_existing_loggers": False, **config})
                configurator.configure()
            except BaseException:
                self._made = self._new()
                self.rollback()
                raise
            self._made = self._new()
            if not self._incremental:
                # The old handlers stay in the registry, so that they are closed at exit if the change is rolled back.
                _set_registry(
                    {**self._handlers, **dict(logging._handlers.items())},  # type: ignore[attr-defined]  # as above
                    self._handler_list + list(logging._handlerList),  # type: ignore[attr-defined]  # as above
                )
            if not any(getattr(handler, "forwards", False) for handler in root.handlers):
                for handler in keep:
                    root.addHandler(handler)

    def commit(self) -> None:
        """Close the old handlers that no logger uses any longer. An incremental configuration replaces no handlers."""
        if not self._open:
            return
        self._open = False
        self._made.clear()
        if self._incremental:
            return
        with _module_lock():
            self._close_unused()

    def _close_unused(self) -> None:
        used = {id(handler) for each in (logging.getLogger(), *_all_loggers().values()) for handler in each.handlers}
        unused = [handler for handler in _alive(self._handler_list) if id(handler) not in used]
        names = logging._handlers  # type: ignore[attr-defined]  # as above
        named = {name: handler for name, handler in names.items() if not any(handler is each for each in unused)}
        _close(unused)
        names.update(named)  # closing a handler removes its name from the registry, even if a new handler has it

    def rollback(self) -> None:
        """Restore everything."""
        if not self._open:
            return
        self._open = False
        with _module_lock():
            self._restore()

    def _restore(self) -> None:
        root = logging.getLogger()
        root.manager.disable = self._disable
        for name, each in self._changeable().items():
            state = self._loggers.get(name)
            if state is None:
                state = (logging.NOTSET, [], [], True, False)  # created by the configuration: as getLogger creates it
            each.setLevel(state[0])
            each.handlers[:], each.filters[:] = state[1], state[2]
            each.propagate, each.disabled = state[3], state[4]
        if self._incremental:
            for handler, level in self._levels:
                handler.level = level
        _close(self._made)
        # After closing, which removes names. Handlers that other code made since then stay in the registry.
        since = {id(handler): handler for handler in self._new()}
        for handler in self._made:
            since.pop(id(handler), None)
        names = logging._handlers.items()  # type: ignore[attr-defined]  # as above
        references = logging._handlerList  # type: ignore[attr-defined]  # as above
        _set_registry(
            {**self._handlers, **{name: handler for name, handler in names if id(handler) in since}},
            [*self._handler_list, *(reference for reference in references if id(reference()) in since)],
        )
        self._made.clear()

    def _changeable(self) -> dict[str | None, logging.Logger]:
        """Return the loggers that the configuration may have changed. An incremental one changes only those that it names."""
        loggers = {None: logging.getLogger(), **_all_loggers()}
        return {name: each for name, each in loggers.items() if self._named is None or each.name in self._named}

    def _new(self) -> list[logging.Handler]:
        """Return the handlers made since the transaction began."""
        old = {id(handler) for handler in _alive(self._handler_list)}
        known = _alive(logging._handlerList)  # type: ignore[attr-defined]  # as above
        return [handler for handler in known if id(handler) not in old]


def _module_lock() -> contextlib.AbstractContextManager[object]:
    lock: contextlib.AbstractContextManager[object] = logging._lock  # type: ignore[attr-defined]  # dictConfig takes the same
    return lock


def _alive(references: Iterable[weakref.ref[logging.Handler]]) -> list[logging.Handler]:
    return [handler for reference in tuple(references) if (handler := reference()) is not None]


def _close(handlers: Iterable[logging.Handler]) -> None:
    for handler in handlers:
        with contextlib.suppress(Exception):  # incomplete, or its stream is closed: nothing to save
            handler.flush()
        with contextlib.suppress(Exception):  # incomplete, or closed already
            handler.close()


def _all_loggers() -> dict[str | None, logging.Logger]:
    return {
        name: each for name, each in tuple(logging.getLogger().manager.loggerDict.items()) if isinstance(each, logging.Logger)
    }


def _state(logger: logging.Logger) -> _LoggerState:
    return logger.level, list(logger.handlers), list(logger.filters), logger.propagate, logger.disabled


def _set_registry(handlers: dict[str, logging.Handler], handler_list: list[weakref.ref[logging.Handler]]) -> None:
    registry = logging._handlers  # type: ignore[attr-defined]  # as above
    registry.clear()
    registry.update(handlers)
    logging._handlerList[:] = handler_list  # type: ignore[attr-defined]  # as above
