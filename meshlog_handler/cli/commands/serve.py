"""``meshlog serve``: help and arguments. It starts as ``meshlog run`` does."""

from __future__ import annotations

from typing import Final

from ..parser import Parser
from .run import add_options

_ABOUT: Final = """\
Run a command that starts other processes, such as a launcher, make or a script, and show all of them. The output of
the command and of everything it starts is shown as lines. Processes that use meshlog_handler.install() or a
MeshHandler are shown with their ranks, and install() also captures their output."""

_MORE: Final = """\
examples:
  meshlog serve -- accelerate launch train.py
  meshlog serve --aggregate 3 -- make -j8 test
  meshlog serve --log-dir logs --json -- ./nightly.sh

environment of the command:
  MESHLOG_ADDRESS    the address to which meshlog_handler.install() or a MeshHandler forwards whole records
  PYTHONUNBUFFERED, PYTHONFAULTHANDLER   1 unless you set them: output appears at once, and a crash prints a traceback
  RANK and the like are not set: a process has the rank that its launcher gives it, or else the next free one
  stdin              meshlog's own

end of the run:
  The exit code is that of the command, or 128 and the number of the signal that ended it. Ctrl-C and SIGTERM are sent
  to the command and its process group once, then --grace seconds later SIGTERM, and after the same time SIGKILL. If it
  failed, a summary on stderr has its last lines. Processes that it left running show later records by themselves."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(starts="serve", count=0, stdin=None, summary=False)
    parser.usage = "meshlog serve [options] -- COMMAND [ARGUMENT ...]"
    add_options(parser)
