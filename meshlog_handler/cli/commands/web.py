"""``meshlog web``: help, arguments and start."""

from __future__ import annotations

import argparse
from typing import Final

from .. import argument_types
from ..messages import fail, note
from ..parser import Parser
from . import add_run

_ABOUT: Final = """\
Serve a page of a running client on 127.0.0.1, updated live: failures first, ranks over time, progress, similar lines, and
the last lines of each rank. The run does not notice."""

_MORE: Final = """\
examples:
  meshlog web                  the only run; prints the link to open
  meshlog web 4711 --port 8080

The link carries a token; without it, and for other hosts and origins, nothing is served. Ctrl-C ends the command. The same
page of a run that is over: meshlog report"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(action=_web)
    add_run(parser)
    parser.add_argument("--port", type=argument_types.whole, default=0, metavar="N", help="port to serve on (any that is free)")


def _web(options: argparse.Namespace) -> int:
    from ..page.live import LivePage
    from ..page.server import PageServer
    from ..view.observing import choose

    if options.port > 65535:
        options.parser.error(f"argument --port: {options.port} is not a port. Expected 0 to 65535")
    page = LivePage(choose(options.run))
    try:
        server = PageServer(page, options.port)
    except OSError as failure:
        page.close()
        return fail(f"port {options.port} cannot be used: {failure.strerror}", 1)
    page.start()
    print(server.link, flush=True)
    note("open this link in a browser of this machine. Ctrl-C ends")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        server.server_close()
        page.close()
    return 0
