"""Keeps lines off a terminal while a debugger waits for input there: one of this process, or of a captured process."""

from __future__ import annotations

import re
import sys
from types import CodeType, FrameType
from typing import Final

from ..system.waits import monotonic
from .terminal import Output

Item = str | bytes
Bar = tuple[int, str, int, int, str]
Pending = tuple[Output, Item | None, Bar | None, bool, bool]
"""What a console is to write: its output, text, bar, whether it is a progress state, and whether it may pass a prompt."""

LOOK_SEC: Final = 0.1
"""How often to look whether a debugger still waits."""

_MAX_SIZE: Final = 4 << 20
_PROMPT_SEC: Final = 30.0
_PROMPT: Final = re.compile(r"(?:\(+(?:Pdb|Pdb\+\+|gdb|lldb)\)+|ipdb>) ?\Z")


def is_prompt(text: str) -> bool:
    """Return whether an incomplete line is the prompt of a debugger."""
    return _PROMPT.match(text) is not None


def debugger_waits() -> bool:
    """Return whether a thread of this process waits at the prompt of pdb, or of a debugger made from it. Any thread."""
    loop = getattr(getattr(getattr(sys.modules.get("pdb"), "Pdb", None), "_cmdloop", None), "__code__", None)
    return loop is not None and any(_is_at_prompt(frame, loop) for frame in sys._current_frames().values())


def _is_at_prompt(frame: FrameType, loop: CodeType) -> bool:
    caller: FrameType | None = frame
    while caller is not None:
        if caller.f_code is loop:
            return bool(getattr(caller.f_locals.get("self"), "use_rawinput", True))  # else it reads a socket, or a file
        if caller.f_code.co_name == "onecmd":  # a command of the debugger runs
            return False
        caller = caller.f_back
    return False


class KeptLines:
    """What a console writes later, because a debugger waits. Its lock is that of the console.

    For a debugger of this process, everything waits; for one of a captured process, all but the lines of that process. More
    than 4 MiB are written at once. A captured process may go on without printing, so nothing waits longer than 30 seconds
    for it.
    `prompt`: whether the captured process that reads the terminal has a debugger's prompt as its last line.
    """

    def __init__(self) -> None:
        self.prompt = False
        self._items: list[Pending] = []
        self._size = 0
        self._since = self._looked = 0.0
        self._waits = False

    def __bool__(self) -> bool:
        return bool(self._items)

    def take(self) -> list[Pending]:
        """Return what was kept, and forget it."""
        items, self._items, self._size = self._items, [], 0
        return items

    def passing(self, items: list[Pending]) -> list[Pending]:
        """Keep those of `items` that must wait; return the others, after what was kept if nothing must wait any longer."""
        now = monotonic()
        if now - self._looked >= LOOK_SEC:
            self._looked, self._waits = now, debugger_waits()
        if not (self._waits or self.prompt):
            return [*self.take(), *items]
        passing: list[Pending] = []
        for item in items:
            if not item[0].terminal or (item[4] and not self._waits):
                passing.append(item)
                continue
            if not self._items:
                self._since = now
            self._items.append(item)
            self._size += len(item[1] or "")
        late = not self._waits and self._items and now - self._since >= _PROMPT_SEC
        return [*self.take(), *passing] if late or self._size > _MAX_SIZE else passing
