"""A worker's side, put together: join the client, forward the root logger, capture the file descriptors."""

from __future__ import annotations

import logging
import logging.config
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import console_handlers, settings
from .errors import ConnectError, SettingError
from .handler import MeshHandler
from .notebook.ipython import of_parents_kernel
from .system import live_clients
from .system.fd_capture import diagnose
from .system.standard_streams import stand_on_descriptors
from .worker import membership
from .worker.warning_filters import restore_warnings

if TYPE_CHECKING:
    from .mesh.start_methods import ProcIdentity


def install(
    address: str | None = None,
    *,
    level: int | str | None = None,
    capture: bool = True,
    warnings: bool = False,
    rank: int | None = None,
) -> None:
    """Let this process forward what it logs and prints. Idempotent.

    Usable as ``initializer=install, initargs=(client.address,)`` of `concurrent.futures.ProcessPoolExecutor`,
    `multiprocessing.Pool` and loky.

    Parameters
    ----------
    address : str or None
        Of the client, as `LogClient.address` returns it. None reads ``MESHLOG_ADDRESS``.
    level : int or str or None
        Of the root logger. None leaves it, but INFO takes the place of the standard library's initial WARNING.
    capture : bool
        Capture file descriptors 1 and 2, with all that is printed by whatever code.
    warnings : bool
        Let the filters of ``warnings`` be those that the client's process had when the client was made, and log each warning
        that they let pass, to the logger ``py.warnings``. The procs of a mesh always do.
    rank : int or None
        What this process is called. None: as its launcher says in the environment, else the next number.

    Raises
    ------
    SettingError
        If there is no address, or an argument has a value that cannot be used.

    Notes
    -----
    Handlers that write to the console stay where they are, and are quiet about records that are forwarded: the client shows
    those. What the filters of such handlers reject or change is not forwarded, or as they leave it. A client that cannot be
    reached is said on stderr, and the process goes on as it was.
    """
    address = settings.check_address(address) or os.environ.get(settings.ADDRESS)
    if not address:
        raise SettingError(
            f"install() knows no client: {settings.ADDRESS} is not set. Pass LogClient.address, or start the process "
            f"with env=LogClient.environ()."
        )
    rank = settings.check_rank(rank)
    enlist(membership.launched_options(address, rank, capture=capture, warnings=warnings), level)


def enlist(
    options: membership.JoinOptions, level: int | str | None = None, handler: Callable[..., MeshHandler] = MeshHandler
) -> None:
    """Do what `install` does, on terms of somebody else's: an engine's, which knows rank, mesh and coordinates.

    Parameters
    ----------
    terms, level
        As of `membership.join` and `install`.
    handler : Callable[..., MeshHandler]
        Makes what forwards the root logger, as `MeshHandler` does.

    Raises
    ------
    SettingError
        If `level` is none.
    """
    number = None if level is None else settings.check_level(level)
    shows_itself = live_clients.any_running()  # its console must not come back to it as captured lines
    wanted = options.capture and not shows_itself
    shown_as = settings.captured_rank()
    captured = wanted and shown_as != -1 and (shown_as is None or shown_as != options.rank)
    if captured:
        stand_on_descriptors(of_parents_kernel)
    root = logging.getLogger()
    if number is None and root.level == logging.WARNING and not _is_member(options.address):
        number = logging.INFO
    global _level
    before = root.level
    if number is not None:
        root.setLevel(number)  # before joining: what the client orders for all comes on top
    try:
        member = membership.join(options.replaced(capture=captured))
        if wanted and not captured and shown_as not in (-1, member.rank):
            # The rank was another's, which this process inherited, and so are the pipes.
            stand_on_descriptors(of_parents_kernel)
            member = membership.join(options.replaced(capture=True))
    except ConnectError as failure:
        diagnose(f"this process keeps its logs to itself: {failure}")
        return
    if number is not None:
        _level = (_level[0] if _level is not None else before), number
    if not shows_itself:
        console_handlers.start(None if options.capture else member.client_console())
    global _make_handler
    _make_handler = handler
    _forward_root()


