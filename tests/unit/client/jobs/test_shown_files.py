"""The sizes of log files tell whether a killed client has written its last record."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshlog_handler.client.jobs.shown_files import ShownFiles, were_written


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files with some content."""
    found = [tmp_path / name for name in ("a.log", "b.log")]
    for path in found:
        path.write_text("before\n")
    return found


def noted(files: list[Path], directory: Path) -> tuple[str, int, bytes]:
    """Note what the files are as a client does; return the table, the number for the set of files, and their states."""
    table = ShownFiles(str(directory / "files"))
    number = sum(table.bit(str(path)) for path in files)
    states = table.states(number)
    table.close()
    return table.path, number, states


def test_files_that_have_grown_were_written(files: list[Path], tmp_path: Path) -> None:
    known = noted(files, tmp_path)
    assert not were_written(*known)
    with files[0].open("a") as file:
        file.write("record\n")
    assert not were_written(*known), "the second handler has not written it"
    with files[1].open("a") as file:
        file.write("record\n")
    assert were_written(*known)


def test_a_rotated_file_was_written_if_the_new_one_has_content(files: list[Path], tmp_path: Path) -> None:
    known = noted(files[:1], tmp_path)
    os.rename(files[0], tmp_path / "a.log.1")
    assert not were_written(*known), "the client was killed before it opened the new file"
    files[0].touch()
    assert not were_written(*known), "and here before it wrote"
    files[0].write_text("record\n")
    assert were_written(*known)


def test_without_files_or_a_table_nothing_is_known(files: list[Path], tmp_path: Path) -> None:
    table, number, states = noted([], tmp_path)
    assert (number, states) == (0, b"")
    assert not were_written(table, number, states)
    assert not were_written(table, 0b100, bytes(1000))
    assert not were_written(str(tmp_path / "nothing"), 1, bytes(1000))
    Path(table).write_bytes(b"x" * 3000)
    assert not were_written(table, 1, bytes(1000))


def test_more_files_than_the_table_has_room_for_are_not_known(tmp_path: Path) -> None:
    table = ShownFiles(str(tmp_path / "files"))
    bits = {table.bit(str(tmp_path / str(number))) for number in range(100)}
    assert len(bits) == 63
    assert not were_written(table.path, max(bits), table.states(max(bits)))
    table.close()
