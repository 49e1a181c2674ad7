"""``meshlog run``: help, arguments and start. ``meshlog exec`` has most of its arguments, too."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
from typing import Any, Final

from ... import settings
from ...errors import DirectoryError
from ...protocol.ranks import format_ranks
from .. import argument_types
from ..messages import USAGE, explain, fail
from ..parser import Parser

_ABOUT: Final = """\
Run a command on N ranks, and show all records and output of the ranks. Each line starts with its rank."""

_MORE: Final = """\
examples:
  meshlog run -n 4 -- python train.py --epochs 3
  meshlog run -n 8 --aggregate 3 -- python train.py       group similar lines of 3 seconds
  meshlog run -n 8 --ranks-filter 0 --log-dir logs -- python train.py
                                                          show rank 0 and all warnings, write everything to files
  meshlog run -n 2 --prefix '[{local_rank} {stream}] ' -- ./simulate
  meshlog run -n 2 --json -- python serve.py | jq .message

environment of each rank:
  RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE   as with torchrun; MASTER_ADDR and MASTER_PORT are not changed
  MESHLOG_ADDRESS    the address to which meshlog_handler.install() or a MeshHandler forwards whole records
  MESHLOG_CAPTURED   1: stdout and stderr are captured already
  PYTHONUNBUFFERED, PYTHONFAULTHANDLER   1 unless you set them: output appears at once, and a crash prints a
                     traceback
  stdin              empty; of the rank that --stdin names, meshlog's own

end of the run:
  The exit code is that of the first rank that failed, or 128 and the number of the signal, such as 139 for SIGSEGV.
  If one rank fails, the others get --grace seconds, then SIGTERM, and after the same time again SIGKILL. Ctrl-C is
  sent to all ranks once, followed in the same way; a second Ctrl-C sends SIGTERM at once, a third SIGKILL.
  A job that --on-hang kill ended exits with 124. A summary on stderr starts with the first failure. If meshlog itself
  is killed, the ranks and what they started get SIGTERM, and --grace seconds later SIGKILL. Processes with their own
  session (setsid, a daemon) continue."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(starts="run")
    parser.usage = "meshlog run -n N [options] -- COMMAND [ARGUMENT ...]"
    named: Any = {"dest": "count", "type": argument_types.count, "default": 1, "metavar": "N"}
    parser.add_argument("-n", "--nproc", "--nproc-per-node", help="ranks (1)", **named)
    read: Any = {
        "type": argument_types.reader,
        "metavar": "RANK",
        "help": "the rank that reads meshlog's stdin, or none (none)",
    }
    parser.add_argument("--stdin", **read)
    parser.add_argument("--summary", action="store_true", help="end with a table: rank, pid, seconds, exit code or signal")
    add_options(parser)


