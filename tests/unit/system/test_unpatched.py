"""A wait for greenlets passes on what a signal handler raises."""

from __future__ import annotations

import pytest

from meshlog_handler.system import unpatched


class Alarmed(Exception):
    """What a signal handler of the program raises."""


def test_an_exception_of_a_signal_handler_during_the_wait_reaches_the_caller() -> None:
    def interrupted() -> bool:
        raise Alarmed

    with pytest.raises(Alarmed):
        unpatched.let_greenlets_leave(1.0, interrupted)
