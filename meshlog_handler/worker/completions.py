"""What a worker asks the client itself: to show everything that it has logged, and to say so."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from ..protocol.messages import Complete, Completed, Message
from ..system.futures import Awaited, finished
from ..system.waits import none_if_endless
from .record_stream import internal_threads

_MARGIN_SEC = 0.5


class CompletionRequests:
    """The requests that wait for the client's reply. Any thread may call any method."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Awaited[bool]] = {}
        self._closed = False

    def ask(self, post: Callable[[Message], bool], seconds: float) -> bool:
        """Send a request with `post`; return whether the client has shown everything within `seconds`."""
        if threading.get_ident() in internal_threads:  # a handler of the client would wait for itself
            return False
        number, future = next(self._numbers), Awaited[bool]()
        self._waiting[number] = future
        try:
            request = Complete(number, none_if_endless(seconds))
            if self._closed or not post(request):  # `close` sets it before it looks for those who wait
                return False
            return finished(future, seconds + _MARGIN_SEC) and future.result()
        finally:
            del self._waiting[number]

    def note(self, reply: Completed) -> None:
        """Take a reply of the client."""
        self._give(reply.number, reply.shown)

    def close(self) -> None:
        """Let all calls of `ask` return False, because the client is gone."""
        self._closed = True
        for number in tuple(self._waiting):
            self._give(number, False)

    def reopen(self) -> None:
        """Take requests again, because another client has taken the place of the last one."""
        self._closed = False

    def _give(self, number: int, shown: bool) -> None:
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(shown)
