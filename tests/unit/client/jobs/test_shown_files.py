"""The sizes of log files tell whether a killed client has written its last record."""

from __future__ import annotations

import logging
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


def noted(files: list[Path], directory: Path) -> tuple[str, int]:
    """Note the sizes of the files as a client does; return the table and the number for the set of files."""
    table = ShownFiles(str(directory / "files"))
    handlers = [logging.FileHandler(path, delay=True) for path in files]
    number = table.of([*handlers, logging.StreamHandler()])
    table.note(number)
    table.close()
    for handler in handlers:
        handler.close()
    return table.path, number


def test_files_that_have_grown_were_written(files: list[Path], tmp_path: Path) -> None:
    table, number = noted(files, tmp_path)
    assert not were_written(table, number)
    with files[0].open("a") as file:
        file.write("record\n")
    assert not were_written(table, number), "the second handler has not written it"
    with files[1].open("a") as file:
        file.write("record\n")
    assert were_written(table, number)


def test_a_rotated_file_was_written_if_the_new_one_has_content(files: list[Path], tmp_path: Path) -> None:
    table, number = noted(files[:1], tmp_path)
    os.rename(files[0], tmp_path / "a.log.1")
    assert not were_written(table, number), "the client was killed before it opened the new file"
    files[0].touch()
    assert not were_written(table, number), "and here before it wrote"
    files[0].write_text("record\n")
    assert were_written(table, number)


def test_without_files_or_a_table_nothing_is_known(files: list[Path], tmp_path: Path) -> None:
    table, number = noted([], tmp_path)
    assert number == 0
    assert not were_written(table, number)
    assert not were_written(table, 0b100)
    assert not were_written(str(tmp_path / "nothing"), 1)
    Path(table).write_bytes(b"x" * 3000)
    assert not were_written(table, 1)
