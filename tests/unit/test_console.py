"""What the console shows, where, and in which order."""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from meshlog_handler.console import ConsoleHandler, RanksFilter
from meshlog_handler.errors import SettingError
from meshlog_handler.formatter import MeshFormatter
from meshlog_handler.json_formatter import JsonFormatter

from .test_formatter import captured, make


def show(handler: ConsoleHandler, *records: logging.LogRecord) -> None:
    for record in records:
        handler.handle(record)
    handler.flush()


class Terminal:
    """Both ends of a terminal that changes nothing of what is written to it."""

    def __init__(self) -> None:
        self._screen, line = os.openpty()
        tty.setraw(line)
        self.file = os.fdopen(line, "w", encoding="utf-8")

    def shows(self, expected: str) -> bool:
        """Tell whether exactly this has been shown since the last time. The kernel may deliver it in pieces."""
        data = b""
        while len(data) < len(expected.encode()) and select.select([self._screen], [], [], 10.0)[0]:
            data += os.read(self._screen, 65536)
        rest = select.select([self._screen], [], [], 0)[0]
        assert data.decode() == expected
        return not rest

    def close(self) -> None:
        self.file.close()
        os.close(self._screen)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    it = Terminal()
    yield it
    it.close()


@pytest.fixture
def open_file(tmp_path: Path) -> Iterator[Callable[..., TextIO]]:
    files: list[TextIO] = []

    def make_one(name: str = "out", **options: Any) -> TextIO:
        files.append(open(tmp_path / name, "a", **options))  # noqa: SIM115 -- closed by the fixture
        return files[-1]

    yield make_one
    for file in files:
        file.close()


def test_captured_stdout_is_on_stdout_and_all_else_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show(ConsoleHandler(), make("logged"), captured(b"printed"), captured(b"complained", "stderr"))
    assert capsys.readouterr() == ("[3] printed\n", "[3] logged\n[3] complained\n")


def test_it_finds_the_streams_anew(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    handler = ConsoleHandler()
    show(handler, captured(b"one"))
    other = io.StringIO()
    monkeypatch.setattr(sys, "stdout", other)
    show(handler, captured(b"two"))
    assert other.getvalue() == "[3] two\n"
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "__stdout__", fallback := io.StringIO())
    show(handler, captured(b"three"))
    assert fallback.getvalue() == "[3] three\n"
    monkeypatch.setattr(sys, "__stdout__", None)
    show(handler, captured(b"four"))
    assert handler.failed == 1
    assert capsys.readouterr().out == "[3] one\n"


def test_nothing_is_written_before_flush() -> None:
    out = io.StringIO()
    handler = ConsoleHandler(out, out)
    assert handler.flush_per_tick
    handler.handle(make("m"))
    assert out.getvalue() == ""
    handler.flush()
    assert out.getvalue() == "[3] m\n"


def test_what_waits_is_bounded() -> None:
    out = io.StringIO()
    handler = ConsoleHandler(out, out)
    for _ in range(100):
        handler.handle(make("x" * 10_000))
    assert out.tell() > 700_000
    handler.close()
    assert out.getvalue().count("\n") == 100


def test_one_file_for_both_keeps_the_order(open_file: Callable[..., TextIO], tmp_path: Path) -> None:
    handler = ConsoleHandler(open_file(), open_file())
    show(handler, *(captured(b"%d" % n, "stdout" if n % 3 else "stderr") for n in range(10)))
    assert (tmp_path / "out").read_text().split() == [word for n in range(10) for word in ("[3]", str(n))]


def test_two_files_get_what_is_theirs_in_one_piece(open_file: Callable[..., TextIO], tmp_path: Path) -> None:
    handler = ConsoleHandler(open_file("out"), open_file("err"))
    show(handler, *(captured(b"%d" % n, "stdout" if n % 2 else "stderr") for n in range(6)))
    assert (tmp_path / "out").read_text() == "[3] 1\n[3] 3\n[3] 5\n"
    assert (tmp_path / "err").read_text() == "[3] 0\n[3] 2\n[3] 4\n"


def test_characters_that_the_encoding_lacks_are_escaped(open_file: Callable[..., TextIO], tmp_path: Path) -> None:
    handler = ConsoleHandler(file := open_file(encoding="ascii"), file)
    show(handler, make("plain"), make("größe → \udc80"), make("plain"))
    assert (tmp_path / "out").read_bytes() == b"[3] plain\n[3] gr\\xf6\\xdfe \\u2192 \\udc80\n[3] plain\n"


def test_without_a_prefix_the_bytes_are_what_was_written(open_file: Callable[..., TextIO], tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b"\xff\x00 \x1b[31mred", "größe".encode(), b"  x \r"]
    handler = ConsoleHandler(file := open_file(encoding="latin-1"), file, MeshFormatter(prefix=None))
    show(handler, *(captured(line) for line in lines), make("logged"))
    assert (tmp_path / "out").read_bytes() == b"\n".join([*lines, b"logged", b""])


def test_without_a_prefix_and_without_bytes() -> None:
    out = io.StringIO()
    show(ConsoleHandler(out, out, MeshFormatter(prefix=None)), captured(b"\xff"))
    assert out.getvalue() == "\\xff\n"


def test_the_prefix_can_be_switched_off_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLOG_PREFIX_WITH_RANK", "0")
    out = io.StringIO()
    show(ConsoleHandler(out, out), make("m"))
    assert out.getvalue() == "m\n"


