"""``meshlog top``: help, arguments and start."""

from __future__ import annotations

import argparse
from typing import Final

from .. import argument_types
from ..parser import Parser
from . import add_run

_ABOUT: Final = """\
Show the ranks of a run in a table that is updated. Ranks with trouble come first: dead, unreachable (their relay does
not answer), stopped, with errors, silent, behind the others."""

_MORE: Final = """\
examples:
  meshlog top                              the only run, live
  meshlog top 4711 --interval 5
  meshlog top --once | head -20
  meshlog top --json | jq '.ranks["3"]'

keys:
  q quit    s sort by trouble, rank, rate, last seen, records    arrows, page up, page down: scroll

columns:
  seen      since the last record or line of the rank
  rate      records and lines per second, lately
  progress  the latest numbers that grow, such as steps and progress bars

The live table needs rich: pip install 'meshlog_handler[top]'. Without it, or without a terminal, the table is printed
once. The keys of --json are those of Insight.to_dict(); with --interval, it prints an object per interval."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(action=_top)
    add_run(parser)
    add = parser.add_argument
    add("--once", action="store_true", help="print the table once")
    add("--json", action="store_true", help="print it as a JSON object")
    add("--interval", type=argument_types.positive, metavar="SEC", help="seconds between updates (1)")


def _top(options: argparse.Namespace) -> int:
    from ..view.observing import joined
    from ..view.top import can_be_live, print_once, print_repeatedly, show_live

    with joined(options.run) as observer:
        if options.json and options.interval is not None and not options.once:
            print_repeatedly(observer, options.interval)
        elif options.once or options.json or not can_be_live():
            print_once(observer, as_json=options.json)
        else:
            show_live(observer, options.interval or 1.0)
    return 0
