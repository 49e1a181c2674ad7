"""The main program of a proc: join the client, then run calls on the main thread, one at a time, in order."""

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
from typing import Any, Final, NoReturn

from .. import installation
from ..output.terminal import size_told
from ..protocol.immutable import Immutable
from ..system import unpatched
from ..system.standard_streams import stand_on_descriptors
from ..worker.member import JoinOptions
from .identity import ProcIdentity, set_identity
from .pickling import dumps, dumps_result, loads, share_globals
from .process import InheritedFd
from .rpc import CALL, DONE, FAILED, HEAD, START, STOP, CallFailure, head

_MAX_DESCRIPTORS: Final = 4096


class Boot(Immutable):
    """The start parameters of a proc. Plain data: pickled by start methods that need it."""

    secret = frozenset(("address", "environ"))

    name: str
    identity: ProcIdentity
    address: str | None  # of the client to join; None: the proc does not forward logs
    fresh: bool  # a new interpreter, not a fork of the client
    # The client's environment and streams, for the fork server: those of the server are as old as the server.
    environ: dict[str, str] | None = None
    stdout: InheritedFd | None = None
    stderr: InheritedFd | None = None


def run(connection: InheritedFd, boot: Boot) -> None:
    """Run a proc until the client sends STOP or exits."""
    owner = os.getpid()
    unpatched.use()
    sock = socket.socket(fileno=connection.fd)
    sock.setblocking(True)  # the program may have called socket.setdefaulttimeout
    _reset_signals()
    started = False
    try:
        try:
            _set_up(boot)
            _start(boot)
            response = dumps_result(None)
        except Exception as error:
            _respond(sock, FAILED, START, _failure(error).encode())
            sys.exit(1)
        started = True
        _respond(sock, DONE, START, response)
        _serve(sock, owner)
    except (OSError, EOFError):
        return  # the client has exited, perhaps in the middle of a frame
    finally:
        # Children of multiprocessing end with os._exit, without atexit: close the connection here.
        if started and boot.address is not None and os.getpid() == owner:
            installation.leave()
        sock.close()


def _reset_signals() -> None:
    """Replace the signal handling that a forked proc inherits from the client."""
    signal.set_wakeup_fd(-1)  # an event loop in the client would receive the proc's signals
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The client handles Ctrl-C and stops its procs. A proc would only print a second traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _set_up(boot: Boot) -> None:
    """Set the environment, the standard streams and the identity, as if the process had been started by hand."""
    if boot.environ is not None:
        os.environ.clear()
        os.environ.update(boot.environ)
    for fd, inherited in ((1, boot.stdout), (2, boot.stderr)):
        if inherited is not None:
            os.dup2(inherited.fd, fd, inheritable=True)
            os.close(inherited.fd)
    if boot.fresh:
        _disinherit_descriptors()
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0, inheritable=True)
        os.close(null)
    stand_on_descriptors()
    set_identity(boot.identity)
    os.environ.update(size_told(boot.identity.rank))
    # Log records contain both names. In a forked proc, the main thread is the one that forked, and the standard library's
    # multiprocessing does not know the process.
    threading.main_thread().name = "MainThread"
    multiprocessing.current_process().name = boot.name


def _disinherit_descriptors() -> None:
    """Make all file descriptors above 2 non-inheritable."""
    # A program started from here must not inherit the pipes of this process's start: a descriptor held open, such as the
    # pipe to the resource tracker, can keep the client from exiting.
    try:
        known = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:  # no /proc or /dev/fd
        known = list(range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _MAX_DESCRIPTORS)))
    for fd in known:
        with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed by now
            if fd > 2:
                os.set_inheritable(fd, False)


def _start(boot: Boot) -> None:
    share_globals()
    if boot.address is not None:
        who = boot.identity
        options = JoinOptions(boot.address, who.rank, who.local_rank, who.mesh, who.coords, capture=True, warnings=True)
        installation.join_mesh(options)
    # The crash traceback goes to the captured stderr. A forked proc has inherited the client's faulthandler file.
    faulthandler.enable(2)


def _serve(sock: socket.socket, owner: int) -> None:
    while True:
        kind, number, size = HEAD.unpack(_read(sock, HEAD.size))
        if kind == STOP:
            return
        assert kind == CALL
        response = _execute(_read(sock, size))
        if os.getpid() != owner:
            _exit_fork()
        _respond(sock, response[0], number, response[1])


def _execute(payload: bytearray) -> tuple[int, bytes]:
    """Run a call; return the kind and the payload of the response. Only `SystemExit` propagates: it ends the proc."""
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
        pickled = None  # the client receives the text instead
    return CallFailure.of(error, __file__, pickled, note)


def _respond(sock: socket.socket, kind: int, number: int, payload: bytes) -> None:
    sock.sendall(head(kind, number, len(payload)))
    sock.sendall(payload)


def _read(sock: socket.socket, size: int) -> bytearray:
    """Read `size` bytes; raise `EOFError` if the client has exited."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def _exit_fork() -> NoReturn:
    """Exit from a process that a call forked and that returned from the call as if it were the proc."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    os._exit(0)
