"""``meshlog top``: a table of the ranks of a run, once or on a screen that is updated."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any, Final

from ...client.observers.observer import Observer
from ...errors import ClosedError
from ...insight.report import Insight
from ...system.waits import deadline_after, monotonic, seconds_until
from ..messages import note
from .tables import HEAD, ORDERS, RIGHT, Row, heading, rows_of, text_table

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
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        due = deadline_after(interval)
        while not over:
            rows = rows_of(insight, order)
            size = console.size
            room = max(1, size.height - len(heading(insight, about, time.time())) - 2)
            first = max(0, min(first, len(rows) - room))
            live.update(_screen(insight, about, rows[first : first + room], f"{order}, {len(rows)} ranks from {first + 1}"))
            live.refresh()
            for key in _pressed(due):
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
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, expand=True, header_style="reverse", show_edge=False)
    for name in HEAD:
        last = name == HEAD[-1]
        table.add_column(name, justify="right" if name in RIGHT else "left", no_wrap=True, ratio=1 if last else None)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES[row.trouble], no_wrap=True, overflow="ellipsis") for cell in row.cells))
    lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in heading(insight, about, time.time())]
    return Group(*lines, table, Text(f"q quit  s sort ({status})  arrows scroll", style="dim", no_wrap=True))


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Let the terminal pass on each key at once, without showing it."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _pressed(due: float) -> list[bytes]:
    """Return the next keys, or none at the time `due`, or sooner if the size of the terminal changes."""
    fd = sys.stdin.fileno()
    try:
        ready, _, _ = select.select([fd], [], [], seconds_until(due))
    except InterruptedError:
        return []
    if not ready:
        return []
    data = os.read(fd, 32)
    if not data:  # the terminal is gone
        raise KeyboardInterrupt
    return _KEY.findall(data)  # several, if they came while the table was drawn
