"""CopyableHandler: how a MeshHandler is copied and pickled. The copy shows its records by the handlers of the original."""

from __future__ import annotations

import copy
import logging
import os
import weakref
from typing import Any, Final, TypeVar

from ..worker.record_stream import OnFull
from .sink import Sink
from .sinks import Route

_Copied = TypeVar("_Copied", bound="CopyableHandler")

NAMED_HANDLERS: Final[Any] = vars(logging)["_handlers"]
"""The handlers by name, as `logging` keeps them."""

_copied_sinks: Final[weakref.WeakValueDictionary[str, Sink]] = weakref.WeakValueDictionary()
"""The sinks of handlers that were copied or pickled, for copies in this process and in processes that are forked from it."""

_ATTRIBUTES: Final = frozenset(
    [
        "_closed",
        "_name",
        "_of_job",
        "_on_full",
        "_ordinal",
        "_replaced",
        "_show",
        "filters",
        "formatter",
        "level",
        "lock",
        "made",
        "record_stream",
        "route",
        "sink",
    ]
)
"""The attributes of every MeshHandler. All others are copied: subclasses and programs have added them."""


class CopyableHandler(logging.Handler):
    """The base of `MeshHandler`, which can be copied and pickled."""

    sink: Sink | None
    route: Route
    _on_full: OnFull
    _ordinal: str | None

    def _client_address(self) -> str | None:
        """Return the address of the client that a copy in another process joins."""
        raise NotImplementedError

    def _begin_as_copy(
        self, level: int, on_full: OnFull, client: tuple[str | None, Route], sink: Sink | None, ordinal: str | None
    ) -> None:
        """Take the place of `__init__` in a copy."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        address, token = self._client_address(), None
        if self.sink is not None:
            token = f"{os.getpid()}:{id(self.sink)}:{self._ordinal}"
            _copied_sinks[token] = self.sink
        theirs = None if self.sink is not None else self.formatter  # the client's handlers use it, where there is a sink
        route = self.route if self.sink is None else self.name or self._ordinal
        arguments = type(self), self.level, self._on_full, (address, route), token, theirs, tuple(self.filters)
        return _load, arguments, {"name": self.name, **self._more()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the name and what a subclass has added: a copy has them from the original."""
        name = state.pop("name", None)
        vars(self).update(state)
        if name is not None and name not in NAMED_HANDLERS:
            super().set_name(name)  # not that of `MeshHandler`: the route stays
        else:
            vars(self)["_name"] = name  # the name stays that of the original

    def _more(self) -> dict[str, Any]:
        """Return the attributes that subclasses and programs have added."""
        return {name: value for name, value in vars(self).items() if name not in _ATTRIBUTES}

    def __copy__(self: _Copied) -> _Copied:
        load, arguments, state = self.__reduce__()
        made: _Copied = load(*arguments)
        made.__setstate__(state)
        vars(made)["formatter"] = self.formatter
        return made

    def __deepcopy__(self: _Copied, memo: dict[int, Any]) -> _Copied:
        made = memo[id(self)] = self.__copy__()
        vars(made).update(copy.deepcopy(self._more(), memo))
        return made


def _load(
    kind: type[_Copied],
    level: int,
    on_full: OnFull,
    client: tuple[str | None, Route],
    token: str | None,
    formatter: logging.Formatter | None,
    filters: tuple[Any, ...],
) -> _Copied:
    """Return the copy that `CopyableHandler.__reduce__` describes."""
    made = kind.__new__(kind)
    sink = None if token is None else _copied_sinks.get(token)
    made._begin_as_copy(level, on_full, client, sink, token and token.rpartition(":")[2])
    if formatter is not None:
        made.setFormatter(formatter)
    for each in filters:
        made.addFilter(each)
    return made
