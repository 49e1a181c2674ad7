"""Hosts on one machine: a network namespace each, joined by a bridge, with a separate /dev/shm, directory and host name.

::

    this process, 10.77.x.254 -- bridge -- 10.77.x.1 (host h1), 10.77.x.2 (host h2), ...
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from meshlog_handler.transport import run_directory
from tests.waiting import until

from .link import Link, Pace

_SETUP = 'mount --make-rprivate / && mount -t tmpfs tmpfs /dev/shm && hostname "$1" && shift && exec "$@"'


def missing() -> str:
    """Return why no hosts can be made here, or ""."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "needs Linux and root, to make network namespaces"
    for tool in ("ip", "unshare"):
        if shutil.which(tool) is None:
            return f"needs the command {tool} (iproute2, util-linux)"
    probe = f"mlp{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    _ip("netns", "del", probe)
    return ""


def need_hosts() -> None:
    """Skip the tests of a module where hosts cannot be made."""
    reason = missing()
    if reason:
        pytest.skip(reason, allow_module_level=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _entering(name: str) -> list[str]:
    return ["ip", "netns", "exec", name, "unshare", "-m", "-u", "sh", "-c", _SETUP, "sh", name]


def shell(path: Path) -> str:
    """Make a script that runs a command line on a host, as ssh does: the host, then the command line. Return its path."""
    within = shlex.join(_entering("HOST")).replace("HOST", '"$host"')
    path.write_text(f'#!/bin/sh\nhost=$1; shift\nexec {within} env -u MESHLOG_RUN_DIR sh -c "$*"\n')
    path.chmod(0o700)
    return str(path)


class Host:
    """One host. `run` starts programs on it."""

    def __init__(self, name: str, address: str, link: str, directory: Path, carrier: Link | None) -> None:
        self.name = name
        self.address = address
        self._link = link
        self._carrier = carrier
        self._directory = directory
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self, *command: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a program on this host."""
        self._directory.mkdir(exist_ok=True)
        within = [*_entering(self.name), *command]
        with open(self._directory / "log", "ab") as log:
            variables = {**os.environ, **env, "TMPDIR": str(self._directory), "MESHLOG_RUN_DIR": "/dev/shm"}
            started = subprocess.Popen(within, env=variables, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._started.append(started)
        return started

    def log(self) -> str:
        """Return what the programs of this host have written."""
        return (self._directory / "log").read_text(errors="replace")

    def cut(self) -> None:
        """Cut the network of this host."""
        _ip("link", "set", self._link, "down")

    def join(self) -> None:
        """End a cut."""
        _ip("link", "set", self._link, "up")

    def become(self, pace: Pace) -> None:
        """Change how slow the network of this host is. Its link was made for it (`slow`)."""
        assert self._carrier is not None
        self._carrier.become(pace)

    def processes(self, word: bytes = b"") -> list[int]:
        """Return the processes of this host whose command line contains a word."""
        found = subprocess.run(["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True).stdout.split()
        return [pid for pid in map(int, found) if word in _command_line(pid)]

    def kill(self, word: bytes = b"") -> list[int]:
        """Kill these processes; without a word, all of the host."""
        killed = self.processes(word)
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(run_directory.lives, killed)), what="the processes to end")
        return killed

    def close(self) -> None:
        """End everything on this host."""
        while self.processes():
            self.kill()
        for started in self._started:
            started.wait(10)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def hosts(count: int, directory: Path, prefix: str = "ml", slow: int = 0) -> Iterator[tuple[str, list[Host]]]:
    """Make hosts; yield the address of this process on their network, and the hosts. Their names begin with `prefix`.

    The first `slow` of them have a link whose pace can be changed.
    """
    number = os.getpid() % 250
    network, bridge = f"10.77.{number}", f"{prefix}b{number}"
    with contextlib.ExitStack() as undo:
        _ip("link", "add", bridge, "type", "bridge")
        undo.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{network}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        made = []
        for index in range(1, count + 1):
            name, link = f"{prefix}h{number}-{index}", f"{prefix}v{number}-{index}"
            _ip("netns", "add", name)
            undo.callback(_ip, "netns", "del", name)
            carrier = None
            if index <= slow:
                carrier = Link(link, f"{link}e")
                undo.callback(carrier.close)
                _ip("link", "set", f"{link}e", "netns", name, "name", "eth0")
            else:
                _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", link, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{network}.{index}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            host = Host(name, f"{network}.{index}", link, directory / name, carrier)
            undo.callback(host.close)
            made.append(host)
        yield f"{network}.254", made
