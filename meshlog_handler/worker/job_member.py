"""JobMember: this process's part in a job, whose processes share one client. Each of them can become it.

::

    enter -> the lock of the job is free: this process shows the job, and publishes the address of its client
          -> otherwise: join the client whose address is published
    the client is gone -> the same once more; the stream of this process continues

Meanwhile no logging call waits: the journal keeps the records until a client has shown them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from functools import partial
from typing import Final, Protocol

from ..errors import SettingError
from ..system import at_exit
from ..system.diagnostics import diagnose
from ..system.shielded import run_whole
from ..system.waits import capped, monotonic
from ..transport.election import Election
from ..transport.run_directory import has_left
from . import this_process
from .member import JoinOptions, Membership
from .next_client import PATIENCE_SEC, patiently

_EXIT_SEC: Final = 10.0
_HAND_OVER_SEC: Final = 3.0
_REJOIN_SEC: Final = 2.0
_LOOK_SEC: Final = 0.005


class Show(Protocol):
    """Shows the job in this process."""

    def __call__(self, *, exits: bool) -> str:
        """Start a client, and return its address; if this process `exits`, show what is left, and return "".

        It also returns "" if there are no handlers any more.
        """


class JobMember:
    """The part of this process in one job. Any thread may call the methods. A forked child takes part itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._election = Election(name)
        self._shows: list[Show] = []
        self._lock = threading.Lock()
        self._starting = threading.RLock()
        self.exits = False  # from then on, this process looks for no client
        self._own = ""  # the address of the client in this process
        self.begins_again = False

    def enter(self, show: Show | None, options: JoinOptions, *, begins_again: bool = False) -> bool:
        """Show the job by `show`, or join its client with `options`; do nothing if this process takes part already.

        `show` is used later, too, if the client ends and this process takes its place; without it, this process only joins.
        Returns False if there is no client after `PATIENCE_SEC`: the process that holds the lock of the job does not start one,
        or none holds it. Raises `OSError` if `show` does. `begins_again`: `show` starts a new client each time.
        """
        self.begins_again = self.begins_again or begins_again
        if show is not None:
            self._shows.append(show)
        at_exit.stop_at_exit(self, self._finish)
        member = this_process.current()
        if member is not None and member.options.job == self.name:
            return True
        return self._find(options.replaced(job=self.name), None)

    def retire(self, show: Show) -> None:
        """Do not show the job by `show` any more."""
        with contextlib.suppress(ValueError):  # it was removed before
            self._shows.remove(show)
        if vars(logging)["_lock"]._is_owned():  # another thread that has begun to show by it may need this lock
            return
        if self._starting.acquire(timeout=capped(_EXIT_SEC)):
            self._starting.release()

    @property
    def _show(self) -> Show | None:
        return next(reversed(tuple(self._shows)), None)

    def release(self) -> None:
        """Let another process show the job, because the client of this process has ended."""
        self._election.release()

    @property
    def address(self) -> str:
        """The address of the job's client; "" if it is not known at present."""
        return self._election.address()

    def leave(self) -> None:
        """Leave the client that shows the job, unless this process may show it."""
        member = this_process.current()
        if not self._shows and member is not None and member.options.job == self.name:
            this_process.leave()

    def find_next(self, member: Membership) -> None:
        """Let `member` go on with the next client, or with one of this process, if there is one in time."""
        try:
            self._find(member.options, member)
        except Exception as failure:
            if "interpreter shutdown" in str(failure):  # no thread can be started any more: `_finish` does it
                self.exits = True
            else:
                diagnose(f"job {self.name!r} cannot be shown by this process: {type(failure).__name__}: {failure}")

    def rejoin(self, options: JoinOptions) -> Membership | None:
        """In a forked child whose parent's client is gone: take part again."""
        # Not for long: it is a logging call that waits, and another thread may hold the locks in the other order.
        if self._lock.acquire(timeout=_REJOIN_SEC):
            try:
                self._look(options, None, _REJOIN_SEC)
            finally:
                self._lock.release()
        return this_process.current()

    def _finish(self) -> None:
        """At exit: leave the journal to the next client; show what is left, if there is no client any more."""
        # The journal is released before the lock is tried, and a process that showed looks for journals after its client has
        # released the lock. So one of the two processes finds the journal.
        self.exits = True
        gone = ""
        if self._lock.acquire(timeout=capped(_EXIT_SEC)):  # else a thread starts a client
            member = this_process.current()
            if member is not None and member.options.job == self.name and member.hung_up:
                gone = member.options.address
                member.abandon()
            self._lock.release()
        if self._election.claimed:
            at_exit.call_last(self, self._finish)  # once more, after the client of this process
            return
        # A process that showed ends after the next one shows: the program may kill the others as soon as the first has ended.
        deadline, handed_over = monotonic() + _EXIT_SEC, monotonic() + (_HAND_OVER_SEC if self._own else 0.0)
        while (show := self._show) is not None and monotonic() < deadline:
            unread = has_left(self.name, held=False)
            if not unread and (monotonic() >= handed_over or not has_left(self.name, held=True)):
                return
            if unread and self._election.claim():
                show(exits=True)
                self._election.release()
            elif self._election.address() != gone:  # another process has become the client
                return
            time.sleep(_LOOK_SEC)  # the client is about to end, or the next one to begin

    def _find(self, options: JoinOptions, lost: Membership | None) -> bool:
        """Claim the job or join its client, until either succeeds or the time is over; return whether one did."""
        with self._lock:
            return self._look(options, lost)

    def _look(self, options: JoinOptions, lost: Membership | None, seconds: float = PATIENCE_SEC) -> bool:
        """Do what `_find` does. The loop is not in the `with`: an interrupt at its end would leave the lock locked."""

        def attempt() -> bool:
            address, own = self._address()
            if not address or (lost is not None and address == lost.options.address):
                return False
            capture = options.capture and not own
            try:
                if lost is not None:
                    return lost.go_on(address, capture)
                run_whole(partial(this_process.join, options.replaced(address=address, capture=capture)))  # no half of one
                return True
            finally:
                if own:
                    self._let_join(lost)

        return patiently(attempt, lambda: not self.exits and (lost is None or lost.goes_on), seconds)

    def _let_join(self, lost: Membership | None) -> None:
        """Let other processes join, when what `lost` has logged is shown: until then, its predecessor does not end."""
        if lost is not None:
            # On another thread: the one that goes on receives the answer.
            with contextlib.suppress(RuntimeError):  # no thread can be started any more
                threading.Thread(target=self._publish, args=(self._own, lost), name="meshlog-job", daemon=True).start()
                return
        self._publish(self._own, None)

    def _publish(self, address: str, member: Membership | None) -> None:
        if member is not None:
            member.complete(capped(_HAND_OVER_SEC / 2))
        if self._election.claimed and self._own == address and self._election.address() != address:
            self._election.publish(address)

    def _address(self) -> tuple[str, bool]:
        """Return the address of the job's client, and whether it is that of this process; "" if it is not known yet."""
        if self._election.claimed:
            return self._own, True
        show = self._show
        address = "" if show is None else run_whole(partial(self._claim, show))  # Ctrl-C leaves no claim without a client
        return (address, True) if address else (self._election.address(), False)

    def _claim(self, show: Show) -> str:
        """Show the job in this process if no other does; return the address, or ""."""
        with self._starting:
            if show not in self._shows or not self._election.claim():
                return ""
            try:
                self._own = show(exits=False)
            except BaseException:
                self._election.release()
                raise
            if not self._own:
                self._election.release()
            return self._own

    def forget(self) -> None:
        """In a forked child: close the copy of the lock."""
        self._lock = threading.Lock()
        self._starting = threading.RLock()
        self.exits = False
        self._own = ""
        self._election.forget()


_current: JobMember | None = None


def of(name: str) -> JobMember:
    """Return this process's part in a job. Raises `SettingError` if it takes part in another one, and `OSError`."""
    global _current
    if _current is None:
        _current = JobMember(name)
    if _current.name != name:
        raise SettingError(f"job={name!r} is not possible: this process takes part in job {_current.name!r}. Use one name.")
    Membership.job = _current
    return _current


def retire(show: Show) -> None:
    """Do not show this process's job by `show` any more."""
    if _current is not None:
        _current.retire(show)


def _after_fork_in_child() -> None:
    if _current is not None:
        _current.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
