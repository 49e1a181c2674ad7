"""Settings from the environment with their defaults, and checks of arguments. Variables are read at each call."""

from __future__ import annotations

import errno
import operator
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import DirectoryError, SettingError, quoted

ADDRESS = "MESHLOG_ADDRESS"
ENABLE_LOG_FORWARDING = "MESHLOG_ENABLE_LOG_FORWARDING"
AGGREGATE_WINDOW_SEC = "MESHLOG_AGGREGATE_WINDOW_SEC"
MAX_LINE_SIZE = "MESHLOG_MAX_LINE_SIZE"
JOURNAL_SIZE = "MESHLOG_JOURNAL_SIZE"
PREFIX_WITH_RANK = "MESHLOG_PREFIX_WITH_RANK"
FAST_LOGGER = "MESHLOG_FAST_LOGGER"
STACK_SIGNAL = "MESHLOG_STACK_SIGNAL"
OBSERVE = "MESHLOG_OBSERVE"
FIRST_LEVEL = "MESHLOG_AGGREGATE_FIRST_LEVEL"
NEVER = "MESHLOG_NEVER"
HIDE = "MESHLOG_HIDE"
MAX_BYTES = "MESHLOG_LOG_DIR_MAX_BYTES"
BACKUP_COUNT = "MESHLOG_LOG_DIR_BACKUP_COUNT"
WHEN = "MESHLOG_LOG_DIR_WHEN"
COMPRESS = "MESHLOG_LOG_DIR_COMPRESS"

RUN_DIR = "MESHLOG_RUN_DIR"
JOB = "MESHLOG_JOB"

# Set by a launcher that has captured fd 1 and fd 2 already: the process must not capture them again.
CAPTURED = "MESHLOG_CAPTURED"

# The rank and the pipes that go with it: a descendant compares them to know whether it still writes to these pipes.
CAPTURED_PIPES = "MESHLOG_CAPTURED_PIPES"

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
LOCAL_RANK_VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")

_SIZE_VARIABLES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_LAUNCH_VARIABLES = (
    *RANK_VARIABLES,
    *LOCAL_RANK_VARIABLES,
    *_SIZE_VARIABLES,
    "LOCAL_WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
)


class Rotation(NamedTuple):
    """When files are rotated: at a size (0: at no size), and at times such as "midnight" ("": at no time).

    `backup_count` rotated files are kept; with `compress`, as gzip.
    """

    max_bytes: int = 64 << 20
    backup_count: int = 8
    when: str = ""
    compress: bool = False


DEFAULT_WINDOW_SEC = 3.0
"""Seconds in which the similar lines of a mesh are grouped by default: Monarch's default."""

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_MIN_JOURNAL_SIZE = 64 * 1024
_MAX_JOURNAL_SIZE = 1 << 30
_MAX_DIGITS = 18
_MAX_VALUE = 64
_MAX_FILE = 1 << 40
_MAX_BACKUPS = 9999
_WHEN = r"S|M|H|D|MIDNIGHT|W[0-6]"


def _flag(name: str, default: bool, env: Mapping[str, str]) -> bool:
    text = env.get(name, "").strip().lower()
    if not text:
        return default
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise SettingError(f"{name}={env[name]!r} is neither on nor off. Valid: {', '.join(_TRUE + _FALSE)}.")


def _size(name: str, default: int, low: int, high: int, env: Mapping[str, str]) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or len(text) > _MAX_DIGITS or not low <= int(text) <= high:
        raise SettingError(f"{name}={env[name]!r} is not a size. Valid: a whole number from {low} to {high}.")
    return int(text)


def forwarding_enabled(env: Mapping[str, str] | None = None) -> bool:
    """Return whether workers get a forwarder (``MESHLOG_ENABLE_LOG_FORWARDING``, default on)."""
    return _flag(ENABLE_LOG_FORWARDING, True, os.environ if env is None else env)


def prefix_with_rank(env: Mapping[str, str] | None = None) -> bool:
    """Return whether the console prefixes lines with their rank (``MESHLOG_PREFIX_WITH_RANK``, default on)."""
    return _flag(PREFIX_WITH_RANK, True, os.environ if env is None else env)


def fast_logger(env: Mapping[str, str] | None = None) -> bool:
    """Return whether calls that need no `LogRecord` make none (``MESHLOG_FAST_LOGGER``, default on)."""
    return _flag(FAST_LOGGER, True, os.environ if env is None else env)


def stack_signal(env: Mapping[str, str] | None = None) -> bool:
    """Return whether workers register the signal that dumps their stacks (``MESHLOG_STACK_SIGNAL``, default on)."""
    return _flag(STACK_SIGNAL, True, os.environ if env is None else env)


