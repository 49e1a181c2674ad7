"""Which extras a format needs as objects."""

from __future__ import annotations

import logging

import pytest

from meshlog_handler.output.needed_extras import needed_extras


@pytest.mark.parametrize(
    ("style", "fmt", "names"),
    [
        ("%", "%(levelname)-8s %(lineno)d %(rank)d %(message)s", set()),
        ("%", "%(user)s %(seconds).3f %(path)r %(user)10.4s %%(no)d", {"seconds", "path"}),
        ("{", "{levelname:>8} {rank:03d} {user!s:>5} {message}", set()),
        ("{", "{user.name} {items[0]} {when:%Y} {path!r} {plain}", {"user", "items", "when", "path", "plain"}),
        ("$", "$user ${path} $message", set()),
        ("{", "{message", set()),
    ],
)
def test_a_format_needs_those_of_which_it_uses_more_than_the_text(style: str, fmt: str, names: set[str]) -> None:
    formatter = logging.Formatter(fmt, style=style, validate=False)  # type: ignore[arg-type]
    assert needed_extras(formatter) == names


def test_another_object_needs_none() -> None:
    assert needed_extras(object()) == needed_extras(None) == frozenset()
