"""``meshlog tail``: help, arguments and start."""

from __future__ import annotations

import argparse
from typing import Final

from .. import argument_types
from ..messages import USAGE, explain, fail, note
from ..parser import Parser

_ABOUT: Final = """\
Print the last records of every rank, in order of time, from the journals of a run. Journals remain after their
processes have ended. This command only reads; the run may be in progress or over."""

_MORE: Final = """\
examples:
  meshlog tail logs                        DIR is the --log-dir of the run
  meshlog tail logs -n 100 --rank 3
  meshlog tail logs --json | jq .message

Journals hold what ranks log through meshlog_handler. What they print is in the files beside the journals: logs/*."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(action=_tail)
    add = parser.add_argument
    add("directory", metavar="DIR", help="directory of the journals")
    add("-n", "--lines", type=argument_types.count, default=20, metavar="LINES", help="records to print per rank (20)")
    add("--rank", type=argument_types.ranks, metavar="RANKS", help="print only these ranks, such as 3 or 0,4-7")
    add("--json", action="store_true", help="print one JSON object per line")


def _tail(options: argparse.Namespace) -> int:
    from ..view.tail import print_tails

    try:
        print_tails(options.directory, options.lines, options.rank, options.json, note)
    except OSError as failure:
        if failure.filename is None:  # it is stdout
            raise
        return fail(f"{explain(failure)}. Name the --log-dir of a run.", USAGE)
    return 0
