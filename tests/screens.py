"""A terminal with a readable screen: what a user would see."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence

import pyte


class Screen:
    """The visible output: a terminal emulator reads what is written, and keeps what has scrolled away."""

    def __init__(self, columns: int = 40, lines: int = 10) -> None:
        leader, follower = os.openpty()
        self._leader = leader
        self.file = os.fdopen(follower, "w", encoding="utf-8")
        self._screen = pyte.HistoryScreen(columns, lines, history=1000, ratio=0.1)
        self._stream = pyte.ByteStream(self._screen)
        self.resize(lines, columns)
        self.raw = b""

    def resize(self, lines: int, columns: int) -> None:
        """Report another size to programs. The emulator keeps its size."""
        fcntl.ioctl(self.file.fileno(), termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    @property
    def rows(self) -> list[str]:
        """All lines, from the first that scrolled away to the last that is not empty."""
        self._read(0.05)
        scrolled = ["".join(line[at].data for at in sorted(line)) for line in self._screen.history.top]
        return "\n".join(line.rstrip() for line in [*scrolled, *self._screen.display]).rstrip().split("\n")

    def _read(self, timeout: float) -> None:
        while select.select([self._leader], [], [], timeout)[0]:
            data = os.read(self._leader, 65536)
            self.raw += data
            self._stream.feed(data)

    def run(
        self,
        command: Sequence[str],
        env: dict[str, str],
        timeout: float = 60.0,
        changed: Callable[[list[str]], object] = lambda rows: None,
    ) -> list[list[str]]:
        """Run a program on this terminal; return the screen after each change, and call `changed` with it."""
        seen: list[list[str]] = []
        deadline = time.monotonic() + timeout
        fd = self.file.fileno()
        with subprocess.Popen(command, env=env, stdin=fd, stdout=fd, stderr=fd) as program:
            try:
                while program.poll() is None:
                    assert time.monotonic() < deadline, self.rows
                    rows = self.rows
                    if not seen or rows != seen[-1]:
                        seen.append(rows)
                        changed(rows)
            finally:
                program.kill()
            assert program.returncode == 0, self.rows
        return [*seen, self.rows]

    def close(self) -> None:
        """Close both ends."""
        self.file.close()
        os.close(self._leader)
