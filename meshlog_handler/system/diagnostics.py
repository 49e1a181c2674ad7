"""Messages about the package itself, on the original stderr."""

from __future__ import annotations

import contextlib
from typing import Final

from .descriptors import write_all
from .fd_capture import original_fd

_MAX_DIAGNOSIS: Final = 16 * 1024


def diagnose(text: str) -> None:
    """Write a message about the package itself to the original stderr, outside all captures. Never raises.

    Any thread may call it. A message that cannot be written is lost; a long one, which may quote what a peer sent, is cut.
    """
    if len(text) > _MAX_DIAGNOSIS:
        text = f"{text[:_MAX_DIAGNOSIS]}... [{len(text) - _MAX_DIAGNOSIS:,} more characters]"
    with contextlib.suppress(Exception):  # there is no other place to report it
        fd = original_fd(2)
        if fd is not None:
            line = "meshlog: " + text.rstrip("\n").replace("\n", "\n    ") + "\n"
            write_all(fd, line.encode("utf-8", "backslashreplace"))
