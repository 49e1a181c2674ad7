"""Installation of a worker: join the client, forward the root logger, capture the file descriptors."""

from __future__ import annotations

import contextlib
import logging
import logging.config
import os
import threading
from collections.abc import Callable
from typing import Any, Final

from . import settings
from .errors import ConnectError, SettingError
from .handler import MeshHandler, living, when_made
from .system import live_clients
from .system.diagnostics import diagnose
from .system.exit_status import parents_death
from .system.interpreters import check_interpreter
from .system.lazy_imports import importing
from .system.shielded import run_shielded
from .system.standard_streams import of_parents_kernel, stand_on_descriptors
from .system.waits import check_timeout
from .worker import console_handlers, fast_logger, this_process
from .worker.member import JoinOptions, Membership, launched_options, when_released
from .worker.warning_filters import restore_warnings

_LOCK_SEC: Final = 0.05


def install(
    address: str | None = None,
    *,
    level: int | str | None = None,
    capture: bool = True,
    warnings: bool = False,
    rank: int | None = None,
    fast: bool | None = None,
) -> None:
    """Forward the records and the output of this process to a client. Idempotent.

    Pass it as ``initializer=install, initargs=(client.address,)`` to `concurrent.futures.ProcessPoolExecutor`,
    `multiprocessing.Pool` or loky.

    Parameters
    ----------
    address : str or None
        The value of `LogClient.address`. None: the client of the job in ``MESHLOG_JOB``, and each later client of that job; if
        that is not set, the client in ``MESHLOG_ADDRESS``.
    level : int or str or None
        The level of the root logger. None sets INFO if the program has not configured logging: the root logger has no handler
        and its initial level, WARNING. Otherwise, None leaves the level.
    capture : bool
        Whether to capture file descriptors 1 and 2, and so the output of all code, also of C libraries and subprocesses.
    warnings : bool
        Whether to use the ``warnings`` filters that the client's process had when the client was created, and to log each
        warning that passes them to the logger ``py.warnings``. Processes of a mesh always do so.
    rank : int or None
        The rank of this process. None takes the rank that its launcher set in the environment, or else the next free rank.
    fast : bool or None
        Whether logging calls that need no `logging.LogRecord` make none: plain loggers whose records reach only the
        `MeshHandler`, with texts and numbers as arguments. What the client shows is the same. None: ``MESHLOG_FAST_LOGGER``,
        which is on by default.

    Raises
    ------
    SettingError
        If neither an address nor a job is given, an argument is invalid, or this is an interpreter of
        `InterpreterPoolExecutor`.

    Notes
    -----
    Handlers that write to the console stay installed, but do not show forwarded records, which the client shows. If the
    filters of such a handler reject a record, it is not forwarded; if they change it, it is forwarded as changed. If the client
    cannot be reached, the process reports that on stderr and continues unchanged. It waits 30 seconds for the first client of a
    job.
    """
    check_interpreter("install()")
    capture, warnings = settings.check_flag(capture, "capture"), settings.check_flag(warnings, "warnings")
    fast = None if fast is None else settings.check_flag(fast, "fast")
    address = settings.check_address(address)
    job = settings.check_job(None) if address is None else None
    if job is not None:
        run_shielded(lambda: _enlist_in_job(job, level, capture, warnings, settings.check_rank(rank), fast))
        return
    address = address or os.environ.get(settings.ADDRESS)
    if not address:
        raise SettingError(
            f"install() has no client address: {settings.ADDRESS} is not set. Pass LogClient.address, or start the process "
            f"with env=LogClient.environ()."
        )
    rank = settings.check_rank(rank)
    options = launched_options(address, rank, capture=capture, warnings=warnings, parent_death=parents_death())
    run_shielded(lambda: enlist(options, level, fast=fast))


def _enlist_in_job(
    job: str, level: int | str | None, capture: bool, warnings: bool, rank: int | None, fast: bool | None
) -> None:
    """Do what `install` does, for the clients of a job."""
    with importing():
        from .worker import job_member  # few workers have a job

    options = launched_options("", rank, warnings=warnings, parent_death=parents_death())
    if level is not None:
        settings.check_level(level)
    try:
        found = job_member.of(job).enter(None, options)
    except (OSError, RuntimeError) as failure:  # no private directory, or no thread can be started
        diagnose(f"the logs of this process are not forwarded: it cannot take part in job {job!r}: {failure}")
        return
    member = this_process.current()
    if not found or member is None:
        diagnose(f"the logs of this process are not forwarded: no process shows job {job!r}")
        return
    enlist(member.options.replaced(capture=capture), level, fast=fast)


