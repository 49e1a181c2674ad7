"""RankFiles and RankFile: complete files per rank and stream."""

from __future__ import annotations

import gzip
import logging
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshlog_handler.output.rank_files import RankFile, RankFiles
from meshlog_handler.settings import Rotation

from .test_formatter import failure, make


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def files(tmp_path: Path, reports: list[str]) -> Iterator[RankFiles]:
    it = RankFiles(tmp_path / "logs", report=reports.append)
    yield it
    it.close()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_each_rank_and_stream_has_its_file(files: RankFiles, tmp_path: Path) -> None:
    files.line(3, "stdout", b"printed")
    files.line(3, "stderr", b"complained\n")
    files.line(None, "stdout", b"here")
    files.record(11, make("logged", created=0.0, msecs=0.0))
    files.record(None, make("own"))
    files.flush()
    found = contents(tmp_path / "logs")
    assert set(found) == {"rank-3.stdout", "rank-3.stderr", "client.stdout", "rank-11.log", "client.log"}
    assert found["rank-3.stdout"] == b"printed\n"
    assert found["rank-3.stderr"] == b"complained\n"
    assert found["rank-11.log"].endswith(b" INFO train: logged\n")


def test_records_include_tracebacks(files: RankFiles, tmp_path: Path) -> None:
    files.record(0, make("\x1b[31mfailed\x1b[0m é", level=logging.ERROR, exc_info=failure()))
    files.flush()
    lines = contents(tmp_path / "logs")["rank-0.log"].decode().splitlines()
    assert lines[0].endswith(" ERROR train: failed é")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-2:] == ["ValueError: first", "second"]


def test_a_record_that_cannot_be_formatted_is_noted_in_the_file(files: RankFiles, tmp_path: Path) -> None:
    files.record(0, logging.makeLogRecord({"name": "train", "msg": "%d", "args": ("x",)}))
    files.flush()
    assert b"a record of train that cannot be formatted: TypeError" in contents(tmp_path / "logs")["rank-0.log"]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\x1b[1;31mred\x1b[0m\x1b]0;title\x07", b"red"),
        (b"\xff\xfe\x00", b"\xff\xfe\x00"),
        (b"10%\r20%\r30%", b"30%"),
        (b"windows\r\n", b"windows"),
        (b"", b""),
    ],
)
def test_captured_bytes_are_written_without_colours_and_carriage_returns(
    raw: bytes, expected: bytes, files: RankFiles, tmp_path: Path
) -> None:
    files.line(0, "stdout", raw)
    files.flush()
    assert contents(tmp_path / "logs") == {"rank-0.stdout": expected + b"\n"}


def test_two_clients_write_different_files(files: RankFiles, tmp_path: Path) -> None:
    others = RankFiles(tmp_path / "logs", report=lambda text: None, rotation=Rotation(30, 2))
    for number in range(3):
        files.line(0, "stdout", b"mine %d" % number)
        files.flush()
        others.line(0, "stdout", b"theirs, and longer %d" % number)
        others.line(1, "stdout", b"of another rank")
        others.flush()
    assert contents(tmp_path / "logs") == {
        "rank-0.stdout": b"mine 0\nmine 1\nmine 2\n",
        "rank-0.2.stdout": b"theirs, and longer 2\n",
        "rank-0.2.stdout.1": b"theirs, and longer 1\n",
        "rank-0.2.stdout.2": b"theirs, and longer 0\n",
        "rank-1.stdout": b"of another rank\n",
        "rank-1.stdout.1": b"of another rank\n",
        "rank-1.stdout.2": b"of another rank\n",
    }
    others.close()
    files.forget()
    later = RankFile(str(tmp_path / "logs" / "rank-0.stdout"), Rotation(0, 0), lambda failure: None)
    later.append([b"when nobody has it\n"])
    later.close()
    assert contents(tmp_path / "logs")["rank-0.stdout"].endswith(b"mine 2\nwhen nobody has it\n")


def test_nothing_is_created_or_written_before_flush(files: RankFiles, tmp_path: Path) -> None:
    files.line(0, "stdout", b"x")
    assert not (tmp_path / "logs").exists()
    files.flush()
    files.line(0, "stdout", b"y")
    assert contents(tmp_path / "logs") == {"rank-0.stdout": b"x\n"}
    files.close()
    assert contents(tmp_path / "logs") == {"rank-0.stdout": b"x\ny\n"}


