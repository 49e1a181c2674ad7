from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.lines.framer import Block, Line, LineFramer, display, level_of, may_have_levels, raw_text, strip_ansi


def model(data: bytes, max_line: int) -> list[bytes]:
    """Return the final lines, byte by byte: slow but obviously correct (ignores UTF-8)."""
    out: list[bytes] = []
    state = b""
    returned = False
    for at in range(len(data)):
        byte = data[at : at + 1]
        if byte == b"\n":
            out.append(state)
            state, returned = b"", False
        elif byte == b"\r":
            returned = True
        else:
            if returned:
                state, returned = b"", False
            if len(state) == max_line:
                out.append(state)
                state = b""
            state += byte
    return [*out, state] if state else out


def finals(lines: list[Line]) -> list[bytes]:
    return [line.raw for line in lines if line.final]


def final(raw: bytes, shown: int = 0) -> Line:
    return Line(raw, True, False, shown)


def singly(lines: Iterable[Line | Block]) -> list[Line]:
    return [line for each in lines for line in ([each] if isinstance(each, Line) else each.lines())]


def partial(raw: bytes, shown: int = 0) -> Line:
    return Line(raw, False, False, shown)


def progress(raw: bytes) -> Line:
    return Line(raw, False, True, 0)


pieces = st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b" ", b"xyz" * 5])
streams = st.lists(pieces, max_size=60).map(b"".join)
steps = st.tuples(st.integers(1, 9), st.sampled_from(["feed", "expire", "flush"]), st.floats(0, 3))
actions = st.lists(steps, max_size=60)


@given(streams, actions, st.sampled_from([3, 4, 7, 1000]))
def test_final_lines_do_not_depend_on_chunks_or_on_parts_shown_before(
    data: bytes, cuts: list[tuple[int, str, float]], max_line: int
) -> None:
    framer = LineFramer(max_line)
    got: list[Line] = []
    now = 0.0
    position = 0
    for size, action, pause in cuts:
        got += singly(framer.feed(data[position : position + size], now))
        position += size
        now += pause
        if action == "expire":
            got += framer.expire(now)
        elif action == "flush":
            got += framer.flush(now)
    got += singly(framer.feed(data[position:], now))
    got += singly(framer.close())
    assert finals(got) == model(data, max_line)
    assert framer.deadline is None


@given(st.text(alphabet="aé€𝄞\n", max_size=80), st.lists(st.integers(1, 5), max_size=80))
def test_showing_only_the_rest_shows_every_byte_once_and_no_partial_character(text: str, sizes: list[int]) -> None:
    data = text.encode()
    framer = LineFramer(16)
    got: list[Line] = []
    position = 0
    for now, size in enumerate(sizes):
        got += singly(framer.feed(data[position : position + size], float(now)))
        got += framer.flush(float(now))
        position += size
    got += singly(framer.feed(data[position:], 1e6))
    got += singly(framer.close())
    shown = [line.raw[line.shown :] + (b"\n" if line.final else b"") for line in got]
    for part in shown:
        part.decode("utf-8")  # raises if a character was split
    lines = b"".join(shown)
    # A line that was cut has additional line ends.
    assert lines.replace(b"\n", b"") == data.replace(b"\n", b"")


@given(st.binary(max_size=200), st.lists(st.integers(1, 30), max_size=40), st.sampled_from([5, 64, 1000]))
def test_final_lines_of_any_bytes_do_not_depend_on_chunks(data: bytes, sizes: list[int], max_line: int) -> None:
    whole = LineFramer(max_line)
    expected = finals(singly(whole.feed(data, 0.0)) + singly(whole.close()))
    framer = LineFramer(max_line)
    got: list[Line] = []
    position = 0
    for size in sizes:
        got += singly(framer.feed(data[position : position + size], 0.0))
        position += size
    got += singly(framer.feed(data[position:], 0.0)) + singly(framer.close())
    assert finals(got) == expected
    assert all(len(line) <= max_line for line in expected)
    assert all(b"\n" not in line and b"\r" not in line for line in expected)


def test_ordinary_lines_are_final_at_once() -> None:
    framer = LineFramer()
    assert framer.feed(b"one\ntwo\n\nthree\n", 0.0) == [
        final(b"one"),
        final(b"two"),
        final(b""),
        final(b"three"),
    ]
    assert framer.deadline is None
    assert framer.close() == []


def test_a_rewritten_line_keeps_its_last_state_and_crlf_ends_a_line() -> None:
    framer = LineFramer()
    data = b"a\rb\rc\nline\r\ntwice\r\r\n\rd\n\r\n\n"
    assert finals(singly(framer.feed(data, 0.0))) == [b"c", b"line", b"twice", b"d", b"", b""]


