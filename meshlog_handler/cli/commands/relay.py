"""``meshlog relay``: help and start. ``meshlog on`` starts it."""

from __future__ import annotations

import argparse
from typing import Final

from ..messages import explain, fail
from ..parser import Parser

_ABOUT: Final = """\
Run a command on this host for "meshlog on" on another host, which starts it through ssh. What to run comes from stdin;
stdout carries records. There are no arguments."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description = _ABOUT
    parser.set_defaults(action=_relay)


def _relay(options: argparse.Namespace) -> int:
    from ..launch.relay import relay

    try:
        return relay()
    except EOFError:
        return fail("stdin is empty. Start this command by meshlog on HOST -- COMMAND", 1)
    except OSError as failure:
        return fail(explain(failure), 1)
