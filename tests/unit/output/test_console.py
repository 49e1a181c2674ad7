"""ConsoleHandler and RanksFilter: which text is written, to which output, and in which order."""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from meshlog_handler.errors import SettingError
from meshlog_handler.output.console import ConsoleHandler, RanksFilter, flushing_threads
from meshlog_handler.output.formatter import MeshFormatter
from meshlog_handler.output.json_formatter import JsonFormatter
from meshlog_handler.output.terminal import is_watched
from meshlog_handler.system.descriptors import takes_more

from ...screens import Screen
from ...waiting import until
from .test_formatter import captured, make


def show(handler: ConsoleHandler, *records: logging.LogRecord) -> None:
    """Show the records as a client does, which flushes when no more are ready."""
    flushing_threads[threading.get_ident()] = set()
    for record in records:
        handler.handle(record)
    del flushing_threads[threading.get_ident()]
    handler.flush()


class Terminal:
    """Both ends of a raw terminal, which passes output unchanged."""

    def __init__(self) -> None:
        self._screen, line = os.openpty()
        tty.setraw(line)
        self.file = os.fdopen(line, "w", encoding="utf-8")

    def shows(self, expected: str) -> bool:
        """Return whether exactly this text was written since the last call. The kernel may deliver it in pieces."""
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


def test_captured_stdout_goes_to_stdout_and_everything_else_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show(ConsoleHandler(), make("logged"), captured(b"printed"), captured(b"complained", "stderr"))
    assert capsys.readouterr() == ("[3] printed\n", "[3] logged\n[3] complained\n")