def observe(env: Mapping[str, str] | None = None) -> bool:
    """Return whether other terminals of this user find a client here, and join it (``MESHLOG_OBSERVE``, default on)."""
    return _flag(OBSERVE, True, os.environ if env is None else env)


def aggregate_window_sec(env: Mapping[str, str] | None = None) -> float | None:
    """Return the window in seconds from ``MESHLOG_AGGREGATE_WINDOW_SEC``, or None if it is not set."""
    env = os.environ if env is None else env
    text = env.get(AGGREGATE_WINDOW_SEC, "").strip()
    if not text:
        return None
    try:
        return check_window(float(text))
    except ValueError:
        raise SettingError(
            f"{AGGREGATE_WINDOW_SEC}={text!r} is not a window. Valid: a positive number of seconds, or empty for none."
        ) from None


def first_level(env: Mapping[str, str] | None = None) -> int:
    """Return the level from which the first line of a group is shown at once (``MESHLOG_AGGREGATE_FIRST_LEVEL``, WARNING)."""
    text = (os.environ if env is None else env).get(FIRST_LEVEL, "").strip() or "WARNING"
    try:
        return check_level(int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else text)
    except SettingError as failure:
        raise SettingError(f"{FIRST_LEVEL}: {failure}") from None


def max_line_size(env: Mapping[str, str] | None = None) -> int:
    """Return the size in bytes at which the console cuts a captured line (``MESHLOG_MAX_LINE_SIZE``, 16 KiB)."""
    return _size(MAX_LINE_SIZE, 16 * 1024, 16, 1 << 26, os.environ if env is None else env)


def journal_size(env: Mapping[str, str] | None = None) -> int:
    """Return the size in bytes of a worker's journal (``MESHLOG_JOURNAL_SIZE``, 1 MiB)."""
    return _size(JOURNAL_SIZE, 1 << 20, _MIN_JOURNAL_SIZE, _MAX_JOURNAL_SIZE, os.environ if env is None else env)


