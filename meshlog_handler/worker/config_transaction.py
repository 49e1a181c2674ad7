"""A change of the whole logging configuration that can be undone.

`logging.config.dictConfig` closes every handler there is before it reads the new ones, and stops half-way at the first
mistake. Here the old handlers stay open until the change is final.
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
    """Applies a `dictConfig` dictionary; `commit` or `rollback` ends it, whichever comes first.

    Any thread, one at a time. Raises in the constructor what `dictConfig` raises, with everything as it was before.

    Parameters
    ----------
    config : dict
        As for `logging.config.dictConfig`, but ``disable_existing_loggers`` is False unless it is given: loggers made
        at import, before the message came, must go on.

    Notes
    -----
    Where the root logger had a handler with a true attribute ``forwards``, it has one afterwards, whatever the
    configuration says.
    """

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
            self._levels = [(handler, handler.level) for handler in _alive(self._handler_list)]
            if not self._incremental:
                _set_registry({}, [])
            self._made: list[logging.Handler] = []
            try:
                # What `dictConfig` does. It holds the handlers that no logger uses, which would go without being closed.
                configurator = logging.config.dictConfigClass({"disable_existing_loggers": False, **config})
                configurator.configure()
            except BaseException:
                self._made = self._new()
                self.rollback()
                raise
            self._made = self._new()
            if not self._incremental:
                # The old ones stay known, so that they are closed at exit if the change is undone.
                _set_registry(
                    {**self._handlers, **dict(logging._handlers.items())},  # type: ignore[attr-defined]  # as above
                    self._handler_list + list(logging._handlerList),  # type: ignore[attr-defined]  # as above
                )
            if not any(getattr(handler, "forwards", False) for handler in root.handlers):
                for handler in keep:
                    root.addHandler(handler)

    def commit(self) -> None:
        """Close the handlers that no logger uses any longer. An incremental configuration replaces none."""
        if not self._open:
            return
        self._open = False
        self._made.clear()
        if self._incremental:
            return
        with _module_lock():
            used = {id(handler) for each in (logging.getLogger(), *_all_loggers().values()) for handler in each.handlers}
            unused = [handler for handler in _alive(self._handler_list) if id(handler) not in used]
            names = logging._handlers  # type: ignore[attr-defined]  # as above
            named = {name: handler for name, handler in names.items() if not any(handler is each for each in unused)}
            _close(unused)
            names.update(named)  # a handler that closes takes its name out of the registry, whoever bears it now

    def rollback(self) -> None:
        """Put everything back as it was."""
        if not self._open:
            return
        self._open = False
        with _module_lock():
            root = logging.getLogger()
            root.manager.disable = self._disable
            for name, each in {None: root, **_all_loggers()}.items():
                state = self._loggers.get(name)
                if state is None:
                    state = (logging.NOTSET, [], [], True, False)  # made by the configuration: as getLogger makes one
                each.setLevel(state[0])
                each.handlers[:], each.filters[:] = state[1], state[2]
                each.propagate, each.disabled = state[3], state[4]
            if self._incremental:
                for handler, level in self._levels:
                    handler.level = level
            _close(self._made)
            # After it: to close takes a name out. What others have made since stays known.
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

    def _new(self) -> list[logging.Handler]:
        """Return the handlers that there were not before."""
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
        with contextlib.suppress(Exception):  # half made, or its stream is closed: there is nothing left to keep
            handler.flush()
        with contextlib.suppress(Exception):  # as above
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