def enlist(
    options: JoinOptions,
    level: int | str | None = None,
    handler: Callable[..., MeshHandler] = MeshHandler,
    *,
    fast: bool | None = None,
) -> None:
    """Do what `install` does, with options from an engine, which knows rank, mesh and coordinates.

    `handler` creates the root logger's MeshHandler. Raises `SettingError` if `level` is invalid.
    """
    number = None if level is None else settings.check_level(level)
    fast = settings.fast_logger() if fast is None else fast
    shows_itself = live_clients.any_running()  # a client must not capture its own console output
    wanted = options.capture and not shows_itself
    shown_as = settings.captured_rank()
    captured = wanted and shown_as != -1 and (shown_as is None or shown_as != options.rank)
    if captured:
        stand_on_descriptors(_of_parent)
    root = logging.getLogger()
    if number is None and root.level == logging.WARNING and not any(map(_of_program, root.handlers)):
        number = logging.INFO
    global _level
    before = root.level
    if number is not None:
        root.setLevel(number)  # before joining: the client's default level overrides it
    try:
        member = this_process.join(options.replaced(capture=captured))
        if wanted and not captured and shown_as not in (-1, member.rank):
            # This process inherited the rank and the pipes of another process.
            stand_on_descriptors(_of_parent)
            member = this_process.join(options.replaced(capture=True))
    except ConnectError as failure:
        diagnose(f"the logs of this process are not forwarded: {failure}")
        return
    if number is not None:
        _level = (_level[0] if _level is not None else before), number
    if not shows_itself:
        console_handlers.start(None if options.capture else member.client_console())
    global _make_handler
    _make_handler = handler
    _forward_root()
    if fast:
        fast_logger.enable(MeshHandler)


def join_mesh(options: JoinOptions) -> None:
    """Join the client of a mesh, and remove inherited handlers from the root logger. Raises `ConnectError`."""
    fast = settings.fast_logger()
    _remove_from_root(lambda handler: True)
    # Handlers inherited from a parent under pytest may be on other loggers, too; only those on root would show records twice.
    this_process.join(options)
    console_handlers.start()
    _forward_root()
    if fast:
        fast_logger.enable(MeshHandler)


def uninstall() -> None:
    """Leave the client and undo `install`.

    Ship everything, and restore the file descriptors, the levels that `install` or the client have set, the warnings filters,
    and the way in which `logging.config` applies a configuration.
    """
    run_shielded(_uninstall)


def _uninstall() -> None:
    _stop_forwarding(this_process.current(), lambda handler: isinstance(handler, MeshHandler))
    this_process.leave()
    console_handlers.stop()
    restore_warnings()
    _restore_configuring()
    global _level
    if _level is not None:
        before, number = _level
        _level = None
        if logging.getLogger().level == number:  # else the program has set another since
            logging.getLogger().setLevel(before)


def complete(timeout: float | None = 10.0) -> bool:
    """Wait until the client has shown everything that this process logged and printed before this call.

    A logging call never waits for the client, and nothing that was logged is lost: call it where a person should see the
    lines first, such as before `input` or a long computation.

    Parameters
    ----------
    timeout : float or None
        Seconds; None is unlimited.

    Returns
    -------
    bool
        Whether everything is shown. False at the timeout, if the client is gone, and if this process has joined none.

    Notes
    -----
    Any thread may call it. It is a flush of one process: lines that wait to be grouped are shown, too. In the client's process,
    it also waits for what processes have logged that have ended, such as children after ``join()``. In a process that joined a
    `LogRelay`, it waits until the relay has everything.
    """
    seconds = check_timeout(timeout)
    member = this_process.current()
    return member is not None and member.complete(seconds)


leave = uninstall


def _stop_at_release(member: Membership) -> None:
    """The client stops: MeshHandlers with a sink stay, and console handlers show records again."""

    def stop() -> None:
        with _logging_lock():
            if this_process.current() in (None, member):  # else this process has joined another client meanwhile
                _stop_forwarding(member, lambda handler: isinstance(handler, MeshHandler) and handler.sink is None)
                console_handlers.stop()

    if _logging_lock().acquire(timeout=_LOCK_SEC):
        try:
            stop()
        finally:
            _logging_lock().release()
    else:  # perhaps the thread that stops the client holds it (`logging.config` calls a factory), and waits for this process
        with contextlib.suppress(RuntimeError):  # no thread can be started: the handlers stay, and show nothing any more
            threading.Thread(target=stop, name="meshlog-released", daemon=True).start()