def test_pending_lines_are_bounded(files: RankFiles, tmp_path: Path) -> None:
    for _ in range(300):
        files.line(0, "stdout", b"x" * 10_000)
    assert (tmp_path / "logs" / "rank-0.stdout").stat().st_size > 1_900_000


@settings(max_examples=40)
@given(st.lists(st.lists(st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")), max_size=20), max_size=8))
def test_rotation_splits_no_line_and_respects_the_size(
    tmp_path_factory: pytest.TempPathFactory, ticks: list[list[bytes]]
) -> None:
    directory = tmp_path_factory.mktemp("rotated")
    file = RankFile(str(directory / "f"), Rotation(40, 500), lambda failure: pytest.fail(str(failure)))
    expected = []
    for tick in ticks:
        lines = [raw + b"\n" for raw in tick]
        expected += lines
        file.append(lines)
        assert lines == []
    file.close()
    names = sorted((path.name for path in directory.iterdir()), key=lambda name: -int(name[2:] or 0))
    parts = [(directory / name).read_bytes() for name in names]
    assert b"".join(parts) == b"".join(expected)
    assert all(part.endswith(b"\n") and len(part) <= 40 for part in parts)
    shutil.rmtree(directory)


def test_the_oldest_backups_are_removed(tmp_path: Path, reports: list[str]) -> None:
    files = RankFiles(tmp_path, report=reports.append, rotation=Rotation(10, 2))
    for number in range(8):
        files.line(0, "stdout", b"line %d" % number)
    files.close()
    assert contents(tmp_path) == {
        "rank-0.stdout.2": b"line 5\n",
        "rank-0.stdout.1": b"line 6\n",
        "rank-0.stdout": b"line 7\n",
    }


def test_a_line_longer_than_the_limit_is_not_split(tmp_path: Path, reports: list[str]) -> None:
    files = RankFiles(tmp_path, report=reports.append, rotation=Rotation(10, 3))
    for raw in (b"x" * 100, b"a", b"b", b"y" * 100):
        files.line(0, "stdout", raw)
    files.close()
    assert contents(tmp_path) == {
        "rank-0.stdout.2": b"x" * 100 + b"\n",
        "rank-0.stdout.1": b"a\nb\n",
        "rank-0.stdout": b"y" * 100 + b"\n",
    }


@pytest.mark.parametrize(("max_bytes", "backup_count"), [(0, 5), (10, 0)])
def test_rotation_can_be_turned_off(max_bytes: int, backup_count: int, tmp_path: Path, reports: list[str]) -> None:
    files = RankFiles(tmp_path, report=reports.append, rotation=Rotation(max_bytes, backup_count))
    for _ in range(10):
        files.line(0, "stdout", b"a line")
    files.close()
    assert contents(tmp_path) == {"rank-0.stdout": b"a line\n" * 10}


def test_a_file_that_cannot_be_rotated_grows(tmp_path: Path, reports: list[str]) -> None:
    files = RankFiles(tmp_path, report=reports.append, rotation=Rotation(10, 1))
    (tmp_path / "rank-0.stdout.1" / "in the way").mkdir(parents=True)
    for number in range(4):
        files.line(0, "stdout", b"line %d" % number)
    files.close()
    assert (tmp_path / "rank-0.stdout").read_bytes() == b"line 0\nline 1\nline 2\nline 3\n"
    assert files.failed == 0
    assert len(reports) == 1


def test_an_earlier_run_is_continued(tmp_path: Path, reports: list[str]) -> None:
    for text in (b"first", b"second"):
        files = RankFiles(tmp_path, report=reports.append)
        files.line(0, "stdout", text)
        files.close()
    assert contents(tmp_path) == {"rank-0.stdout": b"first\nsecond\n"}


def test_the_number_of_open_files_is_limited(tmp_path: Path, reports: list[str]) -> None:
    files = RankFiles(tmp_path, report=reports.append, max_open=4)
    before = len(os.listdir("/dev/fd"))
    for number in range(3):
        for rank in range(50):
            files.line(rank, "stdout", b"%d" % number)
        files.flush()
        assert len(os.listdir("/dev/fd")) <= before + 4
    files.close()
    assert contents(tmp_path) == {f"rank-{rank}.stdout": b"0\n1\n2\n" for rank in range(50)}
    assert len(os.listdir("/dev/fd")) == before


def test_a_directory_that_cannot_be_created_is_reported_once_and_losses_are_counted(tmp_path: Path, reports: list[str]) -> None:
    (tmp_path / "taken").write_text("a file")
    files = RankFiles(tmp_path / "taken", report=reports.append)
    for _ in range(3):
        files.line(0, "stdout", b"x")
        files.line(1, "stderr", b"y")
        files.record(0, make("z"))
        files.flush()
    assert len(reports) == 1
    assert str(tmp_path / "taken") in reports[0]
    for _ in range(2):
        files.close()
        assert files.failed == 9
        assert reports[1:] == [f"{tmp_path / 'taken'}: 9 lines and records could not be written."]


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limit files of this process to 100 bytes. To the writer, this looks like a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_loses_only_lines_that_do_not_fit(
    small_files: None, files: RankFiles, tmp_path: Path, reports: list[str]
) -> None:
    for _ in range(12):  # 13 bytes each: seven fit, and a part of the eighth
        files.line(0, "stdout", b"twelve bytes")
    files.flush()
    assert files.failed == 5
    assert len(reports) == 1
    assert contents(tmp_path / "logs")["rank-0.stdout"] == b"twelve bytes\n" * 7 + b"twelve by"
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    files.line(0, "stdout", b"room again")
    files.flush()
    assert contents(tmp_path / "logs")["rank-0.stdout"].endswith(b"twelve by\nroom again\n")
    assert files.failed == 5


def test_files_are_written_after_logging_config_has_closed_all_handlers(files: RankFiles, tmp_path: Path) -> None:
    files.line(0, "stdout", b"before")
    files.flush()
    for reference in list(logging._handlerList):  # type: ignore[attr-defined]  # private to the standard library
        if isinstance(handler := reference(), RankFile):
            handler.close()
    files.line(0, "stdout", b"after")
    files.flush()
    assert contents(tmp_path / "logs") == {"rank-0.stdout": b"before\nafter\n"}


def test_a_rank_file_works_as_a_handler(tmp_path: Path) -> None:
    file = RankFile(str(tmp_path / "f"), Rotation(0, 0), lambda failure: None)
    file.handle(make("größe \udc80"))
    file.close()
    assert (tmp_path / "f").read_bytes() == "größe \\udc80\n".encode()


def test_rotated_files_are_compressed(tmp_path: Path, reports: list[str]) -> None:
    files = RankFiles(tmp_path, report=reports.append, rotation=Rotation(10, 2, compress=True))
    for number in range(4):
        files.line(0, "stdout", b"line %d..." % number)
        files.flush()
    files.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["rank-0.stdout", "rank-0.stdout.1.gz", "rank-0.stdout.2.gz"]
    assert (tmp_path / names[0]).read_bytes() == b"line 3...\n"
    assert [gzip.decompress((tmp_path / name).read_bytes()) for name in names[1:]] == [b"line 2...\n", b"line 1...\n"]
    assert reports == []


def test_a_rotated_file_that_a_killed_client_has_not_compressed_is_kept(tmp_path: Path, reports: list[str]) -> None:
    (tmp_path / "rank-0.stdout.1.gz.part").write_bytes(b"of the killed client\n")
    (tmp_path / "rank-0.stdout.1.gz.making").write_bytes(b"torn")
    files = RankFiles(tmp_path, report=reports.append, rotation=Rotation(10, 2, compress=True))
    for number in range(2):
        files.line(0, "stdout", b"line %d..." % number)
        files.flush()
    files.close()
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in found.items()} == {
        "rank-0.stdout": b"line 1...\n",
        "rank-0.stdout.1.gz": b"line 0...\n",
        "rank-0.stdout.2.gz": b"of the killed client\n",
    }


def test_files_are_rotated_at_a_time(tmp_path: Path, reports: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    files = RankFiles(tmp_path, report=reports.append, rotation=Rotation(when="H"))

    def write(text: bytes) -> None:
        files.line(0, "stdout", text)
        files.flush()

    write(b"first")
    now += 3599
    write(b"still first")
    now += 1
    write(b"second")
    files.close()
    assert contents(tmp_path) == {"rank-0.stdout": b"second\n", "rank-0.stdout.1": b"first\nstill first\n"}
    os.utime(tmp_path / "rank-0.stdout", (now, now))
    now += 7200
    later = RankFiles(tmp_path, report=reports.append, rotation=Rotation(when="H"))
    later.line(0, "stdout", b"of a later run")
    later.close()
    assert contents(tmp_path)["rank-0.stdout"] == b"of a later run\n"
    assert contents(tmp_path)["rank-0.stdout.1"] == b"second\n"
    assert reports == []
