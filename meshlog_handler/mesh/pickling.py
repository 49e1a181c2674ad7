"""Functions, arguments and results as bytes, between a client and the procs that it started.

This module uses dill, through the pickler of `multiprocess`, with four differences:

- A function that cannot be imported (from ``__main__``, a lambda, a closure) is pickled with the globals that its code
  names. dill's own search replaces ``sys.stdout`` while it prints the disassembly, which captures output of other threads,
  and it does not end for functions that call each other.
- In a proc, such functions of one module share their globals, so that ``global model`` set in one call exists in the next.
  A global that the client knows is sent with every call, with its value in the client.
- A class that cannot be imported is created once in a process and has one identity on both sides, so that ``except`` and
  ``isinstance`` in the client work with returned objects.
- Code is pickled by `marshal`, and annotations that cannot be evaluated as strings.
"""

from __future__ import annotations

import dis
import enum
import importlib
import io
import itertools
import marshal
import os
import pickle
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from ..errors import quoted
from . import start_methods
from .rpc import name_of

if sys.version_info >= (3, 14):
    import annotationlib

_ForkingPickler: Any = start_methods.reduction().ForkingPickler
_dill: Any = importlib.import_module("dill._dill")  # the pickler of multiprocess, already imported by it

# Opcodes that name a global. In a class body, every name that the body does not set is a global.
_GLOBAL_OPS: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_GLOBAL"})
_RLOCK: Final = type(threading.RLock())
_FILES: Final = (io.RawIOBase, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)


def dumps(value: Any) -> bytes:
    """Pickle anything that dill supports, functions and classes of ``__main__`` by value. May raise anything. Thread-safe."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def dumps_call(fn: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Pickle a call for any number of procs. Raise `TypeError` if `fn` is not callable or anything cannot be pickled."""
    if not callable(fn):
        raise TypeError(f"{quoted(fn)} is not callable. Pass a function and then its arguments, as in call(print, 'hello').")
    try:
        return dumps((fn, tuple(args), dict(kwargs)))
    except Exception as error:
        raise TypeError(
            f"{name_of(fn)} cannot be sent to the procs with its arguments and the outer variables that it uses "
            f"({type(error).__name__}: {error}). Locks, open files and connections cannot be pickled: create them in the "
            f"function."
        ) from error


def dumps_result(value: Any) -> bytes:
    """Pickle a result for the client: as `dumps`, but fast if everything in it can be imported."""
    try:
        # What the C pickler pickles by name here exists in the client under the same name, because the client started the proc.
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:
        return dumps(value)


def loads(data: bytes | bytearray) -> Any:
    """Return the value given to `dumps` or `dumps_result`. May raise anything."""
    # `ignore`: dill must not replace the class of an object by a class of the same name in __main__.
    return _dill.Unpickler(io.BytesIO(data), ignore=True).load()


def share_globals() -> None:
    """From now on, let functions loaded in this process share their globals, by module. For procs."""
    global _shared
    _shared = {}


class _Pickler(_ForkingPickler):  # type: ignore[misc]  # multiprocess comes without types
    """A single pickle.

    ``_postproc`` of dill maps the id of an object to what dill writes after the object is created.
    """

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self._namespaces: dict[int, _Namespace] = {}
        self._unfinished_classes: list[int] = []

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        kind = type(obj)
        if kind is types.FunctionType:
            if id(obj) not in self.memo and not _dill._locate_function(obj, self):
                self._save_function(obj)
                return
        elif issubclass(kind, type) and id(obj) not in self.memo:
            key = _received.get(obj)
            if key is not None:
                self.save_reduce(_class_of, (key,), obj=obj)
                return
            if issubclass(kind, enum.EnumMeta) and not _dill._locate_function(obj, self):
                self._save_enum(obj)
                return
        elif kind is types.CodeType and id(obj) not in self.memo:
            # The procs run the same Python. dill reads `co_lnotab`, which Python 3.15 does not have.
            self.save_reduce(marshal.loads, (marshal.dumps(obj),), obj=obj)
            return
        elif kind is typing.TypeVar and id(obj) not in self.memo and not _is_importable(obj):
            form = obj.__bound__, obj.__covariant__, obj.__contravariant__
            self.save_reduce(_make_type_var, (obj.__name__, obj.__constraints__, *form), obj=obj)
            return
        elif sys.version_info >= (3, 14) and kind is annotationlib.ForwardRef and id(obj) not in self.memo:
            # The annotation of a field that names its own class. Its state has all globals of the module.
            self.save_reduce(annotationlib.ForwardRef, (obj.__forward_arg__,), obj=obj)
            return
        elif kind is _RLOCK and id(obj) not in self.memo:
            # dill recreates an RLock locked, for good. Each functools.cached_property of Python 3.10 and 3.11 has one.
            self.save_reduce(threading.RLock, (), obj=obj)
            return
        elif isinstance(obj, types.ModuleType) and sys.modules.get(obj.__name__) is obj:
            # dill pickles the contents of a module, unless it is installed with Python.
            self.save_reduce(importlib.import_module, (obj.__name__,), obj=obj)
            return
        elif isinstance(obj, _FILES) and isinstance(getattr(obj, "name", None), int):
            # dill would open, and later close, an unrelated file with the same descriptor in the other process.
            raise TypeError(f"an open file without a path cannot be pickled: {obj!r}")
        super().save(obj, save_persistent_id)

    def save_reduce(self, func: Any, args: Any, *rest: Any, obj: Any = None, **options: Any) -> None:
        if func not in _CLASS_MAKERS or not isinstance(obj, type):
            super().save_reduce(func, args, *rest, obj=obj, **options)
            return
        self._unfinished_classes.append(id(obj))
        super().save_reduce(_make_class, (_key_of(obj), func, *args), *rest, obj=obj, **options)
        self._unfinished_classes.pop()

    def _save_enum(self, cls: type[enum.Enum]) -> None:
        members: dict[str, Any] = {name: member._value_ for name, member in cls.__members__.items()}
        own = {name: value for name, value in vars(cls).items() if _is_method_of(value, cls.__module__)}
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, **own, **members}
        reduction = _make_enum, (type(cls), cls.__name__, cls.__bases__, names)
        _dill._save_with_postproc(self, reduction, obj=cls)

    def _save_function(self, function: types.FunctionType) -> None:
        namespace = self._namespaces.get(id(function.__globals__))
        if namespace is None:
            namespace = self._namespaces[id(function.__globals__)] = _Namespace(function.__module__ or "__main__")
        names = _globals_of(function.__code__) - namespace.sent
        used = {name: _imported(function.__globals__[name]) for name in sorted(names) if name in function.__globals__}
        namespace.sent.update(used)
        state = {
            name: value
            for name in ("__doc__", "__kwdefaults__", "__module__", "__qualname__", "__type_params__")
            if (value := getattr(function, name, None))
        }
        later: list[Any] = []
        # A method can name its class or an instance of it. Such globals are set after the outermost class is created, as are
        # annotations: from Python 3.14 on, they can name the class, too.
        where = self._postproc[self._unfinished_classes[0]] if self._unfinished_classes else later
        where.append((_dill._setitems, (namespace, used)))
        if annotations := _annotations_of(function):
            where.append((setattr, (function, "__annotations__", annotations)))
        code, name, defaults = function.__code__, function.__name__, function.__defaults__
        _dill._save_with_postproc(
            self,
            (_dill._create_function, (code, namespace, name, defaults, function.__closure__), (function.__dict__, state)),
            obj=function,
            postproc_list=later,
        )


