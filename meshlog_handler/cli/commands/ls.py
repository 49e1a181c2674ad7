"""``meshlog ls``: help, arguments and start."""

from __future__ import annotations

import argparse
from typing import Final

from ..messages import note
from ..parser import Parser

_ABOUT: Final = """\
List the running clients of this user on this machine: the processes that show the logs of others. These are meshlog run
and exec, and programs with a LogClient or a MeshHandler."""

_MORE: Final = """\
examples:
  meshlog ls
  meshlog ls --json | jq .pid

columns:
  pid       the process; other commands take it as RUN
  ranks     processes that log; 3/4 if 3 of 4 still run; ? if the client does not answer
  since     when the client was started
  records   records and lines received so far

A client that was started with MESHLOG_OBSERVE=0 is not listed."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(action=_ls)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def _ls(options: argparse.Namespace) -> int:
    import json
    import shutil
    import sys
    import time

    from ...transport.runs import runs
    from ..view.observing import described
    from ..view.tables import table_of_runs

    told = described(runs())
    if options.json:
        for each in told:
            print(json.dumps(each))
    elif told:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(table_of_runs(told, width, time.time()))
    else:
        note("no client of this user runs")
    return 0
