"""SECURITY.md names a test for each line of its tables, and the bounds that it gives are those of the code."""

from __future__ import annotations

import ast
import importlib
import re
from functools import lru_cache
from pathlib import Path

import pytest

from .procs import ROOT

pytestmark = pytest.mark.docs

TEXT = Path(ROOT, "SECURITY.md").read_text()
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
NAMED = sorted(set(TEST.findall(TEXT)))
UNITS = {"": 1, "s": 1, "characters": 1, "KiB": 1 << 10, "MiB": 1 << 20}


def table(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its first two rows."""
    rows = re.findall(r"^\| (.*) \|$", TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0], re.MULTILINE)
    return [row.split(" | ") for row in rows[2:]]


@lru_cache
def functions_of(path: str) -> frozenset[str]:
    """Return the names of the test functions in a file."""
    tree = ast.parse(Path(ROOT, path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_named_test_exists(path: str, name: str) -> None:
    assert name in functions_of(path)


@pytest.mark.parametrize("heading", ["Whom the package trusts", "Bounds"])
def test_each_line_of_a_table_names_a_test(heading: str) -> None:
    rows = table(heading)
    assert len(rows) > 10
    assert [row for row in rows if not TEST.search(row[-1])] == []


@pytest.mark.parametrize("row", table("Bounds"), ids=lambda row: row[0])
def test_a_bound_is_that_of_the_code(row: list[str]) -> None:
    _, bound, constant, _ = row
    number, _, unit = bound.partition(" ")
    module, _, name = constant.strip("`").rpartition(".")
    assert getattr(importlib.import_module(f"meshlog_handler.{module}"), name) == int(number) * UNITS[unit]
