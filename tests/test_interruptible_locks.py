"""No ``with`` statement keeps its lock when a signal handler raises, not even at the end of a loop.

From Python 3.13, a signal handler may run at the jump back to the start of a loop. Python's exception table has no entry for it
if the body of the loop ends in a condition. What the handler raises there leaves a ``with`` statement around the loop without a
call of ``__exit__``. In a function of its own, the loop does no harm.
"""

from __future__ import annotations

import ast
import dis
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import meshlog_handler

PACKAGE = Path(meshlog_handler.__file__).parent


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def keeps_something(statement: ast.With) -> bool:
    """Whether a ``with`` statement is one of a lock or an ExitStack."""
    return any(
        not isinstance(item.context_expr, ast.Call) or ast.unparse(item.context_expr).endswith(("lock()", "ExitStack()"))
        for item in statement.items
    )


def unsafe_lines(source: str) -> list[int]:
    """Return the lines in ``with`` statements at which what a signal handler raises passes by the statement."""
    bodies = [
        range(node.body[0].lineno, (node.body[-1].end_lineno or 0) + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.With) and keeps_something(node)
    ]
    found = []
    for code in codes(compile(source, "<source>", "exec")):
        own = [body for body in bodies if code.co_firstlineno < body.start]
        table: Any = dis._parse_exception_table(code)  # type: ignore[attr-defined]  # no public name
        instructions: Any = dis.get_instructions(code)  # typed as in Python 3.10
        found += [
            line
            for each in instructions
            if each.opname == "JUMP_BACKWARD"
            and (line := each.positions.lineno) is not None
            and any(line in body for body in own)
            and not any(entry.start <= each.offset < entry.end for entry in table)
        ]
    return sorted(set(found))


pytestmark = pytest.mark.skipif(sys.version_info < (3, 13), reason="a loop is interrupted elsewhere")


def test_no_loop_in_a_with_statement_of_a_lock_can_leave_it_locked() -> None:
    files = {str(path.relative_to(PACKAGE)): unsafe_lines(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    assert {name: lines for name, lines in files.items() if lines} == {}


def test_the_check_finds_such_a_loop() -> None:
    source = "def drop(self, unwanted):\n with self.lock:\n  self.all = {each for each in self.all if each is not unwanted}\n"
    assert unsafe_lines(source) == [3]
