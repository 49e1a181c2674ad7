"""The command line: ``meshlog run``, ``meshlog exec`` and ``meshlog tail``. Parses, and hands on."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from .. import settings
from .._version import __version__
from ..errors import SettingError
from . import argument_types

_USAGE: Final = 2

_ABOUT: Final = """\
Logs of many processes, shown by one.

    meshlog run -n 4 -- python train.py     run a command on 4 ranks
    meshlog exec -- python train.py         run it on one rank of a job of mpirun, srun or another launcher
    meshlog tail DIR                        read the last records of every rank, after a crash or during a run

Each has its own --help."""

_ABOUT_RUN: Final = """\
Run a command on N ranks, and show all that they log and print, each line with its rank."""

_MORE_ON_RUN: Final = """\
examples:
  meshlog run -n 4 -- python train.py --epochs 3
  meshlog run -n 8 --aggregate 3 -- python train.py       similar lines of 3 seconds become one
  meshlog run -n 8 --ranks-filter 0 --log-dir logs -- python train.py
                                                          watch rank 0 (and warnings of all), keep everything
  meshlog run -n 2 --prefix '[{local_rank} {stream}] ' -- ./simulate
  meshlog run -n 2 --json -- python serve.py | jq .message

what a rank finds:
  RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE   as of torchrun; MASTER_ADDR and MASTER_PORT are left alone
  MESHLOG_ADDRESS    meshlog_handler.install() or a MeshHandler forward records whole by it
  MESHLOG_CAPTURED   is 1: stdout and stderr are captured already
  PYTHONUNBUFFERED, PYTHONFAULTHANDLER   are 1 unless you set them: what is printed comes at once, and a crash
                     says where
  stdin              is empty

how it ends:
  The exit code is that of the first rank that failed; 128 and the number for a signal, such as 139 for SIGSEGV.
  When one fails, the others get --grace seconds, then SIGTERM, and after as long again SIGKILL. Ctrl-C is passed
  on to all ranks once, followed in the same way; a second Ctrl-C goes on to SIGTERM at once, a third to SIGKILL.
  A summary on stderr puts the first failure first. Should meshlog itself be killed, ranks and what they started get
  SIGTERM, and --grace seconds later SIGKILL; what has a session of its own by then (setsid, a daemon) lives."""

_ABOUT_EXEC: Final = """\
Run a command as one rank of a job that a launcher starts, and show all that the ranks of this host log and print, each
line with its rank. Write it before the program, in the launcher's command."""

_MORE_ON_EXEC: Final = """\
examples:
  mpirun -n 4 meshlog exec -- python train.py --epochs 3
  srun -n 16 meshlog exec --aggregate 3 -- ./simulate

The first rank to start on a host shows all ranks of it, through its own stdout and stderr, which the launcher brings to
you; its options count. The others become the command. Where MESHLOG_ADDRESS is set, that client shows it all.

what a rank finds:
  RANK, SLURM_PROCID, OMPI_COMM_WORLD_RANK or PMI_RANK   as its launcher set them
  MESHLOG_ADDRESS, MESHLOG_CAPTURED, PYTHONUNBUFFERED, PYTHONFAULTHANDLER   as with meshlog run

how it ends:
  With the command's exit code. The one that shows stays for as long as other ranks of its host run; if its own command
  fails, one second, for the launcher has to know."""

_ABOUT_TAIL: Final = """\
Print the last records of every rank, in order of time, from the journals of a run: a flight recorder that outlives
its processes. Reads only; the run may still be going on."""

