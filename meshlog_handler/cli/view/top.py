"""``meshlog top``: a table of the ranks of a run, once or on a screen that is updated."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import sys
import termios
import time
import tty
from types import FrameType
from typing import Any, Final

from ...errors import ClosedError
from ...insight.report import Insight
from ...system.waits import deadline_after, monotonic, seconds_until
from ..messages import note
from .observer import Observer
from .tables import HEAD, ORDERS, Row, heading, rows_of, text_table

_STYLES: Final = {
    "dead": "bold red",
    "unreachable": "bold red",
    "stopped": "magenta",
    "errors": "red",
    "silent": "yellow",
    "behind": "cyan",
    "": "",
}
_KEYS: Final = {b"\x1b[A": -1, b"\x1b[B": 1, b"\x1bOA": -1, b"\x1bOB": 1, b"k": -1, b"j": 1, b"\x1b[5~": -20, b"\x1b[6~": 20}
_KEY: Final = re.compile(rb"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])|.", re.DOTALL)
_PAUSE_SEC: Final = 0.05


def can_be_live() -> bool:
    """Return whether stdin and stdout are a terminal, and the library that draws on it is installed."""
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        return False
    try:
        import rich.live  # noqa: F401  # is it there?
    except ImportError:
        note("a live table needs the extra `top`: pip install 'meshlog_handler[top]'. This is the table of this moment.")
        return False
    return True


def print_once(observer: Observer, *, as_json: bool) -> None:
    """Print the table of this moment, or all of it as one JSON object."""
    about, insight = observer.about(), observer.insight()
    if as_json:
        print(json.dumps({"run": {**about, "ranks": len(about["ranks"]), "live": len(about["live"])}, **insight.to_dict()}))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        rows = [row.cells for row in rows_of(insight)]
        print("\n".join([*(line[:width] for line in heading(insight, about, time.time())), text_table(HEAD, rows, width)]))
    sys.stdout.flush()


def print_repeatedly(observer: Observer, interval: float) -> None:
    """Print a JSON object per interval until the run ends."""
    with contextlib.suppress(ClosedError):  # the run has ended
        while True:
            due = deadline_after(interval)
            print_once(observer, as_json=True)
            time.sleep(seconds_until(due))


def show_live(observer: Observer, interval: float) -> None:
    """Show the table until `q`, or until the run ends. Then its last state stays on the terminal."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, markup=False, emoji=False)
    order, first = "trouble", 0
    about, insight = observer.about(), observer.insight()
    over = False
    with Live(console=console, screen=True, auto_refresh=False) as live, _Keys(live) as keys:
        due = deadline_after(interval)
        while not over:
            rows = rows_of(insight, order)
            size = console.size
            room = max(1, size.height - len(heading(insight, about, time.time())) - 2)
            first = max(0, min(first, len(rows) - room))
            live.update(_screen(insight, about, rows[first : first + room], f"{order}, {len(rows)} ranks from {first + 1}"))
            live.refresh()
            for key in keys.pressed(due):
                over = over or key in (b"q", b"Q", b"\x03")
                if key in (b"s", b"S"):
                    names = list(ORDERS)
                    order, first = names[(names.index(order) + 1) % len(names)], 0
                first += _KEYS.get(key, 0)
            if over:
                return
            if monotonic() >= due:
                try:
                    insight, due = observer.insight(), deadline_after(interval)
                except ClosedError:
                    over = True
    if over:
        rows = rows_of(insight)[: max(1, console.size.height - 6)]
        print("\n".join([*heading(insight, about, time.time()), text_table(HEAD, [row.cells for row in rows], console.width)]))
        note(f"the run {about.get('pid')} has ended")


def _screen(insight: Insight, about: dict[str, Any], rows: list[Row], status: str) -> Any:
    """Return what is drawn. Every text is a `Text`, so that nothing in it is taken for markup."""
    from rich.console import Group
    from rich.text import Text

    head, *lines = text_table(HEAD, [row.cells for row in rows], None).split("\n")  # cut at the right: numbers stay whole
    styles = [_STYLES[row.trouble] for row in rows]
    shown = [
        *(Text(line) for line in heading(insight, about, time.time())),
        Text(head, style="reverse"),
        *(Text(line, style=style) for line, style in zip(lines, styles, strict=True)),
        Text(f"q quit  s sort ({status})  arrows scroll", style="dim"),
    ]
    for line in shown:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*shown)


class _Keys:
    """A context manager in which the terminal passes on each key at once, without showing it.

    While Ctrl-Z suspends this process, the terminal is as before, and `live` does not use it.
    """

    def __init__(self, live: Any) -> None:
        self._live, self._fd = live, sys.stdin.fileno()

    def __enter__(self) -> _Keys:
        self._before = termios.tcgetattr(self._fd)
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._stops = signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL  # otherwise no shell would continue it
        if self._stops:
            signal.signal(signal.SIGTSTP, _noted)
        tty.setcbreak(self._fd)
        return self

    def __exit__(self, *_: object) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        if self._stops:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def pressed(self, due: float) -> list[bytes]:
        """Return the next keys, or none at the time `due`, or sooner after a signal."""
        ready, _, _ = select.select([self._fd, self._read], [], [], seconds_until(due))
        if self._read in ready:
            if signal.SIGTSTP in os.read(self._read, 4096):
                self._suspend()
            return []
        if not ready:
            return []
        data = os.read(self._fd, 32)
        if not data:  # the terminal is gone
            raise KeyboardInterrupt
        return _KEY.findall(data)  # several, if they came while the table was drawn

    def _suspend(self) -> None:
        self._live.stop()
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        os.kill(os.getpid(), signal.SIGSTOP)  # returns when the shell continues this process
        tty.setcbreak(self._fd)
        self._live.start()


def _noted(number: int, frame: FrameType | None) -> None:
    """Do nothing: the number of the signal is in the pipe."""