def test_the_streams_are_looked_up_for_each_record(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.fixture
def flushes() -> Iterator[None]:
    """Let this thread write with `flush` only."""
    flushing_threads[threading.get_ident()] = set()
    yield
    del flushing_threads[threading.get_ident()]


@pytest.mark.usefixtures("flushes")
def test_a_thread_that_flushes_writes_nothing_before_it() -> None:
    out = io.StringIO()
    handler = ConsoleHandler(out, out)
    assert handler.flush_per_tick
    handler.handle(make("m"))
    assert out.getvalue() == ""
    handler.flush()
    assert out.getvalue() == "[3] m\n"


def test_other_threads_write_each_record_at_once() -> None:
    out = io.StringIO()
    handler = ConsoleHandler(out, out)
    handler.handle(make("m"))
    assert out.getvalue() == "[3] m\n"


@pytest.mark.usefixtures("flushes")
def test_pending_records_are_bounded() -> None:
    out = io.StringIO()
    handler = ConsoleHandler(out, out)
    for _ in range(100):
        handler.handle(make("x" * 10_000))
    assert out.tell() > 700_000
    handler.close()
    assert out.getvalue().count("\n") == 100


def test_one_file_for_both_streams_keeps_the_order(open_file: Callable[..., TextIO], tmp_path: Path) -> None:
    handler = ConsoleHandler(open_file(), open_file())
    show(handler, *(captured(b"%d" % n, "stdout" if n % 3 else "stderr") for n in range(10)))
    assert (tmp_path / "out").read_text().split() == [word for n in range(10) for word in ("[3]", str(n))]


def test_each_of_two_files_gets_its_lines_in_order(open_file: Callable[..., TextIO], tmp_path: Path) -> None:
    handler = ConsoleHandler(open_file("out"), open_file("err"))
    show(handler, *(captured(b"%d" % n, "stdout" if n % 2 else "stderr") for n in range(6)))
    assert (tmp_path / "out").read_text() == "[3] 1\n[3] 3\n[3] 5\n"
    assert (tmp_path / "err").read_text() == "[3] 0\n[3] 2\n[3] 4\n"


def test_characters_that_the_encoding_lacks_are_escaped(open_file: Callable[..., TextIO], tmp_path: Path) -> None:
    handler = ConsoleHandler(file := open_file(encoding="ascii"), file)
    show(handler, make("plain"), make("größe → \udc80"), make("plain"))
    assert (tmp_path / "out").read_bytes() == b"[3] plain\n[3] gr\\xf6\\xdfe \\u2192 \\udc80\n[3] plain\n"


def test_without_a_prefix_captured_bytes_are_unchanged(open_file: Callable[..., TextIO], tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b"\xff\x00 \x1b[31mred", "größe".encode(), b"  x \r"]
    handler = ConsoleHandler(file := open_file(encoding="latin-1"), file, MeshFormatter(prefix=None))
    show(handler, *(captured(line) for line in lines), make("logged"))
    assert (tmp_path / "out").read_bytes() == b"\n".join([*lines, b"logged", b""])


def test_bytes_are_escaped_for_a_text_stream_without_a_buffer() -> None:
    out = io.StringIO()
    show(ConsoleHandler(out, out, MeshFormatter(prefix=None)), captured(b"\xff"))
    assert out.getvalue() == "\\xff\n"


def test_an_environment_variable_turns_the_prefix_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLOG_PREFIX_WITH_RANK", "0")
    out = io.StringIO()
    show(ConsoleHandler(out, out), make("m"))
    assert out.getvalue() == "m\n"


@pytest.mark.parametrize("how", ["closed", "broken"])
def test_records_for_a_closed_output_are_counted_and_raise_nothing(how: str, capfd: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize("prefix", ["[{rank}] ", None], ids=["text", "bytes"])
def test_a_non_blocking_output_gets_every_line(prefix: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshlog_handler.system.descriptors._WRITE_WAIT_SEC", 0.001)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "w") as file:
        handler = ConsoleHandler(file, file, formatter=MeshFormatter(prefix=prefix))
        print("printed before", file=file)
        thread = threading.Thread(target=show, args=(handler, *[captured(b"x" * 999)] * 200))
        thread.start()
        until(lambda: not takes_more(writer, 0), what="the pipe to be full")
        lines = [pipe.readline()]
        while len(lines) < 201:
            lines.append(pipe.readline())
        thread.join()
        assert lines[0] == b"printed before\n"
        assert {line[-1000:] for line in lines[1:]} == {b"x" * 999 + b"\n"}
        assert handler.failed == 0


def test_an_error_of_the_formatter_is_passed_to_handle_error() -> None:
    out = io.StringIO()
    seen: list[logging.LogRecord] = []
    handler = ConsoleHandler(out, out)
    handler.handleError = seen.append  # type: ignore[method-assign,assignment]  # to look at it
    record = logging.makeLogRecord({"msg": "%d", "args": ("x",)})
    show(handler, record, make("next"))
    assert seen == [record]
    assert out.getvalue() == "[3] next\n"


def test_only_terminals_get_colours(terminal: Terminal, open_file: Callable[..., TextIO], tmp_path: Path) -> None:
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
    assert terminal.shows("\r\x1b[K[3] other\n[3] more\n\x1b[?7l[3] 30%\x1b[?7h")
    show(handler, progress(b"40%"))
    assert terminal.shows("\r\x1b[K\x1b[?7l[3] 40%\x1b[?7h")
    handler.close()
    assert terminal.shows("\n")
    handler.close()
    assert terminal.shows("")


def test_extras_of_a_record_do_not_make_it_a_progress_bar(terminal: Terminal) -> None:
    handler = ConsoleHandler(terminal.file, terminal.file, formatter=MeshFormatter(colour=False))
    records = [make(f"step {number}") for number in range(3)]
    for record in records:
        vars(record).update(progress=True, partial=True, bar=1, bar_ends="erased", stream="stdout", raw_text=b"raw")
    show(handler, *records)
    assert terminal.shows("".join(f"[3] step {number}\n" for number in range(3)))
    handler.close()


def test_a_line_for_another_output_does_not_redraw_the_progress_bar(
    terminal: Terminal, open_file: Callable[..., TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    handler = ConsoleHandler(open_file(), terminal.file)
    show(handler, progress(b"10%"))
    show(handler, captured(b"to the file"))
    assert terminal.shows("\x1b[?7l[3] 10%\x1b[?7h")
    show(handler, progress(b"20%"))
    assert terminal.shows("\r\x1b[K\x1b[?7l[3] 20%\x1b[?7h")
    handler.close()


def test_progress_of_raw_bytes_is_drawn_without_cursor_movement(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    handler = ConsoleHandler(terminal.file, terminal.file, MeshFormatter(prefix=None))
    show(handler, progress(b"\x1b[2A10%"), captured(b"x\x1b[H"))
    assert terminal.shows("x\n\x1b[?7l10%\x1b[?7h")
    handler.close()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    it = Screen()
    yield it
    it.close()


def bar(text: bytes, rank: int, number: int = 0, **fields: Any) -> logging.LogRecord:
    return captured(text, "stderr", progress=True, bar=number, rank=rank, **fields)


def end(text: bytes, rank: int, number: int = 0, ends: str = "dropped") -> logging.LogRecord:
    return captured(text, "stderr", bar=number, bar_ends=ends, rank=rank)


def test_the_bars_of_all_ranks_are_drawn_below_the_records(screen: Screen) -> None:
    handler = ConsoleHandler(screen.file, screen.file)
    show(handler, *(bar(b"%d: 10%%" % rank, rank) for rank in (2, 0, 1)), bar(b"inner", 1, 1))
    assert screen.rows == ["[0] 0: 10%", "[1] 1: 10%", "[1] inner", "[2] 2: 10%"]
    for number in range(30):
        show(handler, make(f"record {number}", rank=1), bar(b"0: %d%%" % number, 0))
    records = [f"[1] record {number}" for number in range(30)]
    assert screen.rows == [*records, "[0] 0: 29%", "[1] 1: 10%", "[1] inner", "[2] 2: 10%"]
    show(handler, end(b"0: 100%", 0), bar(b"1: 50%", 1))
    assert screen.rows == [*records, "[0] 0: 100%", "[1] 1: 50%", "[1] inner", "[2] 2: 10%"]
    handler.end_bar(end(b"1: 50%", 1, ends="kept"))
    handler.end_bar(end(b"", 1, 1))
    handler.flush()
    assert screen.rows == [*records, "[0] 0: 100%", "[1] 1: 50%", "[2] 2: 10%"]
    handler.close()
    screen.file.write("$ ")
    screen.file.flush()
    assert screen.rows[-2:] == ["[2] 2: 10%", "$"]


def test_bars_that_are_too_wide_or_too_many_are_drawn_cleanly(screen: Screen) -> None:
    handler = ConsoleHandler(screen.file, screen.file)
    for step in range(5):
        show(handler, *(bar(b"%d" % step + b"#" * 100, rank) for rank in range(20)))
        show(handler, make(f"record {step}", rank=7))
    shown = [f"[{rank}] 4" + "#" * 35 for rank in range(4)]
    assert [row[:39] for row in screen.rows] == [
        *(f"[7] record {step}" for step in range(5)),
        *(row[:39] for row in shown),
        "... and 16 more bars",
    ]
    for rank in range(20):
        show(handler, end(b"done %d" % rank, rank))
    assert screen.rows == [*(f"[7] record {step}" for step in range(5)), *(f"[{rank}] done {rank}" for rank in range(20))]
    handler.close()


def test_cursor_movement_in_a_line_is_removed(screen: Screen) -> None:
    handler = ConsoleHandler(screen.file, screen.file)
    show(handler, make("kept"), captured(b"\x1b[2Aup"), captured(b"\x1b[2J\x1b[Hcleared"), bar(b"bar\x1b[5A", 0))
    assert screen.rows == ["[3] kept", "[3] up", "[3] cleared", "[0] bar"]
    handler.close()


def test_both_streams_share_one_terminal(screen: Screen) -> None:
    with os.fdopen(os.dup(screen.file.fileno()), "w") as other:
        handler = ConsoleHandler(other, screen.file)
        show(handler, bar(b"a", 0), bar(b"b", 1), captured(b"printed"), make("logged"), bar(b"c", 0))
        assert screen.rows == ["[3] printed", "[3] logged", "[0] c", "[1] b"]
        handler.close()


@pytest.mark.parametrize(
    ("env", "size", "watched"),
    [
        ({}, (24, 80), True),
        ({}, (0, 0), True),
        ({"TERM": "dumb"}, (24, 80), False),
        ({"CI": "true"}, (24, 80), False),
        ({"CI": "false"}, (24, 80), True),
        ({"OMPI_COMM_WORLD_RANK": "0"}, (0, 0), False),
        ({"PMIX_RANK": "0"}, (0, 0), False),
        ({"OMPI_COMM_WORLD_RANK": "0"}, (24, 80), False),  # stdin is not a terminal here
    ],
)
def test_which_terminals_are_interactive(env: dict[str, str], size: tuple[int, int], watched: bool) -> None:
    screen = Screen(size[1] or 1, size[0] or 1)
    screen.resize(*size)
    assert is_watched(screen.file.fileno(), {"TERM": "xterm", **env}) is watched
    screen.close()


@pytest.mark.parametrize(("more", "colour"), [({}, ""), ({"FORCE_COLOR": "1"}, "\x1b[34m")])
def test_a_rank_of_open_mpi_gets_no_control_sequences(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, more: dict[str, str], colour: str
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    handler = ConsoleHandler(terminal.file, terminal.file)
    show(handler, progress(b"10%"), captured(b"\x1b[2Kmore"))
    reset = "\x1b[0m" if colour else ""
    assert terminal.shows(f"{colour}[3]{reset} 10%\n{colour}[3]{reset} more\n")
    handler.close()


def test_progress_is_a_line_if_it_cannot_be_drawn(terminal: Terminal) -> None:
    out = io.StringIO()
    show(ConsoleHandler(out, out), progress(b"10%"), progress(b"20%"))
    assert out.getvalue() == "[3] 10%\n[3] 20%\n"
    record = progress(b"10%")
    show(ConsoleHandler(terminal.file, terminal.file, JsonFormatter()), record)
    assert terminal.shows(JsonFormatter().format(record) + "\n")


@pytest.mark.parametrize("ranks", ["0,4-5", (0, 4, 5), RanksFilter([0, 4, 5])])
def test_a_filter_selects_ranks(ranks: Any) -> None:
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


def test_an_invalid_filter_is_rejected() -> None:
    with pytest.raises(SettingError, match="does not name ranks"):
        RanksFilter("all")