_MORE_ON_TAIL: Final = """\
examples:
  meshlog tail logs                        DIR is the --log-dir of the run
  meshlog tail logs -n 100 --rank 3
  meshlog tail logs --json | jq .message

Journals hold what ranks log through meshlog_handler. What they print is in the files beside them: logs/*."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with 2."""
        self.exit(_USAGE, f"meshlog: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Parameters
    ----------
    argv : sequence of str or None
        Arguments without the program's name; None: those of this process.

    Notes
    -----
    On the main thread: ``meshlog run`` handles signals.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # What follows the first -- is the command's, whatever it looks like.
    at = words.index("--") if "--" in words else len(words)
    parser = _parser()
    try:
        options, unknown = parser.parse_known_args(words[:at])
        if options.action is None:
            parser.error("say what to do: run, exec or tail")
        if unknown:
            # What stands behind an unknown option may have been taken for something else.
            named = [word for word in unknown if word.startswith("-")] or unknown
            options.parser.error(f"unknown arguments: {' '.join(named)}{_meant(options.parser, named)}")
        code: int = options.action(options, words[at + 1 :], at < len(words))
    except SystemExit as end:  # argparse's way to end, after it has said why
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    finally:
        _let_go()
        if argv is None:
            # The process ends. Another Ctrl-C shall not show where.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _let_go() -> None:
    """Where stdout or stderr is full, or nobody reads it, let what is left go nowhere: else the interpreter's end fails on it,
    and the exit code is lost.
    """
    for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, fd)
            os.close(null)


