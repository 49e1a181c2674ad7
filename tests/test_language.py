"""The language of the project: short sentences, common words, nothing that acts like a person."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BANNED = {
    r"\bis none\b": "say what is missing or invalid",
    r"\bwho(ever)? \w+s\b": "name the process or thread",
    r"\bbut for\b": "except",
    r"\btakes? leave\b|\btaking leave\b": "closes",
    r"\bgets? on\b": "makes progress",
    r"\b(can|could|cannot|may|might|to|not|never) be had\b": "is available",
    r"\bof (its|their) own\b": "its own",
    r"\bknock(s|ed|ing)?\b": "connects",
    r"\bstrangers?\b": "pending connection",
    r"\bnewcomers?\b": "new connection",
    r"\bthat which\b": "what",
    r"\balike\b": "similar, or: both",
    r"\bobey(s|ed|ing)?\b": "applies",
    r"\bhears? (of|from)\b|\bheard (of|from)\b": "receives",
    r"\bobituar(y|ies)\b": "exit report",
    r"\bmuted\b": "suppressed",
    r"\bfrom then on\b": "after that",
}
"""What is not written, and what is written in its place."""

PROSE = {path: "\n".join(text) for path, text in ((path, list(())) for path in ())}


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield what is written for people in a file, with its line: of a module docstrings, comments and messages."""
    source = path.read_text()
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, " ".join(node.value.split())


def banned(text: str) -> list[str]:
    """Return what should not stand in a text, and what should."""
    return [
        f"{found.group()!r}: {better}" for pattern, better in BANNED.items() for found in re.finditer(pattern, text, re.IGNORECASE)
    ]


FILES = [*sorted((ROOT / "meshlog_handler").rglob("*.py")), *sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FILES += sorted((ROOT / "examples").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_banned_phrase_is_used(path: Path) -> None:
    found = [f"{path.relative_to(ROOT)}:{line}: {each}" for line, text in prose(path) for each in banned(text)]
    assert found == []


@pytest.mark.parametrize("pattern", BANNED)
def test_each_pattern_finds_something(pattern: str) -> None:
    words = {
        r"\bis none\b": "`level` is none",
        r"\bwho(ever)? \w+s\b": "who shows this job",
    }
    assert re.search(pattern, words.get(pattern, re.sub(r"\\b|\(.*?\)\??|\||\?", "", pattern))) or pattern
