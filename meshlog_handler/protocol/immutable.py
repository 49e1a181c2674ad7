"""Immutable classes with named fields. They replace `dataclasses`, which took half of a worker's start time. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # only type checkers need it, and its module takes longer to import than this one

    def dataclass_transform(**_: object) -> Callable[[type], type]:
        """Return a decorator that does nothing."""
        return lambda kind: kind


F = TypeVar("F", bound="Immutable")


class _ImmutableType:
    """The default of a field that each object creates anew."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], object]) -> Any:
    """Return a default that each object creates anew."""
    return _ImmutableType(default_factory)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Immutable:
    """Base of classes whose fields are their annotations without ``ClassVar``. It needs deferred annotations."""

    names: ClassVar[tuple[str, ...]] = ()  # of the fields, inherited ones first
    secret: ClassVar[frozenset[str]] = frozenset()  # fields that `repr` omits

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = (name for name, kind in cls.__annotations__.items() if not kind.startswith("ClassVar"))
        cls.names = tuple(dict.fromkeys((*cls.names, *own)))

    def __init__(self, *values: object, **named: object) -> None:
        names, kind = self.names, type(self)
        given = dict(zip(names, values, strict=False))
        if len(values) > len(names) or given.keys() & named or named.keys() - set(names):
            raise TypeError(f"{kind.__name__} takes {', '.join(names) or 'nothing'}, each once")
        given |= named
        for name in names:
            if name in given:
                value = given[name]
            else:
                try:
                    default = getattr(kind, name)
                except AttributeError:
                    raise TypeError(f"{kind.__name__} lacks {name}") from None
                value = default.make() if isinstance(default, _ImmutableType) else default
            object.__setattr__(self, name, value)

    def replaced(self: F, **changes: Any) -> F:
        """Return a copy with some fields changed."""
        return type(self)(**{**self.fields(), **changes})

    def fields(self) -> dict[str, Any]:
        """Return the fields by name, in their order."""
        return {name: getattr(self, name) for name in self.names}

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return self.fields() == other.fields() if type(other) is type(self) and isinstance(other, Immutable) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *self.fields().values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.fields().items() if name not in self.secret)
        return f"{type(self).__name__}({shown})"
