"""Ranks for an operator to look at: one logs an error, one is slower than the others. They end at a signal."""

from __future__ import annotations

import logging
import os
import time

from meshlog_handler import install

install()
log = logging.getLogger("app")
rank = int(os.environ["RANK"])
if rank == 1:
    log.error("disk \x1b[31mfull")
for step in range(3000):
    log.info("step %d", step)
    time.sleep(0.02)
