"""CPython's own tests of `QueueListener`, with `LogClient` in its place."""

from __future__ import annotations

import importlib.util

import pytest

from .procs import run_python

PROGRAM = """
import logging.handlers, os, sys, unittest
from meshlog_handler import LogClient

class Client(LogClient):
    def __init__(self, queue, *handlers, respect_handler_level=False):
        handlers = handlers or (logging.NullHandler(),)  # else it shows on the console
        super().__init__(queue, *handlers, respect_handler_level=respect_handler_level)

logging.handlers.QueueListener = Client
from test.support import threading_helper
threading_helper.threading_cleanup = lambda *key: None  # up to Python 3.11, it waits until nothing refers to ended threads
from test import test_logging

names = ["QueueHandlerTest", "QueueListenerTest"]
suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(getattr(test_logging, name)) for name in names)
result = unittest.TextTestRunner(verbosity=2).run(suite)
sys.exit(0 if result.wasSuccessful() and result.testsRun >= 9 else 1)
"""


@pytest.mark.skipif(importlib.util.find_spec("test.test_logging") is None, reason="this Python comes without its tests")
def test_the_tests_of_the_standard_library_pass_with_a_client() -> None:
    done = run_python("-W", "ignore", "-c", PROGRAM)
    assert "meshlog:" not in done.stderr, done.stderr