def join_mesh(address: str, identity: ProcIdentity) -> None:
    """Let a proc of a mesh join its client: nothing inherited from the client's process stays on the root logger.

    Raises
    ------
    ConnectError
        If the client cannot be joined.
    """
    _take_off(lambda handler: True)
    # A pytest of the parent may have put handlers on other loggers; those of the root are what would say things twice.
    membership.join(
        membership.JoinOptions(
            address, identity.rank, identity.local_rank, identity.mesh, identity.coords, capture=True, warnings=True
        )
    )
    console_handlers.start()
    _forward_root()


def uninstall() -> None:
    """Leave the client: ship what there is, restore the file descriptors, levels that `install` or the client have set, the
    filters of warnings, and how `logging.config` applies a configuration.
    """
    _stop_forwarding(membership.current(), lambda handler: isinstance(handler, MeshHandler))
    membership.leave()
    console_handlers.stop()
    restore_warnings()
    _restore_configuring()
    global _level
    if _level is not None:
        before, number = _level
        _level = None
        if logging.getLogger().level == number:  # else the program has set another since
            logging.getLogger().setLevel(before)


leave = uninstall


def _go_on_alone(member: membership.Membership) -> None:
    """The client ends in order: handlers that show by themselves stay, and console handlers speak again."""
    _stop_forwarding(member, lambda handler: isinstance(handler, MeshHandler) and handler.sink is None)
    console_handlers.stop()


def _stop_forwarding(member: membership.Membership | None, unwanted: Callable[[logging.Handler], bool]) -> None:
    vars(logging.getLogger()).pop("addHandler", None)
    _take_off(unwanted)
    if member is not None:
        member.restore_levels()


membership.when_released.append(_go_on_alone)

_make_handler: Callable[..., MeshHandler] = MeshHandler
_level: tuple[int, int] | None = None
"""The root logger's level before `install`, and the one that it set."""


def _forward_root() -> None:
    """Let the root logger have a `MeshHandler`, after all others: their filters have seen a record when it is forwarded."""
    member = membership.current()
    if member is None or member.stream is None:
        return
    root = logging.getLogger()
    if not any(isinstance(handler, MeshHandler) for handler in root.handlers):
        logging.Logger.addHandler(root, _make_handler(address=member.options.address))
    with logging._lock:  # type: ignore[attr-defined]  # it has no public name
        forwarding = [handler for handler in root.handlers if isinstance(handler, MeshHandler)]
        others = [handler for handler in root.handlers if not isinstance(handler, MeshHandler)]
        root.handlers = [*others, *forwarding]  # a new list: another thread may be on its way through the old one
    _keep_forwarding()


def _keep_forwarding() -> None:
    """Let a new configuration by the program itself leave the forwarding alone.

    `dictConfig`, `fileConfig` and ``basicConfig(force=True)`` take every handler off the root logger, and then add theirs, if
    there are any; `logging.config.dictConfigClass` is the standard library's place to say what applies a configuration.
    """
    root = logging.getLogger()
    if "addHandler" not in vars(root):
        root.addHandler = _add_to_root  # type: ignore[method-assign, assignment]  # of this logger alone
    current: Any = logging.config.dictConfigClass
    if getattr(current, "keeps_forwarding", False):
        return

    class ForwardingConfigurator(current):  # type: ignore[misc]  # a class known at run time only
        keeps_forwarding = True
        before = current

        def configure(self) -> None:
            super().configure()
            if membership.current() is not None:
                _forward_root()

    logging.config.dictConfigClass = ForwardingConfigurator


def _restore_configuring() -> None:
    current: Any = logging.config.dictConfigClass
    if current.__dict__.get("keeps_forwarding"):  # else a class of somebody else's was put on top
        logging.config.dictConfigClass = current.before


def _add_to_root(handler: logging.Handler) -> None:
    logging.Logger.addHandler(logging.getLogger(), handler)
    _forward_root()


def _take_off(unwanted: Callable[[logging.Handler], bool]) -> list[logging.Handler]:
    root = logging.getLogger()
    found = [handler for handler in root.handlers if unwanted(handler)]
    for handler in found:
        root.removeHandler(handler)
    return found


def _is_member(address: str) -> bool:
    member = membership.current()
    return member is not None and member.options.address == address
