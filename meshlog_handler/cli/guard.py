"""Guard: ends the ranks of a launcher that was killed, and could not do so itself.

::

    launcher --- "watch 811", "leave 811", "end" ---> a shell: at the end of the pipe without "end", kill -- -811

It is a shell, since every Unix has one, it needs a megabyte, and a kill by the launcher's name does not find it. The end of
a pipe is told by every kernel, and whatever ended the launcher. (Linux could send a signal to a child when its parent ends;
but then each rank would have to be started by another program first, and the children of ranks would go on.)
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import Final

from ..system.fd_capture import diagnose

# A group whose number another one may have got meanwhile is not asked again: those that are gone are left out at each look.
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
    """Looks after process groups for as long as this process cannot. One owner.

    Parameters
    ----------
    grace : float
        Seconds from SIGTERM to SIGKILL.
    """

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
            diagnose(f"should this process be killed, its ranks go on: no shell can be started to end them ({failure})")

    def watch(self, group: int) -> None:
        """End this process group if this process is gone before it calls `leave` or `close`."""
        self._tell(f"watch {group}")

    def leave(self, group: int) -> None:
        """Leave this process group alone from now on: its number may become another's."""
        self._tell(f"leave {group}")

    def close(self) -> None:
        """Leave alone what is left, and end. Returns when that is so, which is soon."""
        self._tell("end")
        if self._shell is not None:
            self._shell.communicate()
            self._shell = None

    def _tell(self, line: str) -> None:
        if self._shell is not None and self._shell.stdin is not None:
            with contextlib.suppress(OSError):  # somebody has killed it: then nobody ends the ranks
                self._shell.stdin.write(f"{line}\n".encode())
