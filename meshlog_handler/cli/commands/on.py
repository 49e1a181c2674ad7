"""``meshlog on``: help, arguments and start."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Final

from .. import argument_types
from ..messages import explain, fail
from ..parser import Parser

_ABOUT: Final = """\
Run a command on other hosts, and show everything that it starts there in the client of this host, as if it ran here:
records with their ranks, output as lines. Levels, flushes and stacks reach these ranks, too."""

_MORE: Final = """\
examples:
  meshlog serve -- meshlog on localhost node1 -- \\
      torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node0:29400 train.py
  meshlog serve -- meshlog on --rsh "kubectl exec -i {} --" pod-1 pod-2 --python /usr/bin/python3 -- ./work.sh

how it works:
  For each host, "ssh HOST python -m meshlog_handler relay" is started, with the Python of this process (--python names
  another). All bytes go through its stdin and stdout; there is no port. ssh must not ask for a password, and the shell
  there must print nothing at login. localhost and the name of this host need no ssh. The command has no stdin, and
  starts in the same directory, if there is one. MESHLOG_ADDRESS must be set here, as it is below meshlog serve.

end of the run:
  The exit code is the first one that is not 0, or 128 and the number of the signal. Ctrl-C and SIGTERM are sent on to
  each host. When one host fails, the others get SIGTERM --grace seconds later, and then SIGKILL. If the connection to a
  host ends, the command there gets SIGTERM."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(action=_on, takes_command=True)
    parser.usage = "meshlog on [options] HOST [HOST ...] -- COMMAND [ARGUMENT ...]"
    add = parser.add_argument
    add("hosts", nargs="+", metavar="HOST", help="a host, as ssh names it")
    add(
        "--rsh",
        default="ssh",
        metavar="COMMAND",
        help="starts a command on a host, in place of ssh; {} is the host, or else the next word is",
    )
    add("--python", default=sys.executable, metavar="PATH", help="the Python on the hosts that has meshlog_handler (this one)")
    add("--grace", type=argument_types.seconds, default=4.0, metavar="SEC", help="time for other hosts after a failure (4)")


def _on(options: argparse.Namespace) -> int:
    from ..launch.on import HostsOptions, run_on_hosts

    if not options.words:
        options.parser.error("there is no command. Write it last: meshlog on node1 -- torchrun train.py")
    try:
        return run_on_hosts(
            HostsOptions(
                hosts=tuple(options.hosts),
                command=tuple(options.words),
                shell=tuple(shlex.split(options.rsh)),
                python=options.python,
                grace=options.grace,
            )
        )
    except OSError as failure:
        return fail(explain(failure), 1)
