"""The reception, with a proc that is this process's child."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from meshlog_handler import source as source_module
from meshlog_handler.messages import Hello, Welcome
from meshlog_handler.reception import Reception
from meshlog_handler.source import Source

from ..waiting import until


def a_source(pid: int) -> tuple[Source, socket.socket]:
    """Return what the client knows of a proc, and the proc's end of the connection."""
    ours, theirs = socket.socketpair()
    return Source(ours, Hello(pid=pid), 0, "", {}, {}, 1000, pid), theirs