@pytest.mark.parametrize("style", [b"\r%d%%", b"%d%%\r"], ids=["before", "after"])
def test_progress_is_shown_at_once_and_then_the_newest_state_once_a_second(style: bytes) -> None:
    framer = LineFramer()
    shown: list[tuple[float, Line]] = []
    for tick in range(50):  # five seconds, ten states a second
        now = tick / 10
        if framer.deadline is not None and now >= framer.deadline:
            shown += [(now, line) for line in framer.expire(now)]
        shown += [(now, line) for line in singly(framer.feed(style % tick, now))]
    assert [(now, line.raw, line.progress, line.final) for now, line in shown] == [
        (0.0, b"0%", True, False),
        (1.0, b"9%", True, False),
        (2.0, b"19%", True, False),
        (3.0, b"29%", True, False),
        (4.0, b"39%", True, False),
    ]
    assert framer.deadline == 5.0
    assert framer.expire(5.0) == [progress(b"49%")]
    assert framer.deadline is None
    assert framer.feed(b"\n", 5.1) == [final(b"49%", shown=3)]


def test_the_last_state_is_shown_with_the_end_of_its_line() -> None:
    framer = LineFramer()
    assert framer.feed(b"\r10%", 0.0) == [progress(b"10%")]
    assert framer.feed(b"\r20%", 0.2) == []
    assert framer.feed(b"\r30%", 0.4) == []
    assert framer.feed(b"\nnext\n", 0.6) == [final(b"30%"), final(b"next")]
    assert framer.deadline is None


def test_many_short_bars_share_one_rate_limit() -> None:
    framer = LineFramer()
    assert framer.feed(b"\r0 of 1", 0.0) == [progress(b"0 of 1")]
    assert framer.feed(b"\r1 of 1\n", 0.1) == [final(b"1 of 1")]
    assert framer.feed(b"\r0 of 2", 0.2) == []
    assert framer.deadline == 1.0
    assert framer.feed(b"\r2 of 2\n", 0.3) == [final(b"2 of 2")]
    assert framer.deadline is None


def test_an_unchanged_state_is_not_shown_again() -> None:
    framer = LineFramer()
    assert framer.feed(b"\r50%", 0.0) == [progress(b"50%")]
    assert framer.feed(b"\r50%", 2.0) == []
    assert framer.deadline is None
    assert framer.feed(b"\r\n", 3.0) == [final(b"50%", shown=3)]


def test_a_state_that_grew_after_it_was_shown_is_shown_whole() -> None:
    framer = LineFramer()
    assert framer.feed(b"\r50%", 0.0) == [progress(b"50%")]
    assert framer.feed(b" done", 0.2) == []
    assert framer.feed(b"\n", 0.3) == [final(b"50% done")]


def test_a_partial_line_is_shown_when_idle_and_later_its_rest() -> None:
    framer = LineFramer()
    assert framer.feed(b"Password: ", 10.0) == []
    assert framer.deadline == 10.5
    assert framer.expire(10.4) == []
    assert framer.expire(10.5) == [partial(b"Password: ")]
    assert framer.deadline is None
    assert framer.expire(20.0) == []
    assert framer.feed(b"***", 30.0) == []
    assert framer.expire(30.5) == [partial(b"Password: ***", shown=10)]
    assert framer.feed(b" ok\n", 31.0) == [final(b"Password: *** ok", shown=13)]
    assert framer.feed(b"next\n", 31.0) == [final(b"next")]


def test_a_line_that_keeps_growing_is_shown_once_a_second() -> None:
    framer = LineFramer()
    shown = []
    for tick in range(30):  # a test runner's dots, one each tenth of a second
        now = tick / 10
        if framer.deadline is not None and now >= framer.deadline:
            shown += framer.expire(now)
        shown += singly(framer.feed(b".", now))
    assert [len(line.raw) - line.shown for line in shown] == [10, 10]


def test_a_carriage_return_after_a_partial_line_was_shown() -> None:
    framer = LineFramer()
    framer.feed(b"abc", 0.0)
    assert framer.expire(0.5) == [partial(b"abc")]
    assert framer.feed(b"\r\n", 1.0) == [final(b"abc", shown=3)]


def test_flush_shows_an_unfinished_line_once() -> None:
    framer = LineFramer()
    framer.feed(b"whole\npart", 0.0)
    assert framer.flush(0.1) == [partial(b"part")]
    assert framer.flush(0.2) == []
    assert framer.deadline is None
    framer.feed(b"\r1", 0.3)
    framer.feed(b"\r2", 0.4)
    assert framer.flush(0.5) == [progress(b"2")]
    assert framer.flush(0.5) == []
    assert framer.close() == [final(b"2", shown=1)]


def test_close_returns_the_rest_as_a_final_line_and_resets_the_framer() -> None:
    framer = LineFramer()
    framer.feed(b"last words\r", 0.0)
    assert framer.close() == [final(b"last words", shown=10)]
    assert framer.close() == []
    assert framer.feed(b"new\n", 1.0) == [final(b"new")]


