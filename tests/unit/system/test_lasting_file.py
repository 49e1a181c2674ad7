"""A file that outlives its writer is written although the program closes descriptors, and no file of the program is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlog_handler.system.lasting_file import LastingFile


@pytest.fixture
def file(tmp_path: Path) -> Iterator[LastingFile]:
    """A file of eight bytes."""
    path = tmp_path / "lasting"
    path.write_bytes(b"01234567")
    made = LastingFile(str(path), os.open(path, os.O_RDWR))
    yield made
    made.close()


def test_the_program_closes_the_descriptor_and_reuses_its_number(file: LastingFile, tmp_path: Path) -> None:
    own = tmp_path / "of the program"
    own.write_bytes(b"untouched")
    number = file.fd
    os.dup2(other := os.open(own, os.O_RDWR), number)
    os.close(other)
    try:
        file.write(b"ab", 2)
        assert file.read(8, 0) == b"01ab4567"
        os.close(file.fd)
        assert file.read(8, 0) == b"01ab4567"
    finally:
        os.close(number)
    assert own.read_bytes() == b"untouched"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_gone_is_an_error(replaced: bool, file: LastingFile) -> None:
    path = Path(file.path)
    path.rename(path.with_name("elsewhere"))
    if replaced:
        path.write_bytes(b"of another")
    file.write(b"ab", 2)
    os.close(file.fd)
    with pytest.raises(OSError, match="lasting"):
        file.write(b"cd", 2)
    assert not replaced or path.read_bytes() == b"of another"


def test_a_truncated_file_is_written_again(file: LastingFile) -> None:
    os.truncate(file.path, 0)
    assert file.read(8, 0) == b""
    file.write(b"ab", 2)
    assert file.read(8, 0) == b"\0\0ab"
