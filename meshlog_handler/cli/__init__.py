"""The command line: parses the arguments of ``meshlog run``, ``exec``, ``tail`` and ``completion``, and starts them.

May import: errors, settings, _version, system, protocol, journal, transport, grouping, insight, lines, output, worker,
dispatch, client.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

from .. import settings
from .._version import __version__
from ..errors import SettingError
from ..protocol.ranks import format_ranks
from . import argument_types

_USAGE: Final = 2

_ABOUT: Final = """\
Shows the logs of many processes in one.

    meshlog run -n 4 -- python train.py     run a command on 4 ranks
    meshlog exec -- python train.py         run a command as one rank of mpirun, srun or another launcher
    meshlog tail DIR                        print the last records of every rank, after a crash or during a run
    meshlog completion bash                 print a script with which a shell completes arguments

Each command has its own --help."""

_ABOUT_RUN: Final = """\
Run a command on N ranks, and show all records and output of the ranks. Each line starts with its rank."""

_MORE_ON_RUN: Final = """\
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

_ABOUT_EXEC: Final = """\
Run a command as one rank of a launcher's job, and show all records and output of the ranks of this host. Each line
starts with its rank. In the launcher's command, write it before the program."""

_MORE_ON_EXEC: Final = """\
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

_ABOUT_TAIL: Final = """\
Print the last records of every rank, in order of time, from the journals of a run. Journals remain after their
processes have ended. This command only reads; the run may be in progress or over."""

_MORE_ON_TAIL: Final = """\
examples:
  meshlog tail logs                        DIR is the --log-dir of the run
  meshlog tail logs -n 100 --rank 3
  meshlog tail logs --json | jq .message

