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
    # pattern: what is written instead, and a text in which it is found
    r"\b(?-i:is none)\b": ("say what is missing or invalid", "if the level is none"),
    r"\bwho(ever)? \w+s\b": ("name the process or thread", "who shows this job"),
    r"\bbut for\b": ("except for", "all but for one"),
    r"\b(take|takes|taking|took) leave\b": ("close, or clean up", "take leave of the dead"),
    r"\bgets? on\b": ("makes progress", "it gets on"),
    r"\b(?<!would )(?<!must )(can|could|cannot|may|might|never|not) be had\b": ("is available", "what can be had"),
    r"\bof (its|their) own\b": ("its own", "a thread of its own"),
    r"\bknock(s|ed|ing)?\b": ("connects", "where they knock"),
    r"\bstrangers?\b": ("pending connection", "a stranger at the door"),
    r"\bnewcomers?\b": ("new connection, or new process", "a newcomer"),
    r"\bthat which\b": ("what", "that which is new"),
    r"\balike\b": ("similar, or: both", "what is alike"),
    r"\bobey(s|ed|ing)?\b": ("applies, carries out", "all have obeyed"),
    r"\bhear(s|d)? (of|from)\b": ("receives", "to hear of its end"),
    r"\bobituar(y|ies)\b": ("exit report", "the obituary"),
}


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
    found = [(match.group(), better) for pattern, (better, _) in BANNED.items() for match in re.finditer(pattern, text, re.I)]
    return [f"{words!r}: {better}" for words, better in found]


FILES = [*sorted((ROOT / "meshlog_handler").rglob("*.py")), *sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FILES += sorted((ROOT / "examples").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_banned_phrase_is_used(path: Path) -> None:
    found = [f"{path.relative_to(ROOT)}:{line}: {each}" for line, text in prose(path) for each in banned(text)]
    assert found == []


@pytest.mark.parametrize("sample", [sample for _, sample in BANNED.values()])
def test_a_banned_phrase_is_found(sample: str) -> None:
    assert banned(sample)


def test_other_phrases_are_not() -> None:
    assert banned("if `level` is None: the client, which shows it, closes both connections") == []
