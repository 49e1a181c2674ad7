"""A side file that another process has replaced by something else is an error, and leaves no descriptor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from meshlog_handler.errors import ProtocolError
from meshlog_handler.journal.side_files import read_side_file


def link(path: Path) -> None:
    """Make a link to a file that can be read."""
    path.symlink_to(__file__)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, link], ids=["directory", "fifo", "link"])
def test_what_is_no_file_is_not_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "journal.1"
    make(path)
    with pytest.raises(ProtocolError, match="cannot be read"):
        read_side_file(str(path))