def test_a_line_is_cut_between_characters() -> None:
    framer = LineFramer(8)
    assert finals(singly(framer.feed("aaaaaaa€bbb\n".encode(), 0.0))) == [b"aaaaaaa", "€bbb".encode()]
    assert finals(singly(framer.feed(b"\x80" * 20 + b"\n", 0.0))) == [b"\x80" * 8, b"\x80" * 8, b"\x80" * 4]


def test_each_part_of_a_cut_line_counts_its_shown_bytes() -> None:
    framer = LineFramer(8)
    framer.feed(b"123456", 0.0)
    framer.flush(0.0)
    assert framer.feed(b"789\n", 0.0) == [final(b"12345678", shown=6), final(b"9")]


def test_long_lines_in_small_pieces_take_linear_time() -> None:
    def seconds(pieces: int) -> float:
        framer = LineFramer(1 << 30)
        start = time.thread_time()  # what other processes do does not count
        for _ in range(pieces):
            framer.feed(b"0123456789abcdef", 0.0)
        framer.feed(b"\n", 0.0)
        return time.thread_time() - start

    small = min(seconds(5_000) for _ in range(5))
    large = min(seconds(40_000) for _ in range(3))
    assert large < 40 * small  # eight times the pieces; quadratic work would take 64 times as long


def test_display_shows_invalid_bytes_and_keeps_colours() -> None:
    assert display(b"\x1b[31mred\x1b[0m \xff \xc3\xa9", 100) == "\x1b[31mred\x1b[0m \\xff é"


def test_display_cuts_at_a_character_and_notes_how_much_is_missing() -> None:
    text = display(b"x" * 12_345 + b"y" * 10, 10)
    assert text == "x" * 10 + " ... [12,345 more bytes; the file has the whole line]"
    assert display("aé€".encode(), 4) == "aé ... [3 more bytes; the file has the whole line]"
    assert display(b"exactly", 7) == "exactly"


@given(st.binary(max_size=60))
def test_raw_text_keeps_every_byte(raw: bytes) -> None:
    assert raw_text(raw).encode("utf-8", "surrogateescape") == raw


@given(st.binary(max_size=60), st.integers(4, 70))
def test_display_is_text_any_console_can_write(raw: bytes, max_line: int) -> None:
    display(raw, max_line).encode("utf-8")
    assert len(display(raw, max_line)) <= 4 * max_line + 60


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (b"no colour", b"no colour"),
        (b"\x1b[1;31mred\x1b[0m", b"red"),
        (b"\x1b[2K\x1b[1Aup\x1b[?25l", b"up"),
        (b"\x1b]0;title\x07text", b"text"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", b"link"),
        (b"\x1b(Bplain\x1b7\x1b8", b"plain"),
        (b"\x1bPdevice\x1b\\end", b"end"),
        (b"cut \x1b[31", b"cut \x1b[31"[:4] + b"31"),
    ],
)
def test_strip_ansi_removes_escape_sequences(raw: bytes, plain: bytes) -> None:
    assert strip_ansi(raw) == plain


@given(st.binary(max_size=80))
def test_strip_ansi_leaves_bytes_without_escapes_alone(raw: bytes) -> None:
    raw = raw.replace(b"\x1b", b"")
    assert strip_ansi(raw) == raw
    assert strip_ansi(b"\x1b[1m" + raw + b"\x1b[0m") == raw


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("step 12 loss=0.25", logging.INFO),
        ("", logging.INFO),
        ("WARNING:root:disk nearly full", logging.WARNING),
        ("2024-01-01 12:00:00,123 - train - ERROR - no such file", logging.ERROR),
        ("[2024-01-01 12:00:00] [FATAL] gone", logging.CRITICAL),
        ("CRITICAL: stop", logging.CRITICAL),
        ("host:811:811 [0] NCCL WARN Call to connect failed", logging.WARNING),
        ("\x1b[33mWARNING\x1b[0m careful", logging.WARNING),
        ("WARNING about an ERROR", logging.WARNING),
        ("Traceback (most recent call last):", logging.ERROR),
        ("  + Exception Group Traceback (most recent call last):", logging.ERROR),
        ("Fatal Python error: Segmentation fault", logging.CRITICAL),
        ("no error, no warning", logging.INFO),
        ("ERRORS=0 MY_WARNING=1 TERRORS", logging.INFO),
        ("x" * 90 + " ERROR", logging.INFO),
        ("RANK 3 of 8", logging.INFO),
    ],
)
def test_a_captured_line_has_a_level(text: str, level: int) -> None:
    assert level_of(text) == level
    assert may_have_levels(text.encode()) or level == logging.INFO


def test_no_escape_sequence_makes_strip_ansi_slow() -> None:
    raw = b"\x1b]" * 50_000
    start = time.thread_time()
    stripped = strip_ansi(raw)
    assert time.thread_time() - start < 5
    assert not re.search(rb"\x1b\]", stripped)
