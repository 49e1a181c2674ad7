"""``meshlog exec``: help and arguments. It starts as ``meshlog run`` does."""

from __future__ import annotations

from typing import Final

from ..parser import Parser
from .run import add_options

_ABOUT: Final = """\
Run a command as one rank of a launcher's job, and show all records and output of the ranks of this host. Each line
starts with its rank. In the launcher's command, write it before the program."""

_MORE: Final = """\
examples:
  mpirun -n 4 meshlog exec -- python train.py --epochs 3
  srun -n 16 meshlog exec --aggregate 3 -- ./simulate

The first rank to start on a host shows all ranks of that host through its own stdout and stderr; its options apply. The
other ranks become the command. If MESHLOG_ADDRESS is set, the client at that address shows all ranks.

environment of each rank:
  RANK, SLURM_PROCID, OMPI_COMM_WORLD_RANK or PMI_RANK   as the launcher set them
  MESHLOG_ADDRESS, MESHLOG_CAPTURED, PYTHONUNBUFFERED, PYTHONFAULTHANDLER   as with meshlog run

end of the run:
  The exit code is that of the command. The rank that shows the others exits after all ranks of its host. If its own
  command fails, it exits within about one second, so that the launcher receives the exit code."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(starts="exec", count=1, stdin=None, summary=False)
    parser.usage = "meshlog exec [options] -- COMMAND [ARGUMENT ...]"
    add_options(parser)
