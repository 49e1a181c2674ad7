"""``meshlog flush``: help, arguments and start."""

from __future__ import annotations

import argparse
from typing import Final

from .. import argument_types
from ..messages import explained
from ..parser import Parser
from . import add_run

_ABOUT: Final = """\
Wait until everything that the ranks of a run have logged and printed so far is shown, and print the receipt."""

_MORE: Final = """\
examples:
  meshlog flush
  meshlog flush 4711 --timeout 30
  meshlog flush --json | jq .missing

The exit code is 1 if ranks did not answer in time. The error names them."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(action=_flush)
    add_run(parser)
    add = parser.add_argument
    add("--timeout", type=argument_types.seconds, default=5.0, metavar="SEC", help="seconds to wait for ranks (5)")
    add("--json", action="store_true", help="print the receipt as a JSON object")


def _flush(options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from ...errors import FlushTimeout
    from ...protocol.ranks import format_ranks
    from ..view.observing import joined

    code = 0
    try:
        with joined(options.run) as observer:
            receipt = observer.flush(options.timeout)
    except FlushTimeout as failure:
        receipt, code = failure.receipt, explained(failure)
    if options.json:
        print(json.dumps(asdict(receipt)))
    else:
        parts = [("shown", receipt.acked), ("ended and shown", receipt.dead), ("missing", receipt.missing)]
        ranks = "; ".join(f"{format_ranks(each)} {what}" for what, each in parts if each) or "no ranks"
        print(f"flush {receipt.version}: {ranks}; {receipt.dropped:,} records dropped; {receipt.elapsed:.3f} s")
    return code
