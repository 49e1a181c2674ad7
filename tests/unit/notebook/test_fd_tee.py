"""FdTee: bytes written to a captured descriptor are shown as text. The tests capture the descriptor of a file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlog_handler.notebook import fd_tee as echo_module
from meshlog_handler.notebook.fd_tee import FdTee
from tests.waiting import until


class Place:
    """A file with a captured descriptor, and the text that is shown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        self.shown: list[str] = []
        self.echo = FdTee({self.fd: self.shown.append})

    def write(self, data: bytes) -> None:
        os.write(self.fd, data)

    def kept(self) -> bytes:
        """Return the content of the file."""
        return self.path.read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    it = Place(tmp_path / "file")
    yield it
    it.echo.stop()
    os.close(it.fd)


def test_written_text_is_shown_and_does_not_reach_the_file(place: Place) -> None:
    place.write(b"before\n")
    place.echo.start()
    assert place.echo.active
    place.write(b"one\ntwo\n")
    until(lambda: "".join(place.shown) == "one\ntwo\n")
    place.echo.stop()
    assert not place.echo.active
    place.write(b"after\n")
    assert "".join(place.shown) == "one\ntwo\n"
    assert place.kept() == b"before\nafter\n"


def test_drain_shows_earlier_text_including_an_unfinished_line(place: Place) -> None:
    place.echo.start()
    for number in range(100):
        place.write(b"%d\n" % number)
        place.write(b"half")
        place.echo.drain()
        assert "".join(place.shown).endswith(f"{number}\nhalf")


def test_a_line_written_in_pieces_is_shown_in_one_piece(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo_module, "_LINE_MS", 60_000)
    place.echo.start()
    place.write(b"b")
    place.write("y gr\u00fc".encode()[:-1])
    place.write("y gr\u00fc".encode()[-1:])
    assert place.shown == []
    place.write(b"\n10%\r20%")
    until(lambda: place.shown and place.shown[-1].endswith("\r"))
    assert "".join(place.shown) == "by gr\u00fc\n10%\r"
    assert all(text.endswith(("\n", "\r")) for text in place.shown)


def test_an_unfinished_line_is_shown_soon(place: Place) -> None:
    place.echo.start()
    place.write(b"continue? ")
    until(lambda: place.shown == ["continue? "])
    place.write(b"\xff\n")
    until(lambda: "".join(place.shown) == "continue? \\xff\n")


def test_a_second_start_or_stop_has_no_effect(place: Place) -> None:
    place.echo.stop()
    for _ in range(2):
        place.echo.start()
        place.echo.start()
        place.write(b"line\n")
        place.echo.stop()
        place.echo.stop()
    assert "".join(place.shown) == "line\nline\n"
    assert place.kept() == b""


def test_after_stop_late_output_of_another_writer_goes_to_the_original_file(place: Place) -> None:
    place.echo.start()
    left = os.dup(place.fd)
    place.echo.stop()
    os.write(left, b"late\n")
    os.close(left)
    until(lambda: place.kept() == b"late\n")
    assert place.shown == []


def test_an_error_of_the_route_is_reported_once_and_later_text_is_shown(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    show = place.shown.append

    def fail(text: str) -> None:
        if "bad" in text:
            raise ValueError("no such stream")
        show(text)

    place.echo = FdTee({place.fd: fail})
    place.echo.start()
    for text in (b"bad\n", b"good\n", b"bad\n", b"better\n"):
        place.write(text)
        place.echo.drain()
    assert "".join(place.shown) == "good\nbetter\n"
    assert capfd.readouterr().err.count("ValueError('no such stream')") == 1


def test_a_blocked_stream_does_not_delay_stop(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(echo_module, "_STOP_SEC", 0.01)
    reached, go_on = threading.Event(), threading.Event()

    def hold(text: str) -> None:
        reached.set()
        go_on.wait(10)

    place.echo = FdTee({place.fd: hold})
    place.echo.start()
    place.write(b"held\n")
    assert reached.wait(10)
    place.write(b"more\n")
    place.echo.stop()
    assert place.kept() == b"more\n"
    assert "stream for this process's captured output is blocked" in capfd.readouterr().err
    go_on.set()


def test_stop_closes_all_descriptors(place: Place) -> None:
    before = set(os.listdir("/dev/fd"))
    place.echo.start()
    place.echo.stop()
    until(lambda: set(os.listdir("/dev/fd")) == before)