@pytest.mark.parametrize("how", ["closed", "broken"])
def test_an_output_that_is_gone_is_counted_and_nothing_is_raised(how: str, capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    file = os.fdopen(writer, "w")
    os.close(reader)
    handler = ConsoleHandler(file, file)
    if how == "closed":
        with pytest.raises(BrokenPipeError):
            print("x", file=file, flush=True)
        with pytest.raises(BrokenPipeError):
            file.close()
    show(handler, make("one"), captured(b"two"))
    show(handler, make("three"))
    handler.close()
    assert handler.failed == 3
    said = capfd.readouterr().err
    assert said.count("cannot be written") == (1 if how == "closed" else 0)
    if how == "broken":
        with pytest.raises(BrokenPipeError):
            file.close()


def test_an_error_of_the_formatter_goes_the_usual_way() -> None:
    out = io.StringIO()
    seen: list[logging.LogRecord] = []
    handler = ConsoleHandler(out, out)
    handler.handleError = seen.append  # type: ignore[method-assign,assignment]  # to look at it
    record = logging.makeLogRecord({"msg": "%d", "args": ("x",)})
    show(handler, record, make("next"))
    assert seen == [record]
    assert out.getvalue() == "[3] next\n"


def test_colours_are_for_terminals(terminal: Terminal, open_file: Callable[..., TextIO], tmp_path: Path) -> None:
    record = captured(b"\x1b[32mgreen\x1b[0m")
    show(ConsoleHandler(terminal.file, terminal.file), record)
    assert terminal.shows("\x1b[34m[3]\x1b[0m \x1b[32mgreen\x1b[0m\n")
    show(ConsoleHandler(file := open_file(), file), record)
    assert (tmp_path / "out").read_text() == "[3] green\n"


def test_no_color_is_respected(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    show(ConsoleHandler(terminal.file, terminal.file), make("m", level=logging.ERROR))
    assert terminal.shows("[3] m\n")


def test_force_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = io.StringIO()
    show(ConsoleHandler(out, out), captured(b"\x1b[32mgreen"))
    assert out.getvalue() == "\x1b[34m[3]\x1b[0m \x1b[32mgreen\n"


def progress(text: bytes, **fields: Any) -> logging.LogRecord:
    return captured(text, "stderr", progress=True, **fields)


def test_on_a_terminal_progress_is_drawn_in_place(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    handler = ConsoleHandler(terminal.file, terminal.file)
    show(handler, progress(b"10%"))
    assert terminal.shows("\x1b[?7l[3] 10%\x1b[?7h")
    show(handler, progress(b"20%"), progress(b"30%"))
    assert terminal.shows("\r\x1b[K\x1b[?7l[3] 30%\x1b[?7h")
    show(handler, make("other"), captured(b"more"))
    assert terminal.shows("\n[3] other\n[3] more\n")
    show(handler, progress(b"40%"))
    assert terminal.shows("\x1b[?7l[3] 40%\x1b[?7h")
    handler.close()
    assert terminal.shows("\n")
    handler.close()
    assert terminal.shows("")


def test_a_line_elsewhere_does_not_end_the_progress_line(
    terminal: Terminal, open_file: Callable[..., TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    handler = ConsoleHandler(open_file(), terminal.file)
    show(handler, progress(b"10%"), captured(b"to the file"), progress(b"20%"))
    assert terminal.shows("\x1b[?7l[3] 10%\x1b[?7h\r\x1b[K\x1b[?7l[3] 20%\x1b[?7h")
    handler.close()


def test_progress_of_raw_bytes(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    handler = ConsoleHandler(terminal.file, terminal.file, MeshFormatter(prefix=None))
    show(handler, progress(b"10%"), captured(b"x"))
    assert terminal.shows("\x1b[?7l10%\x1b[?7h\nx\n")


def test_progress_is_a_line_where_it_cannot_be_drawn(terminal: Terminal) -> None:
    out = io.StringIO()
    show(ConsoleHandler(out, out), progress(b"10%"), progress(b"20%"))
    assert out.getvalue() == "[3] 10%\n[3] 20%\n"
    record = progress(b"10%")
    show(ConsoleHandler(terminal.file, terminal.file, JsonFormatter()), record)
    assert terminal.shows(JsonFormatter().format(record) + "\n")


@pytest.mark.parametrize("ranks", ["0,4-5", (0, 4, 5), RanksFilter([0, 4, 5])])
def test_a_filter_chooses_ranks(ranks: Any) -> None:
    out = io.StringIO()
    handler = ConsoleHandler(out, out, ranks_filter=ranks)
    show(
        handler,
        *(make("m", rank=rank) for rank in (0, 1, 4, None)),
        make("warned", rank=1, level=logging.WARNING),
        make("[2 similar log lines] [ranks 1,5] m", rank=1, count=2, ranks=(1, 5)),
        make("[2 similar log lines] [ranks 1-2] m", rank=1, count=2, ranks=(1, 2)),
    )
    assert out.getvalue().splitlines() == [
        "[0] m",
        "[4] m",
        "m",
        "[1] warned",
        "[2 similar log lines] [ranks 1,5] m",
    ]


def test_a_filter_names_ranks_or_is_refused() -> None:
    with pytest.raises(SettingError, match="does not name ranks"):
        RanksFilter("all")
