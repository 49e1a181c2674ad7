"""``meshlog stacks``: help, arguments and start."""

from __future__ import annotations

import argparse
from typing import Final

from .. import argument_types
from ..parser import Parser
from . import add_run

_ABOUT: Final = """\
Print the Python stacks of all ranks of a run, merged: equal stacks are printed once, with their ranks. Ranks that do not
answer are listed with what the system reports of them."""

_MORE: Final = """\
examples:
  meshlog stacks                           the only run
  meshlog stacks --ranks 3,5
  meshlog stacks 4711 --json | jq '.groups[0].frames[-1]'

Ranks answer if their programs call meshlog_handler.install() or have a MeshHandler. On Linux, a rank that is stuck in native
code answers, too."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(action=_stacks)
    add_run(parser)
    add = parser.add_argument
    add("--ranks", type=argument_types.ranks, metavar="RANKS", help="only these ranks, such as 3 or 0,4-7")
    add("--timeout", type=argument_types.seconds, default=5.0, metavar="SEC", help="seconds to wait for ranks (5)")
    add("--json", action="store_true", help="print one JSON object")


def _stacks(options: argparse.Namespace) -> int:
    import json

    from ..view.observing import joined

    with joined(options.run) as observer:
        stacks = observer.stacks(options.ranks, options.timeout)
    print(json.dumps(stacks.to_dict()) if options.json else stacks)
    return 0
