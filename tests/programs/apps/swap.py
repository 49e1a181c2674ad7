"""Swaps a program's handlers for MeshHandlers that show by them, where ``HANDLERS`` in the environment asks for it.

``HANDLERS=mesh``: one MeshHandler for the handlers of a logger. ``HANDLERS=each``: one for every single handler.
"""

from __future__ import annotations

import copy
import faulthandler
import logging
import os
import signal

KIND = os.environ.get("HANDLERS", "plain")

faulthandler.register(signal.SIGRTMIN + 10)  # a test that waits in vain asks where all threads are


def swapped(config: dict) -> dict:
    """Return a ``dictConfig`` dictionary in which MeshHandlers stand before the handlers that loggers use."""
    if KIND == "plain":
        return config
    config = copy.deepcopy(config)
    for logger in (config.get("root", {}), *config.get("loggers", {}).values()):
        names = logger.get("handlers", [])
        sets = [names] if KIND == "mesh" and names else [[name] for name in names]
        ours = {"mesh_" + "_".join(each): {"class": "meshlog_handler.MeshHandler", "handlers": each} for each in sets}
        config["handlers"].update(ours)
        logger["handlers"] = list(ours)
    return config


def swapped_handlers(*handlers: logging.Handler) -> list[logging.Handler]:
    """Return the handlers, or a MeshHandler that shows by them, or one for each."""
    if KIND == "plain":
        return list(handlers)
    from meshlog_handler import MeshHandler

    return [MeshHandler(handlers=handlers)] if KIND == "mesh" else [MeshHandler(handlers=[each]) for each in handlers]