def _meant(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    known = [word for word in parser._option_string_actions if word.startswith("--")]
    close = difflib.get_close_matches(unknown[0].partition("=")[0], known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _run(options: argparse.Namespace, rest: list[str], divided: bool) -> int:
    command = [*options.command, *(["--"] if divided and options.command else []), *rest]
    parser = options.parser
    if not command:
        parser.error(f"there is no command. Write it last: {parser.prog} -- python train.py")
    code = _check_program(command[0])
    if code:
        return code
    from .exec import execute
    from .launcher import LaunchError
    from .run import Options, run

    start = execute if options.on_one else run
    try:
        return start(
            Options(
                command=tuple(command),
                count=options.count,
                window=options.aggregate,
                level=options.level,
                log_dir=options.log_dir,
                ranks_filter=options.ranks_filter,
                prefix=options.prefix,
                as_json=options.json,
                never=tuple(options.never),
                hide=tuple(options.hide),
                grace=options.grace,
            )
        )
    except LaunchError as failure:
        return _fail(str(failure), failure.exitcode)
    except SettingError as failure:
        return _fail(str(failure), _USAGE)
    except OSError as failure:
        return _fail(f"{_spell(failure)}. {_writable()}", _USAGE)


def _tail(options: argparse.Namespace, rest: list[str], divided: bool) -> int:
    from .tail import NoJournals, print_tails

    if rest:
        options.parser.error(f"what is {rest[0]!r}? There is one directory, and no command")
    try:
        print_tails(options.directory, options.lines, options.rank, options.json, lambda text: _say(text))
    except NoJournals as failure:
        return _fail(str(failure), _USAGE)
    except BrokenPipeError:
        raise
    except OSError as failure:
        if failure.filename is None:
            return _fail(f"stdout cannot be written: {failure.strerror}", 1)
        return _fail(f"{_spell(failure)}. Name the --log-dir of a run.", _USAGE)
    return 0


def _check_program(program: str) -> int:
    """Return 0 if a program can be run; else say why not, and return what a shell would."""
    if shutil.which(program) is not None:
        return 0
    if not os.path.exists(program):
        hidden = _unreachable(program)
        if hidden:
            return _fail(f"{hidden}: permission denied. This user may not enter a directory on the way to it.", 126)
        return _fail(f"{program}: command not found. Is it spelled right, and in PATH?", 127)
    if os.path.isdir(program):
        return _fail(f"{program} is a directory, not a program.", 126)
    if os.access(program, os.X_OK):
        hint = f"It is not in PATH: write ./{program}"
    elif program.endswith(".py"):
        hint = f"Name its interpreter: meshlog run -n 4 -- python {program}"
    else:
        hint = f"If it is a program, let it be one: chmod +x {program}"
    return _fail(f"{program} cannot be executed. {hint}", 126)


def _unreachable(program: str) -> str:
    """Return where a program may lie and this user cannot look; "" if it can look everywhere."""
    directories = [""] if os.sep in program else os.get_exec_path()
    for path in (os.path.join(directory, program) for directory in directories):
        try:
            os.stat(path)
        except PermissionError:
            return path
        except OSError:  # it is not there
            continue
    return ""


def _fail(text: str, code: int) -> int:
    _say(f"error: {text}")
    return code


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it, or its disk is full; the exit code tells
        print("meshlog: " + text.replace("\n", " "), file=sys.stderr)


def _spell(failure: OSError) -> str:
    """Return what is wrong, and with which file, if with any."""
    where = f"{failure.filename}: " if failure.filename is not None else ""
    return where + (failure.strerror or str(failure))


def _writable() -> str:
    """Say how to name a place that can be written."""
    variable = settings.RUN_DIR if os.environ.get(settings.RUN_DIR) else "TMPDIR"
    return f"Give a --log-dir that can be written, or set {variable} to a place that can."


def _parser() -> Parser:
    form: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser("meshlog", description=_ABOUT, **form)
    parser.add_argument("--version", action="version", version=f"meshlog {__version__}")
    parser.set_defaults(action=None)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    _add_run(actions.add_parser("run", help="run a command on N ranks", description=_ABOUT_RUN, epilog=_MORE_ON_RUN, **form))
    about: Any = {"description": _ABOUT_EXEC, "epilog": _MORE_ON_EXEC, **form}
    _add_exec(actions.add_parser("exec", help="run a command as a rank of another launcher's job", **about))
    _add_tail(actions.add_parser("tail", help="read journals", description=_ABOUT_TAIL, epilog=_MORE_ON_TAIL, **form))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(on_one=False)
    parser.usage = "meshlog run -n N [options] -- COMMAND [ARGUMENT ...]"
    named: Any = {"dest": "count", "type": argument_types.count, "default": 1, "metavar": "N"}
    parser.add_argument("-n", "--nproc", "--nproc-per-node", help="ranks (1)", **named)
    _add_options(parser)


def _add_exec(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(on_one=True, count=1)
    parser.usage = "meshlog exec [options] -- COMMAND [ARGUMENT ...]"
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says how to show what a command says."""
    parser.set_defaults(action=_run, parser=parser)
    add = parser.add_argument
    add("--aggregate", type=argument_types.window, metavar="SEC", help="show similar lines of SEC seconds as one")
    add("--level", type=argument_types.level, help="root level in ranks that use install() or a MeshHandler: DEBUG, 10, ...")
    add("--log-dir", metavar="DIR", help="a complete file per rank and stream, rotated, and the journals for meshlog tail")
    add(
        "--ranks-filter",
        "--local-ranks-filter",
        type=argument_types.ranks,
        metavar="RANKS",
        help="show these ranks alone, as 0,2-3; WARNING and above of the others still shows, and files have all",
    )
    add("--prefix", type=argument_types.prefix, metavar="TEMPLATE", help="instead of '[{rank}] '; none leaves the bytes alone")
    add("--json", action="store_true", help="one JSON object a line, all of it on stdout")
    repeated: Any = {"action": "append", "default": [], "type": argument_types.pattern, "metavar": "PATTERN"}
    add("--never", **repeated, help="lines never to group (a regular expression; repeatable)")
    add("--hide", **repeated, help="lines not to show; files have them (repeatable)")
    add("--grace", type=argument_types.seconds, default=5.0, metavar="SEC", help="time for others to end when one failed (5)")
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _add_tail(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(action=_tail, parser=parser)
    add = parser.add_argument
    add("directory", metavar="DIR", help="where the journals lie")
    add("-n", "--lines", type=argument_types.count, default=20, metavar="LINES", help="records of each rank (20)")
    add("--rank", type=argument_types.ranks, metavar="RANKS", help="these ranks alone, as 3 or 0,4-7")
    add("--json", action="store_true", help="one JSON object a line")