def _logging_lock() -> Any:
    return logging._lock  # type: ignore[attr-defined]  # no public name


def _stop_forwarding(member: Membership | None, unwanted: Callable[[logging.Handler], bool]) -> None:
    fast_logger.disable()
    vars(logging.getLogger()).pop("addHandler", None)
    _remove_from_root(unwanted)
    if member is not None:
        member.restore_levels()


when_released.append(_stop_at_release)

_make_handler: Callable[..., MeshHandler] = MeshHandler
_level: tuple[int, int] | None = None
"""The root logger's level before `install`, and the level that `install` set."""


def _forward_root() -> None:
    """Put a `MeshHandler` last on the root logger: the filters of other handlers run before a record is forwarded."""
    member = this_process.current()
    if member is None or member.stream is None:
        return
    root = logging.getLogger()
    global _installed
    if not any(isinstance(handler, MeshHandler) for handler in root.handlers):
        _installed = _make_handler(address=member.options.address)
        logging.Logger.addHandler(root, _installed)
    with _logging_lock():
        # A new list: another thread may iterate over the old one.
        root.handlers = sorted(root.handlers, key=lambda handler: isinstance(handler, MeshHandler))
    _keep_forwarding()
    _leave_to_others()


def _leave_to_others() -> None:
    """Let the root logger's MeshHandler without a sink leave out what other MeshHandlers forward, if there are any."""
    root = logging.getLogger()
    if "addHandler" not in vars(root):  # `install` is not in force
        return
    plain = [handler for handler in root.handlers if isinstance(handler, MeshHandler) and handler.sink is None]
    ours = [handler for handler in plain if handler is _installed] or plain
    others = any(each not in ours for each in [reference() for reference in living.valuerefs()] if each is not None)
    for handler in ours:
        (handler.addFilter if others else handler.removeFilter)(console_handlers.is_left_to_root)


_installed: MeshHandler | None = None
when_made.append(_leave_to_others)


def _keep_forwarding() -> None:
    """Keep forwarding when the program itself configures logging."""
    # `dictConfig`, `fileConfig` and ``basicConfig(force=True)`` remove all handlers from the root logger, and then add those of
    # the configuration, if any. `logging.config.dictConfigClass` is the standard library's hook for applying a configuration.
    root = logging.getLogger()
    if "addHandler" not in vars(root):
        root.addHandler = _add_to_root  # type: ignore[method-assign, assignment]  # for this logger only
    current: Any = logging.config.dictConfigClass
    if getattr(current, "keeps_forwarding", False):
        return

    class ForwardingConfigurator(current):  # type: ignore[misc]  # a class known only at run time
        keeps_forwarding = True
        before = current

        def configure(self) -> None:
            super().configure()
            if this_process.current() is not None:
                _forward_root()

    logging.config.dictConfigClass = ForwardingConfigurator


def _restore_configuring() -> None:
    current: Any = logging.config.dictConfigClass
    if current.__dict__.get("keeps_forwarding"):  # else the program has set another class since
        logging.config.dictConfigClass = current.before


def _add_to_root(handler: logging.Handler) -> None:
    logging.Logger.addHandler(logging.getLogger(), handler)
    _forward_root()


def _remove_from_root(unwanted: Callable[[logging.Handler], bool]) -> list[logging.Handler]:
    root = logging.getLogger()
    found = [handler for handler in root.handlers if unwanted(handler)]
    for handler in found:
        root.removeHandler(handler)
    return found


def _of_program(handler: logging.Handler) -> bool:
    """Return whether the program has added a handler of the root logger, and so has configured logging."""
    # pytest adds handlers for the time of a test, and processes that are forked in the test inherit them.
    return not type(handler).__module__.startswith("_pytest.")


_pid: Final = os.getpid()


def _of_parent(stream: Any) -> bool:
    """Return whether a stream belongs to the notebook or to pytest, from which this process was forked.

    The capture does not see what is written to such a stream.
    """
    return of_parents_kernel(stream) or (type(stream).__module__ == "_pytest.capture" and os.getpid() != _pid)