class _Namespace:
    """A placeholder for the globals of a module in a pickle. Loads as a dictionary."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.sent: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return _namespace, (self.module,)


_shared: dict[str, dict[str, Any]] | None = None


def _namespace(module: str) -> dict[str, Any]:
    if _shared is None:
        return {"__name__": module}
    return _shared.setdefault(module, {"__name__": module})


def _imported(value: Any) -> Any:
    """Return the value of a global, also if it is a lazy import, which Python 3.15 has."""
    if sys.version_info >= (3, 15) and isinstance(value, types.LazyImportType):
        return value.resolve()
    return value


def _annotations_of(function: types.FunctionType) -> dict[str, Any]:
    """Return the annotations; as strings if they cannot be evaluated."""
    if sys.version_info >= (3, 14):
        try:
            return function.__annotations__
        except Exception:  # they are evaluated only now, and can name what only a type checker imports
            return annotationlib.get_annotations(function, format=annotationlib.Format.STRING)
    return function.__annotations__


def _is_importable(variable: typing.TypeVar) -> bool:
    """Return whether a type variable can be pickled by name. Those of ``def f[T]`` cannot."""
    module = sys.modules.get(variable.__module__)
    return variable.__module__ != "__main__" and getattr(module, variable.__name__, None) is variable


_known_globals: weakref.WeakKeyDictionary[types.CodeType, frozenset[str]] = weakref.WeakKeyDictionary()


def _globals_of(code: types.CodeType) -> frozenset[str]:
    """Return the global names that `code`, and code defined in it, looks up."""
    names = _known_globals.get(code)
    if names is None:
        names = _known_globals[code] = frozenset(_walk_globals(code))
    return names


def _walk_globals(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL_OPS:
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _walk_globals(constant)


# -- classes -----------------------------------------------------------------------------------------------------------

# `_classes` and `_keys` are never cleared: a class that was sent may be returned at any time.
_classes: dict[str, type] = {}
_keys: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_received: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_numbers = itertools.count()


def _key_of(cls: type) -> str:
    """Return the key of a class that is pickled by value; the same key each time."""
    key = _keys.get(cls)
    if key is None:
        # Two threads may create a key at the same time; both keys lead to the class. No lock: a fork could copy it locked.
        key = f"{os.getpid()}-{os.urandom(6).hex()}-{next(_numbers)}"
        _classes[key] = cls
        key = _keys.setdefault(cls, key)
    return key


def _class_of(key: str) -> type:
    """Return a class that this process has sent or received."""
    try:
        return _classes[key]
    except KeyError:
        raise LookupError(
            "unknown class: this process has neither sent nor received it. Was the process forked meanwhile?"
        ) from None


def _is_method_of(value: object, module: str) -> bool:
    if isinstance(value, property):
        value = value.fget
    function = getattr(value, "__func__", value)  # a classmethod or staticmethod
    return isinstance(function, types.FunctionType) and function.__module__ == module


def _make_enum(kind: type[enum.EnumMeta], name: str, bases: tuple[type, ...], names: dict[str, Any]) -> enum.EnumMeta:
    namespace = kind.__prepare__(name, bases)
    for each, value in names.items():
        namespace[each] = value
    return kind(name, bases, namespace)


def _make_type_var(name: str, constraints: tuple[Any, ...], bound: Any, co: bool, contra: bool) -> Any:
    return typing.TypeVar(name, *constraints, bound=bound, covariant=co, contravariant=contra)


_CLASS_MAKERS: Final = (_dill._create_type, _dill._create_namedtuple, types.new_class, _make_enum)


def _make_class(key: str, maker: Any, *args: Any) -> type:
    """Return the class with this key; create it if this process has not seen it."""
    cls = _classes.get(key)
    if cls is None:
        cls = _classes.setdefault(key, maker(*args))
        _keys[cls] = _received[cls] = key
    return cls
