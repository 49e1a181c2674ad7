"""Acts between two steps of a function. Any two will do: Python can be asked to stop at each step."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any

import meshlog_handler

_PACKAGE = os.path.dirname(meshlog_handler.__file__)


def at_a_step_of(names: Collection[str], now: Callable[[], bool], act: Callable[[], object]) -> None:
    """Call `act` before a step (a bytecode) of these functions, in this thread and those it starts, if `now` returns True.

    Parameters
    ----------
    names : collection of str
        Names of functions of the package: ``module.function``, or ``module.*``.
    now : Callable[[], bool]
        Called before each step, until it returns True.
    act : Callable[[], object]
        If it raises, the function raises the same at that step.
    """
    told = False

    def step(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal told
        if told:
            return None
        if event == "opcode" and now():
            told = True
            act()
        return step

    def call(frame: FrameType, event: str, _: Any) -> Any:
        if told or not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        module = os.path.basename(frame.f_code.co_filename).removesuffix(".py")
        if f"{module}.{frame.f_code.co_name}" not in names and f"{module}.*" not in names:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return step

    # Python 3.12 reports bytecodes only if they were requested before the tracing begins.
    sys._getframe().f_trace_opcodes = True
    threading.settrace(call)
    sys.settrace(call)


def kill_myself() -> None:
    """Die at once, as with ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)