def add_options(parser: Parser) -> None:
    """Add the options that ``run`` and ``exec`` have in common."""
    parser.set_defaults(action=_start, takes_command=True)
    add = parser.add_argument
    add("--aggregate", type=argument_types.window, metavar="SEC", help="group similar lines of SEC seconds into one")
    add("--level", type=argument_types.level, help="root level in ranks that use install() or a MeshHandler: DEBUG, 10, ...")
    add(
        "--log-dir",
        type=argument_types.directory,
        metavar="DIR",
        help="keep a complete file per rank and stream, rotated, and journals for meshlog tail",
    )
    add(
        "--ranks-filter",
        "--local-ranks-filter",
        type=argument_types.ranks,
        metavar="RANKS",
        help="show only these ranks, such as 0,2-3, or none; WARNING and above of other ranks still shows; files have all",
    )
    add("-q", "--quiet", action="store_true", help="show no lines of the ranks, only the summary at the end; files have all")
    add("--prefix", type=argument_types.prefix, metavar="TEMPLATE", help="replaces '[{rank}] '; none shows lines as written")
    add("--json", action="store_true", help="print one JSON object per line, all on stdout")
    repeated: Any = {"action": "append", "default": [], "type": argument_types.pattern, "metavar": "PATTERN"}
    add("--never", **repeated, help="do not group lines that match (a regular expression; repeatable)")
    add("--hide", **repeated, help="do not show lines that match; files have them (repeatable)")
    add("--grace", type=argument_types.seconds, default=5.0, metavar="SEC", help="time for other ranks after a failure (5)")
    stuck = "report where the ranks are when none makes progress for SEC seconds: last lines, merged stacks"
    add("--hang-after", type=argument_types.positive, metavar="SEC", help=stuck)
    add("--on-hang", choices=("report", "kill"), default="report", help="kill: then end the job, with exit code 124 (report)")
    source: Any = {"choices": ("output", "cpu"), "default": "output"}
    add(
        "--progress-from",
        **source,
        help="cpu: a rank that uses the processor does not hang (output)",
    )
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _start(options: argparse.Namespace) -> int:
    command = [*options.command, *(["--"] if options.divided and options.command else []), *options.words]
    parser = options.parser
    if not command:
        parser.error(f"there is no command. Write it last: {parser.prog} -- python train.py")
    for option, value in (("--on-hang", options.on_hang), ("--progress-from", options.progress_from)):
        if options.hang_after is None and value in ("kill", "cpu"):
            parser.error(
                f"{option} {value} has no effect without --hang-after, the seconds without progress of a job that hangs"
            )
    if options.stdin is not None and options.stdin >= options.count:
        there = format_ranks(range(options.count))
        parser.error(f"--stdin names rank {options.stdin}, but this run has only {there}")
    code = _check_program(command[0])
    if code:
        return code
    from ..launch.exec import execute
    from ..launch.run import Options, run
    from ..launch.serve import serve

    start = {"run": run, "exec": execute, "serve": serve}[options.starts]
    try:
        return start(
            Options(
                command=tuple(command),
                count=options.count,
                window=options.aggregate,
                level=options.level,
                log_dir=options.log_dir,
                ranks_filter=options.ranks_filter,
                quiet=options.quiet,
                prefix=options.prefix,
                as_json=options.json,
                never=tuple(options.never),
                hide=tuple(options.hide),
                grace=options.grace,
                stdin=options.stdin,
                summary=options.summary,
                hang_after=options.hang_after,
                kill_on_hang=options.on_hang == "kill",
                progress_from=options.progress_from,
            )
        )
    except DirectoryError:
        raise
    except OSError as failure:
        return fail(f"{explain(failure)}. {_remedy(failure, options.log_dir)}".rstrip(), USAGE)


def _check_program(program: str) -> int:
    """Return 0 if a program can be run. Otherwise print the reason, and return the exit code that a shell would return."""
    if shutil.which(program) is not None:
        return 0
    if not os.path.exists(program):
        hidden = _unreachable(program)
        if hidden:
            return fail(f"{hidden}: permission denied. This user cannot enter one of its parent directories.", 126)
        found = [os.path.join(each, program) for each in os.get_exec_path()] if os.sep not in program else []
        there = next(filter(os.path.isfile, found), None)
        if there is not None:
            return fail(f"{there} is not executable. If it is a program, make it executable: chmod +x {there}", 126)
        return fail(f"{program}: command not found. Check its spelling and PATH.", 127)
    if os.path.isdir(program):
        return fail(f"{program} is a directory, not a program.", 126)
    if os.access(program, os.X_OK):
        hint = f"It is not in PATH. Write ./{program}"
        return fail(f"{program} cannot be executed. {hint}", 126)
    if program.endswith(".py"):
        hint = f"Name its interpreter: meshlog run -n 4 -- python {program}"
    else:
        hint = f"If it is a program, make it executable: chmod +x {program}"
    return fail(f"{program} is not executable. {hint}", 126)


def _unreachable(program: str) -> str:
    """Return a possible path of a program that this user has no permission to look up, or ""."""
    directories = [""] if os.sep in program else os.get_exec_path()
    for path in (os.path.join(directory, program) for directory in directories):
        try:
            os.stat(path)
        except PermissionError:
            return path
        except OSError:  # not found
            continue
    return ""


def _remedy(failure: OSError, log_dir: str | None) -> str:
    """Return what to do about a directory that cannot be written, or ""."""
    where = os.fsdecode(failure.filename) if isinstance(failure.filename, (str, bytes)) else ""
    if not where or failure.errno in (errno.EMFILE, errno.ENFILE):
        return ""
    if log_dir and where != os.environ.get(settings.RUN_DIR):
        paths = os.path.abspath(where), os.path.abspath(log_dir)
        if os.path.commonpath(paths) in paths:  # it is in the other one, or a parent that could not be made
            return "Give a --log-dir that can be written."
    return f"Set {settings.RUN_DIR} to another directory."
