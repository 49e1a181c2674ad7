"""Interpreters that cannot have a client or join one."""

from __future__ import annotations

import threading

from ..errors import SettingError


def check_interpreter(what: str) -> None:
    """Raise `SettingError` if this interpreter allows no daemon threads, as those of `InterpreterPoolExecutor`."""
    try:
        threading.Thread(name="never started", daemon=True)
    except RuntimeError as error:
        raise SettingError(
            f"{what} does not work in this interpreter, which is not the main one of its process: {error}. Send its records to "
            f"the main interpreter with a logging.handlers.QueueHandler (docs/integrations.md shows how), or use a "
            f"ProcessPoolExecutor."
        ) from None
