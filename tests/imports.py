"""Finds the modules that a module imports, anywhere in its code, without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

PACKAGE = "meshlog_handler"


class Import(NamedTuple):
    """One imported module. If it is `inside` the package, `name` is relative to it; ``__init__`` is the package itself."""

    line: int
    name: str
    inside: bool
    types_only: bool


def imports(module: str, source: str, modules: set[str], is_package: bool = False) -> Iterator[Import]:
    """Yield the imports of `module`, anywhere in its code, and those by ``import_module`` with a literal name.

    `modules` are the names of all modules of the package.
    """
    here = module.split(".") if is_package else module.split(".")[:-1]
    for node, types_only in _walk(ast.parse(source), False):
        for full in _names(node, [PACKAGE, *here] if module != "__init__" else [PACKAGE], modules):
            first, _, rest = full.partition(".")
            if first == PACKAGE:
                yield Import(node.lineno, _known(rest, modules), True, types_only)
            else:
                yield Import(node.lineno, full, False, types_only)


def _walk(node: ast.AST, types_only: bool) -> Iterator[tuple[ast.stmt | ast.expr, bool]]:
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call)):
        yield node, types_only
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.body:
            yield from _walk(child, True)
        for child in node.orelse:
            yield from _walk(child, types_only)
        return
    for inner in ast.iter_child_nodes(node):
        yield from _walk(inner, types_only)


def _names(node: ast.AST, package: list[str], modules: set[str]) -> Iterator[str]:
    """Yield the full names that a statement imports, as if every imported attribute were a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        inside = origin.partition(".")[0] == PACKAGE
        yield from (f"{origin}.{alias.name}" for alias in node.names) if inside else (origin,)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        name = node.args[0] if node.args else None
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            level = len(name.value) - len(name.value.lstrip("."))
            base = package[: len(package) - level + 1] if level else []
            yield ".".join([*base, name.value.lstrip(".")])


def _known(name: str, modules: set[str]) -> str:
    """Return the module that `name` is, or is an attribute of; return `name` if there is no such module."""
    origin = name
    while "." in origin and origin not in modules:
        origin = origin.rpartition(".")[0]
    if origin in modules:
        return origin
    return name if "." in name else "__init__"
