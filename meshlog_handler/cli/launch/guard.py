"""Guard: ends the ranks of a launcher that was killed.

::

    launcher --- "watch 811", "leave 811", "end" ---> a shell: at the end of the pipe without "end", kill -- -811

A shell, since every Unix has one, it needs 1 MB, and a kill by the launcher's name does not match it. The end of a pipe is
reported by every kernel, no matter how the launcher ended. (Linux can send a signal to a child when its parent ends. But then
another program would have to start each rank, and the children of ranks would continue.)
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import Final

from ...system.diagnostics import diagnose

# The number of an ended group may be used again. Each pass removes ended groups, so that none gets a signal later.
_SCRIPT: Final = """
trap '' HUP INT QUIT TERM PIPE TSTP
groups=
without() { kept=; for each in $groups; do [ "$each" = "$1" ] || kept="$kept $each"; done; groups=$kept; }
while read -r word group; do
    case $word in
        watch) groups="$groups $group" ;;
        leave) without "$group" ;;
        end) exit ;;
    esac
done
left=$1
for number in TERM KILL; do
    for group in $groups; do kill -s $number -- -"$group" || without "$group"; done
    while [ $number = TERM ] && [ "$left" -gt 0 ] && [ -n "$groups" ]; do
        sleep 0.1
        left=$((left - 1))
        for group in $groups; do kill -s 0 -- -"$group" || without "$group"; done
    done
done
"""


class Guard:
    """Ends process groups if this process is killed. `grace` is in seconds, from SIGTERM to SIGKILL. One owner."""

    def __init__(self, grace: float) -> None:
        self._shell: subprocess.Popen[bytes] | None = None
        try:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "guard", str(max(0, round(grace * 10)))],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath},
                start_new_session=True,
            )
        except OSError as failure:
            diagnose(f"the ranks will continue if this process is killed: no shell can be started to end them. {failure}")

    def watch(self, group: int) -> None:
        """End this process group if this process ends before it calls `leave` or `close`."""
        self._send(f"watch {group}")

    def leave(self, group: int) -> None:
        """Forget this process group, since its number may be used again."""
        self._send(f"leave {group}")

    def close(self) -> None:
        """Forget all process groups, and wait until the shell has exited, which is soon."""
        self._send("end")
        if self._shell is not None:
            self._shell.communicate()
            self._shell = None

    def _send(self, line: str) -> None:
        if self._shell is not None and self._shell.stdin is not None:
            with contextlib.suppress(OSError):  # the shell was killed, so the ranks are not guarded
                self._shell.stdin.write(f"{line}\n".encode())
