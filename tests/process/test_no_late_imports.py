"""The client's threads import nothing once it runs: a process forked during an import would wait for its lock for ever."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import logging, subprocess, sys
from meshlog_handler import LogClient

CHILD = '''
import logging, os, signal, meshlog_handler
meshlog_handler.install()
print("printed")
logging.info("logged %d", 1)
try:
    1 / 0
except ZeroDivisionError:
    logging.exception("failed")
os.kill(os.getpid(), signal.SIGKILL)
'''

client = LogClient(aggregate_window_sec=0.1).start()
before = set(sys.modules)
subprocess.run([sys.executable, "-c", CHILD], env=client.environ(), check=False)
client.flush()
late = sorted(set(sys.modules) - before)
client.stop()
print("LATE", late)
"""


def test_a_client_that_runs_imports_nothing_more() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert "LATE []" in done.stdout
