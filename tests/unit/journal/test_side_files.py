"""Side files whose place other processes have changed: removed, or replaced by something else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from meshlog_handler.errors import ProtocolError
from meshlog_handler.journal.side_files import SideFiles, read_side_file, side_path


def link(path: Path) -> None:
    """Make a link to a file that can be read."""
    path.symlink_to(__file__)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, link], ids=["directory", "fifo", "link"])
def test_what_is_no_file_is_not_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "journal.1"
    make(path)
    with pytest.raises(ProtocolError, match="cannot be read"):
        read_side_file(str(path))


def removed_run_directory(tmp_path: Path, mode: int) -> str:
    """Return the path of a journal in a directory that was removed, in a parent with this mode."""
    parent = tmp_path / "parent"
    parent.mkdir(mode)
    parent.chmod(mode)
    return str(parent / "run" / "journal")


@pytest.mark.parametrize("parent", [True, False], ids=["directory", "directory and parent"])
def test_a_large_record_makes_a_removed_run_directory_again(parent: bool, tmp_path: Path) -> None:
    journal = removed_run_directory(tmp_path, 0o700)
    if not parent:
        (tmp_path / "parent").rmdir()
    number = SideFiles(journal, 1 << 20).put(b"large", replace=False, patient=True)
    assert read_side_file(side_path(journal, number)) == b"large"
    for path in (tmp_path / "parent", tmp_path / "parent" / "run"):
        assert path.stat().st_mode & 0o777 == 0o700


def test_no_run_directory_is_made_again_where_others_could_change_it(tmp_path: Path) -> None:
    journal = removed_run_directory(tmp_path, 0o777)
    with pytest.raises(FileNotFoundError):
        SideFiles(journal, 1 << 20).put(b"large", replace=False, patient=True)
    assert list((tmp_path / "parent").iterdir()) == []
