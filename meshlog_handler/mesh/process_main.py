"""What runs in a proc: it joins its client, then carries out calls on its main thread, one at a time, in their order."""

from __future__ import annotations

import contextlib
import faulthandler
import inspect
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from .. import installation
from ..output.terminal import size_told
from ..system import unpatched
from ..system.standard_streams import stand_on_descriptors
from .pickling import dumps, dumps_result, loads, share_globals
from .process import InheritedFd
from .rpc import CALL, DONE, FAILED, HEAD, START, STOP, CallFailure, head
from .start_methods import ProcIdentity, set_identity

_MAX_DESCRIPTORS: Final = 4096


@dataclass(frozen=True)
class Boot:
    """What a proc is told when it starts. Plain data: it is pickled where the start method asks for that.

    Attributes
    ----------
    name : str
        Of the process, for people and log records.
    identity : Identity
        Who it is.
    address : str or None
        Of the client to join; None: it has no logging of the mesh.
    fresh : bool
        Whether the process is a new interpreter's, and not a copy of the client.
    environ : dict or None
        The client's environment, where the start method has it from another time: the fork server's is as old as the server.
    stdout, stderr : InheritedFd or None
        The client's, where the start method would give others.
    """

    name: str
    identity: ProcIdentity
    address: str | None = field(repr=False)
    fresh: bool
    environ: dict[str, str] | None = field(default=None, repr=False)
    stdout: InheritedFd | None = None
    stderr: InheritedFd | None = None


def run(connection: InheritedFd, boot: Boot) -> None:
    """Be a proc until the client says stop, or is gone."""
    owner = os.getpid()
    unpatched.use()
    sock = socket.socket(fileno=connection.fd)
    sock.setblocking(True)  # whatever the program's socket.setdefaulttimeout says
    _own_signals()
    started = False
    try:
        try:
            _settle(boot)
            _start(boot)
            answer = dumps_result(None)
        except Exception as error:
            _answer(sock, FAILED, START, _failure(error).encode())
            sys.exit(1)
        started = True
        _answer(sock, DONE, START, answer)
        _serve(sock, owner)
    except (OSError, EOFError):
        return  # the client is gone, or died in the middle of a frame: nobody is left to serve
    finally:
        # Children of multiprocessing leave by os._exit, without atexit: what leaves in order, leaves here.
        if started and boot.address is not None and os.getpid() == owner:
            installation.leave()
        sock.close()


def _own_signals() -> None:
    """Handle signals as a proc does, not as the client does that it may be forked from."""
    signal.set_wakeup_fd(-1)  # of an event loop in the client, which would hear of the proc's signals
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The client owns Ctrl-C: it stops its procs, and no traceback of theirs is in the way of its own.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _settle(boot: Boot) -> None:
    """Make this process what it would be, had it been started by hand: environment, standard streams, identity."""
    if boot.environ is not None:
        os.environ.clear()
        os.environ.update(boot.environ)
    for fd, inherited in ((1, boot.stdout), (2, boot.stderr)):
        if inherited is not None:
            os.dup2(inherited.fd, fd, inheritable=True)
            os.close(inherited.fd)
    if boot.fresh:
        _keep_descriptors()
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0, inheritable=True)
        os.close(null)
    stand_on_descriptors()
    set_identity(boot.identity)
    os.environ.update(size_told(boot.identity.rank))
    # Log records have the names of these two. A forked proc goes on with the thread that started it as its main one, and
    # the standard library's multiprocessing does not know it.
    threading.main_thread().name = "MainThread"
    multiprocessing.current_process().name = boot.name


def _keep_descriptors() -> None:
    """Let programs that are started from here inherit none of the pipes that came along with the start of this process.

    Who holds one of them, to the resource tracker for one, can keep the client from exiting.
    """
    try:
        known = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:  # a place without /proc
        known = list(range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _MAX_DESCRIPTORS)))
    for fd in known:
        with contextlib.suppress(OSError):  # that of the listing itself is closed by now
            if fd > 2:
                os.set_inheritable(fd, False)


def _start(boot: Boot) -> None:
    share_globals()
    if boot.address is not None:
        installation.join_mesh(boot.address, boot.identity)
    # The last words of a proc that crashes: captured, like all that goes there. A forked one has the client's file for it.
    faulthandler.enable(2)


def _serve(sock: socket.socket, owner: int) -> None:
    while True:
        kind, number, size = HEAD.unpack(_read(sock, HEAD.size))
        if kind == STOP:
            return
        assert kind == CALL
        answer = _carry_out(_read(sock, size))
        if os.getpid() != owner:
            _end_forked()
        _answer(sock, answer[0], number, answer[1])


def _carry_out(payload: bytearray) -> tuple[int, bytes]:
    """Run a call; return what to answer. Only SystemExit leaves it: a program that exits, exits."""
    try:
        fn, args, kwargs = loads(payload)
    except Exception as error:
        note = "the function or an argument cannot be loaded in the proc: "
        return FAILED, _failure(error, note).encode()
    del payload
    try:
        value = _run(fn, args, kwargs)
    except SystemExit:
        raise
    except BaseException as error:
        return FAILED, _failure(error).encode()
    try:
        return DONE, dumps_result(value)
    except Exception as error:
        note = f"the result, of type {type(value).__qualname__}, cannot be sent to the client: "
        return FAILED, _failure(error, note).encode()


def _run(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    value = fn(*args, **kwargs)
    if inspect.iscoroutine(value):
        import asyncio

        return asyncio.run(value)
    return value


def _failure(error: BaseException, note: str = "") -> CallFailure:
    try:
        pickled = dumps(error)
    except Exception:
        pickled = None  # it arrives as text
    return CallFailure.of(error, __file__, pickled, note)


def _answer(sock: socket.socket, kind: int, number: int, payload: bytes) -> None:
    sock.sendall(head(kind, number, len(payload)))
    sock.sendall(payload)


def _read(sock: socket.socket, size: int) -> bytearray:
    """Read `size` bytes; `EOFError` when the client is gone."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def _end_forked() -> NoReturn:
    """End a process that a call forked, and that came back from it as if it were the proc."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    os._exit(0)
