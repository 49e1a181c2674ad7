"""``meshlog level``: help, arguments and start."""

from __future__ import annotations

import argparse
from typing import Final

from .. import argument_types
from ..parser import Parser

_ABOUT: Final = """\
Set the level of a logger in the ranks of a run, for some time or until it is set again."""

_MORE: Final = """\
examples:
  meshlog level DEBUG --for 60             everything, for a minute
  meshlog level DEBUG urllib3 --ranks 3    one logger of one rank
  meshlog level INFO --run 4711

It applies to ranks whose programs call meshlog_handler.install() or have a MeshHandler. Without --ranks and --for, ranks that
join later get the level, too."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(action=_level)
    add = parser.add_argument
    add("level", type=argument_types.level, metavar="LEVEL", help="DEBUG, INFO, 10, ...")
    add("logger", nargs="?", metavar="LOGGER", help="the name of the logger (the root logger)")
    add("--ranks", type=argument_types.ranks, metavar="RANKS", help="only these ranks, such as 3 or 0,4-7")
    add("--for", type=argument_types.positive, dest="for_sec", metavar="SEC", help="restore the level after SEC seconds")
    add("--run", metavar="RUN", help="pid, or the beginning of the command, of the run (the only one)")


def _level(options: argparse.Namespace) -> int:
    import logging

    from ...protocol.ranks import format_ranks
    from ..messages import fail
    from ..view.observing import joined

    with joined(options.run) as observer:
        ranks = observer.set_level(options.level, options.logger, options.ranks, options.for_sec)
    if not ranks:
        return fail("no rank has a level to set: their programs have not called meshlog_handler.install()", 1)
    for_time = "" if options.for_sec is None else f" for {options.for_sec:g} s"
    print(f"{options.logger or 'root'} is at {logging.getLevelName(options.level)} in {format_ranks(ranks)}{for_time}")
    return 0