def patterns(name: str, given: Sequence[str] | str | None, env: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return regular expressions: those `given`, and that of the variable `name`. Raises `SettingError` if one is invalid."""
    given = (given,) if isinstance(given, str) else given or ()
    text = (os.environ if env is None else env).get(name, "")
    for where, pattern in [*(("", each) for each in given), *([(f"{name}=", text)] if text else [])]:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as failure:
            raise SettingError(f"{where}{pattern!r} is not a regular expression: {failure}.") from None
    return (*given, *([text] if text else []))


def rotation(env: Mapping[str, str] | None = None) -> Rotation:
    """Return when the files of a ``log_dir`` are rotated, from the four ``MESHLOG_LOG_DIR_...`` variables."""
    env = os.environ if env is None else env
    when = env.get(WHEN, "").strip().upper()
    if when and not re.fullmatch(_WHEN, when):
        raise SettingError(
            f"{WHEN}={env[WHEN]!r} is not a time of rotation. Valid: S, M, H, D, midnight, W0 to W6, as with "
            f"logging.handlers.TimedRotatingFileHandler."
        )
    return Rotation(
        max_bytes=_size(MAX_BYTES, 64 << 20, 0, _MAX_FILE, env),
        backup_count=_size(BACKUP_COUNT, 8, 0, _MAX_BACKUPS, env),
        when=when,
        compress=_flag(COMPRESS, False, env),
    )


def pipes(rank: int, fds: Iterable[int]) -> dict[str, str]:
    """Return an environment variable that names the rank and the write ends of the pipes that capture a program's output."""
    found = [os.fstat(fd) for fd in fds]
    return {CAPTURED_PIPES: " ".join([str(rank), *(f"{each.st_dev}:{each.st_ino}" for each in found)])}


def captured_rank(env: Mapping[str, str] | None = None) -> int | None:
    """Return the rank under which a launcher shows the output of this process.

    None means that no launcher is known to capture it; -1 means that one does, without naming a rank.
    """
    env = os.environ if env is None else env
    if env.get(CAPTURED) != "1":
        return None
    number, *known = env.get(CAPTURED_PIPES, "-1").split(" ")
    for fd in (1, 2) if known else ():
        try:
            found = os.fstat(fd)
        except OSError:  # closed: it has no output
            continue
        if f"{found.st_dev}:{found.st_ino}" not in known:
            return None
    return int(number) if number.isdecimal() else -1


def captured(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` with variables for a program whose output its launcher captures."""
    # Buffered output arrives late, or never if the program is killed. PYTHONFAULTHANDLER shows where it crashed.
    return {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **env, CAPTURED: "1"}


def whole(value: object) -> int | None:
    """Return a whole number of any type as an int, such as those of an `enum.IntEnum` or of numpy; None if it is not one."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # TypeError says so
    except TypeError:
        return None


def real(value: object) -> float | None:
    """Return a number of any type as a float, such as those of numpy; None if it is not one, or too large."""
    try:
        return None if isinstance(value, bool) or not hasattr(type(value), "__float__") else float(value)  # type: ignore[arg-type]  # it has the method
    except (TypeError, ValueError, OverflowError):
        return None


def check_window(window: float | None, name: str = "aggregate_window_sec") -> float | None:
    """Return `window` (seconds) if it is None or positive and finite; otherwise raise `SettingError` with the given `name`."""
    if window is None:
        return None
    seconds = real(window)
    if seconds is None or not 0 < seconds <= sys.float_info.max:
        raise SettingError(f"{name}={quoted(window)} is not a window. Valid: a positive number of seconds, or None.")
    return seconds


def check_hang_after(seconds: float | None) -> float | None:
    """Return the seconds without progress after which a job counts as hung, if they are valid; else raise `SettingError`."""
    try:
        return check_window(seconds)
    except SettingError:
        raise SettingError(
            f"hang_after={quoted(seconds)} is not valid. Valid: a positive number of seconds, or None."
        ) from None


def check_on_hang(function: object, hang_after: float | None) -> None:
    """Raise `SettingError` if a function to call at a hang cannot be called, or would never be."""
    if function is not None and hang_after is None:
        raise SettingError("on_hang has no effect without hang_after, the seconds without progress of a job that hangs.")
    if function is not None and not callable(function):
        raise SettingError(f"on_hang={quoted(function)} is not valid. Valid: a function that gets the `Hang`, or None.")


def check_progress_from(source: str, hang_after: float | None) -> str:
    """Return the source if it is valid and has an effect; otherwise raise `SettingError`."""
    if source not in ("output", "cpu"):
        raise SettingError(
            f"progress_from={quoted(source)} is not valid. Valid: 'output' (records and printed lines), 'cpu' (processor "
            f"time, too)."
        )
    if source == "cpu" and hang_after is None:
        raise SettingError(
            "progress_from='cpu' has no effect without hang_after, the seconds without progress of a job that hangs."
        )
    return source


def check_directory(path: str | os.PathLike[str] | None) -> str | None:
    """Return the absolute path of a directory, or None for None. Raises `SettingError` if `path` is not a path."""
    if path is None:
        return None
    try:
        decoded = os.fsdecode(path)
    except TypeError:
        decoded = ""
    if not decoded or "\0" in decoded:
        raise SettingError(f"log_dir={quoted(path)} is not a directory. Valid: a path, or None.")
    return absolute(decoded)


def absolute(path: str, name: str = "log_dir") -> str:
    """Return an absolute path. Raises `DirectoryError`, with the `name` of the argument, if there is no current directory."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError as failure:  # it was removed
        raise DirectoryError(
            f"{name}={path!r} cannot be used: the current directory was removed. Valid: an absolute path.", failure
        ) from failure


def make_directory(path: str, name: str = "log_dir") -> None:
    """Make a directory if it does not exist. Raises `DirectoryError`, with the `name` of the argument, if it cannot be used."""
    try:
        os.makedirs(path, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "this user cannot write to it", path)
    except OSError as failure:
        where = f" ({failure.filename})" if failure.filename not in (None, path) else ""
        why = f"{failure.strerror}{where}"
        raise DirectoryError(
            f"{name}={path!r} cannot be used: {why}. Valid: a directory that this user can make or write to.", failure
        ) from failure


def check_flag(value: object, name: str) -> bool:
    """Return True or False for either of them or a number, such as numpy's; otherwise raise `SettingError` with the `name`."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (str, bytes)) or value is None:  # "no" and "False" would be true
        raise SettingError(f"{name}={quoted(value)} is neither on nor off. Valid: True, False.")
    return bool(value)


def check_mode(stream_to_client: bool, window: float | None, level: int | str) -> tuple[float | None, int]:
    """Return the window and the level number of a mode.

    Raises `SettingError` if one of them is invalid, or if there is a window although nothing is streamed.
    """
    checked, number = check_window(window), check_level(level)
    if checked is not None and not stream_to_client:
        raise SettingError(
            f"aggregate_window_sec={checked:g} cannot be used with stream_to_client=False: there is "
            f"nothing to group. Leave the window out, or set stream_to_client=True."
        )
    return checked, number


def check_level(level: int | str) -> int:
    """Return the number of a level given by name or as a number from 0 to 255; otherwise raise `SettingError`."""
    import logging

    named: object = level
    if isinstance(level, str):
        named = logging.getLevelName(level)
        if not isinstance(named, int):  # names that the program adds may have small letters; those of logging have none
            named = logging.getLevelName(level.upper())
    number = whole(named)
    if number is None or not 0 <= number <= 255:
        raise SettingError(
            f"level={quoted(level)} is not a level. Valid: 0 to 255, or a name such as DEBUG, INFO, WARNING, ERROR, CRITICAL."
        )
    return number


def check_logger(name: Any) -> str | None:
    """Return the name of a logger if it is a text or None; otherwise raise `SettingError`."""
    if name is None or isinstance(name, str):
        return name
    named = isinstance(getattr(name, "name", None), str)  # a logger
    meant = f" Write logger={name.name!r}." if named else f" If these are ranks, write ranks={quoted(name)}."
    raise SettingError(f"logger={quoted(name)} is not the name of a logger. Valid: a text, or None for the root logger.{meant}")


def check_address(address: str | None) -> str | None:
    """Return `address` unparsed if it is a text or None; otherwise raise `SettingError`."""
    if address is None or isinstance(address, str):
        return address
    raise SettingError(
        f"address={quoted(address)} is not the address of a client. Expected the value of LogClient.address, or None to read "
        f"{ADDRESS}. A callback that receives another argument, such as worker_init_fn of torch's DataLoader, which receives "
        f"the number of the worker, needs a wrapper: worker_init_fn=lambda number: install()."
    )


def check_job(name: str | None, env: Mapping[str, str] | None = None) -> str | None:
    """Return the name of a job, by default that in ``MESHLOG_JOB``, or None; raise `SettingError` if it is invalid."""
    where = "job"
    if name is None:
        where = JOB
        name = (os.environ if env is None else env).get(JOB) or None
    if name is None or (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name, re.ASCII)):
        return name
    raise SettingError(
        f"{where}={quoted(name)} is not the name of a job. Valid: 1 to 64 letters, digits, dots, underscores and hyphens, of "
        f"which the first is a letter or a digit."
    )


def check_rank(rank: int | None) -> int | None:
    """Return `rank` if it is None or a whole number from 0; otherwise raise `SettingError`."""
    number = whole(rank)
    if rank is None or (number is not None and 0 <= number < 10**_MAX_DIGITS):
        return number
    raise SettingError(f"rank={quoted(rank)} is not a rank. Valid: a whole number from 0, or None.")


def check_ranks(ranks: Iterable[int] | int | None) -> tuple[int, ...] | None:
    """Return ranks, given as one or several, as a tuple, and None for None; raise `SettingError` if they are invalid."""
    if ranks is None:
        return None
    several = isinstance(ranks, Iterable) and not isinstance(ranks, (str, bytes))
    numbers = [whole(each) for each in (ranks if several else (ranks,))]  # type: ignore[union-attr]  # it is checked here
    known = tuple(number for number in numbers if number is not None and 0 <= number < 10**_MAX_DIGITS)
    if len(known) < len(numbers):
        raise SettingError(
            f"ranks={quoted(ranks)} are not ranks. Valid: a whole number from 0, several such as [1, 3], or None."
        )
    return known


def launched(env: Mapping[str, str] | None = None) -> str:
    """Return the variables by which a launcher numbered this process, as one text; "" if there are none.

    Child processes inherit these variables: two processes with the same text are not two ranks of the launcher.
    """
    env = os.environ if env is None else env
    if not any(env.get(name, "").strip() for name in (*RANK_VARIABLES, *LOCAL_RANK_VARIABLES)):
        return ""
    return ";".join(f"{name}={env[name][:_MAX_VALUE]}" for name in _LAUNCH_VARIABLES if env.get(name))


def launched_size(text: str) -> int:
    """Return the number of ranks in a text of `launched`; 0 if it has none."""
    values = dict(part.partition("=")[::2] for part in text.split(";"))
    sizes = (values.get(name, "") for name in _SIZE_VARIABLES)
    return next((int(size) for size in sizes if size.isdecimal() and len(size) < _MAX_DIGITS), 0)


def _whole(names: tuple[str, ...], env: Mapping[str, str]) -> int | None:
    for name in names:
        text = env.get(name, "").strip()
        if text:
            if not text.isdecimal() or len(text) > _MAX_DIGITS:
                raise SettingError(f"{name}={text!r} is not a rank. Valid: a whole number from 0.")
            return int(text)
    return None


def rank(env: Mapping[str, str] | None = None) -> int | None:
    """Return the rank that a launcher gave this process, or None.

    It is the first that is set of ``RANK`` (torchrun), ``SLURM_PROCID``, ``OMPI_COMM_WORLD_RANK`` and ``PMI_RANK``.
    """
    return _whole(RANK_VARIABLES, os.environ if env is None else env)


def local_rank(env: Mapping[str, str] | None = None) -> int | None:
    """Return the rank on this host that a launcher gave this process, or None."""
    return _whole(LOCAL_RANK_VARIABLES, os.environ if env is None else env)
