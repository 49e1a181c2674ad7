"""Messages about the package itself, on the original stderr."""

from __future__ import annotations

import contextlib
from typing import Final

from ..errors import printable
from .descriptors import write_all
from .fd_capture import original_fd

_MAX_DIAGNOSIS: Final = 16 * 1024


def diagnose(text: str) -> None:
    """Write a message about the package itself to the original stderr, outside all captures. Never raises.

    Any thread may call it. A message that cannot be written is lost. A message may quote what a peer sent: a long one is cut,
    and control characters are escaped.
    """
    with contextlib.suppress(Exception):  # there is no other place to report it
        fd = original_fd(2)
        if fd is not None:
            lines = [printable(line, _MAX_DIAGNOSIS) for line in text[:_MAX_DIAGNOSIS].rstrip("\n").split("\n")]
            if len(text) > _MAX_DIAGNOSIS:
                lines[-1] += f"... [{len(text) - _MAX_DIAGNOSIS:,} more characters]"
            write_all(fd, ("meshlog: " + "\n    ".join(lines) + "\n").encode("utf-8", "backslashreplace"))