Journals hold what ranks log through meshlog_handler. What they print is in the files beside the journals: logs/*."""


_ABOUT_COMPLETION: Final = """\
Print a script with which bash, zsh or fish completes the commands and options of meshlog."""

_MORE_ON_COMPLETION: Final = """\
examples:
  eval "$(meshlog completion bash)"        in ~/.bashrc
  eval "$(meshlog completion zsh)"         in ~/.zshrc, after compinit
  meshlog completion fish | source         in ~/.config/fish/config.fish"""


class Parser(argparse.ArgumentParser):
    """An argument parser that prints its errors in one line. `arguments` are all that were added, ``--help`` included."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments: list[argparse.Action] = []
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Add an argument, and note it."""
        self.arguments.append(super().add_argument(*args, **kwargs))
        return self.arguments[-1]

    def error(self, message: str) -> NoReturn:
        """Print the error, and exit with code 2, also if stderr is closed or full."""
        raise SystemExit(_fail(f"{message} (see {self.prog} --help)", _USAGE))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Main thread only, since ``meshlog run`` handles signals.

    `argv` holds the arguments without the program's name. None: the arguments of this process.
    """
    _leave_bundle()
    words = list(sys.argv[1:] if argv is None else argv)
    # All words after the first -- belong to the command.
    at = words.index("--") if "--" in words else len(words)
    parser, commands = _parser()
    try:
        if at and not words[0].startswith("-") and words[0] not in commands:
            parser.error(f"unknown command {words[0]!r}. Expected {_listed(commands)}{_meant(words[0], commands)}")
        options, unknown = parser.parse_known_args(words[:at])
        if unknown:
            # The value of an unknown option may have been parsed as another argument.
            named = [word for word in unknown if word.startswith("-")] or unknown
            known = [name for each in options.parser.arguments for name in each.option_strings if name.startswith("--")]
            options.parser.error(f"unknown arguments: {' '.join(named)}{_meant(named[0].partition('=')[0], known)}")
        if options.action is None:
            parser.error("no command given. Expected run, exec or tail")
        code: int = options.action(options, words[at + 1 :], at < len(words))
    except SystemExit as end:  # argparse exits like this, after it has printed the error
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    finally:
        _let_go()
        if argv is None:
            # The process exits. Another Ctrl-C must not print a traceback.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _leave_bundle() -> None:
    """If PyInstaller has frozen this program: let what it starts load the libraries of the system, not those in the bundle."""
    if hasattr(sys, "_MEIPASS"):
        before = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)  # PyInstaller sets it if there was a path
        os.environ.pop("LD_LIBRARY_PATH", None)
        if before is not None:
            os.environ["LD_LIBRARY_PATH"] = before


def _let_go() -> None:
    """Discard the buffered output of a full or closed stdout or stderr. Otherwise Python exits with another exit code."""
    for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, fd)
            os.close(null)


def _meant(unknown: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(unknown, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _listed(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"


def _run(options: argparse.Namespace, rest: list[str], divided: bool) -> int:
    command = [*options.command, *(["--"] if divided and options.command else []), *rest]
    parser = options.parser
    if not command:
        parser.error(f"there is no command. Write it last: {parser.prog} -- python train.py")
    if options.stdin is not None and options.stdin >= options.count:
        there = format_ranks(range(options.count))
        parser.error(f"--stdin names rank {options.stdin}, but this run has only {there}")
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
                stdin=options.stdin,
                summary=options.summary,
                hang_after=options.hang_after,
                kill_on_hang=options.on_hang == "kill",
                progress_from=options.progress_from,
            )
        )
    except LaunchError as failure:
        return _fail(str(failure), failure.exitcode)
    except SettingError as failure:
        return _fail(str(failure), _USAGE)
    except OSError as failure:
        return _fail(f"{_format(failure)}. {_writable()}", _USAGE)


def _tail(options: argparse.Namespace, rest: list[str], divided: bool) -> int:
    from .tail import NoJournals, print_tails

    if rest:
        options.parser.error(f"unexpected argument {rest[0]!r}. Expected one directory and no command")
    try:
        print_tails(options.directory, options.lines, options.rank, options.json, lambda text: _print(text))
    except NoJournals as failure:
        return _fail(str(failure), _USAGE)
    except BrokenPipeError:
        raise
    except OSError as failure:
        if failure.filename is None:
            return _fail(f"stdout cannot be written: {failure.strerror}", 1)
        return _fail(f"{_format(failure)}. Name the --log-dir of a run.", _USAGE)
    return 0


def _check_program(program: str) -> int:
    """Return 0 if a program can be run. Otherwise print the reason, and return the exit code that a shell would return."""
    if shutil.which(program) is not None:
        return 0
    if not os.path.exists(program):
        hidden = _unreachable(program)
        if hidden:
            return _fail(f"{hidden}: permission denied. This user cannot enter one of its parent directories.", 126)
        return _fail(f"{program}: command not found. Check its spelling and PATH.", 127)
    if os.path.isdir(program):
        return _fail(f"{program} is a directory, not a program.", 126)
    if os.access(program, os.X_OK):
        hint = f"It is not in PATH. Write ./{program}"
    elif program.endswith(".py"):
        hint = f"Name its interpreter: meshlog run -n 4 -- python {program}"
    else:
        hint = f"If it is a program, make it executable: chmod +x {program}"
    return _fail(f"{program} cannot be executed. {hint}", 126)


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


def _fail(text: str, code: int) -> int:
    _print(f"error: {text}")
    return code


def _print(text: str) -> None:
    if sys.stderr is None:  # it is closed; print() would write to stdout
        return
    with contextlib.suppress(OSError):  # its disk is full; the exit code remains
        print("meshlog: " + text.replace("\n", " "), file=sys.stderr)


def _format(failure: OSError) -> str:
    """Return the error text, after the name of the file if there is one."""
    where = f"{failure.filename}: " if failure.filename is not None else ""
    return where + (failure.strerror or str(failure))


def _writable() -> str:
    """Return a hint how to set a writable directory."""
    variable = settings.RUN_DIR if os.environ.get(settings.RUN_DIR) else "TMPDIR"
    return f"Give a writable --log-dir, or set {variable} to a writable directory."


def _complete(options: argparse.Namespace, rest: list[str], divided: bool) -> int:
    from .completion import Command, completion_script

    parser, commands = _parser()
    described = [Command(name, (each.description or "").partition(".")[0], each.arguments) for name, each in commands.items()]
    print(completion_script(options.shell, parser.arguments, described), end="")
    return 0


def _parser() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser, and the parser of each command."""
    form: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser("meshlog", description=_ABOUT, **form)
    parser.add_argument("--version", action="version", version=f"meshlog {__version__}")
    parser.set_defaults(action=None, parser=parser)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    _add_run(actions.add_parser("run", help="run a command on N ranks", description=_ABOUT_RUN, epilog=_MORE_ON_RUN, **form))
    about: Any = {"description": _ABOUT_EXEC, "epilog": _MORE_ON_EXEC, **form}
    _add_exec(actions.add_parser("exec", help="run a command as a rank of another launcher's job", **about))
    _add_tail(actions.add_parser("tail", help="read journals", description=_ABOUT_TAIL, epilog=_MORE_ON_TAIL, **form))
    about = {"description": _ABOUT_COMPLETION, "epilog": _MORE_ON_COMPLETION, **form}
    _add_completion(actions.add_parser("completion", help="print a script that completes arguments in a shell", **about))
    return parser, dict(actions.choices)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(on_one=False)
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
    _add_options(parser)


def _add_exec(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(on_one=True, count=1, stdin=None, summary=False)
    parser.usage = "meshlog exec [options] -- COMMAND [ARGUMENT ...]"
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``run`` and ``exec`` have in common."""
    parser.set_defaults(action=_run, parser=parser)
    add = parser.add_argument
    add("--aggregate", type=argument_types.window, metavar="SEC", help="group similar lines of SEC seconds into one")
    add("--level", type=argument_types.level, help="root level in ranks that use install() or a MeshHandler: DEBUG, 10, ...")
    add("--log-dir", metavar="DIR", help="keep a complete file per rank and stream, rotated, and journals for meshlog tail")
    add(
        "--ranks-filter",
        "--local-ranks-filter",
        type=argument_types.ranks,
        metavar="RANKS",
        help="show only these ranks, such as 0,2-3; WARNING and above of other ranks still shows; files have all",
    )
    add("--prefix", type=argument_types.prefix, metavar="TEMPLATE", help="replaces '[{rank}] '; none shows lines as written")
    add("--json", action="store_true", help="print one JSON object per line, all on stdout")
    repeated: Any = {"action": "append", "default": [], "type": argument_types.pattern, "metavar": "PATTERN"}
    add("--never", **repeated, help="do not group lines that match (a regular expression; repeatable)")
    add("--hide", **repeated, help="do not show lines that match; files have them (repeatable)")
    add("--grace", type=argument_types.seconds, default=5.0, metavar="SEC", help="time for other ranks after a failure (5)")
    stuck = "report ranks that do nothing for SEC seconds while the others wait: last lines, merged stacks"
    add("--hang-after", type=argument_types.seconds, metavar="SEC", help=stuck)
    add("--on-hang", choices=("report", "kill"), default="report", help="kill: then end the job, with exit code 124 (report)")
    source: Any = {"choices": ("output", "cpu"), "default": "output"}
    add(
        "--progress-from",
        **source,
        help="cpu: a rank that uses the processor does not hang (output)",
    )
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _add_tail(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(action=_tail, parser=parser)
    add = parser.add_argument
    add("directory", metavar="DIR", help="directory of the journals")
    add("-n", "--lines", type=argument_types.count, default=20, metavar="LINES", help="records to print per rank (20)")
    add("--rank", type=argument_types.ranks, metavar="RANKS", help="print only these ranks, such as 3 or 0,4-7")
    add("--json", action="store_true", help="print one JSON object per line")


def _add_completion(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(action=_complete, parser=parser)
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
