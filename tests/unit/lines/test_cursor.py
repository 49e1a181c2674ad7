"""Output of programs that move the cursor up: redrawn rows are progress states, rows left behind are lines."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from meshlog_handler.lines.cursor import HOLD_AGAIN, CursorFramer
from meshlog_handler.lines.framer import Block, Line

from .test_framer import actions, finals, model, singly, streams

UP = b"\x1b[A"


class Writes(io.StringIO):
    """A file that keeps each write separate, as a pipe may deliver it."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[bytes] = []

    def write(self, text: str) -> int:
        self.made.append(text.encode())
        return len(text)


def bar(file: Writes, count: int = 3, **options: Any) -> Any:
    form = "{desc}: {n}/{total}" if "desc" in options else "{n}/{total}"
    return tqdm(range(count), file=file, mininterval=0, bar_format=form, **options)


def at_position(file: Writes) -> None:
    for _ in bar(file, desc="worker 2", position=2):
        pass
    print("done", file=file)


def nested(file: Writes) -> None:
    for number in bar(file, 2, desc="outer"):
        for _ in bar(file, desc="inner", leave=bool(number)):
            tqdm.write(f"note {number}", file=file)


def nested_without_names(file: Writes) -> None:
    for _ in bar(file, 2):
        for _ in bar(file, 2):
            pass
    print("after\n\nend", file=file)


def by_threads(file: Writes) -> None:
    bars = [bar(file, desc=f"part {at}", position=at) for at in range(3)]
    for _ in range(3):
        for each in bars:
            each.update()
    for each in bars:
        each.close()


def one_after_the_other(file: Writes) -> None:
    for number in range(3):
        for _ in bar(file, desc=f"epoch {number}"):
            pass


PROGRAMS: dict[Callable[[Writes], None], list[str]] = {
    at_position: ["worker 2: 3/3", "done"],
    nested: [*["note 0"] * 3, *["note 1"] * 3, "inner: 3/3", "outer: 2/2"],
    nested_without_names: ["2/2", "2/2", "2/2", "after", "", "end"],
    by_threads: ["part 0: 3/3", "part 1: 3/3", "part 2: 3/3"],
    one_after_the_other: ["epoch 0: 3/3", "epoch 1: 3/3", "epoch 2: 3/3"],
}


def framed(chunks: Iterable[bytes], pause: float = 0.001) -> list[Line]:
    framer, now = CursorFramer(), 0.0
    out: list[Line | Block] = []
    for chunk in chunks:
        if framer.deadline is not None and now >= framer.deadline:
            out += framer.expire(now)
        out += framer.feed(chunk, now)
        now += pause
    out += framer.close()
    assert framer.deadline is None
    return singly(out)


def texts(lines: Sequence[Line]) -> list[str]:
    return [raw.decode().rstrip() for raw in finals(list(lines))]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_each_bar_leaves_one_line_and_no_line_is_invented(program: Callable[[Writes], None]) -> None:
    file = Writes()
    program(file)
    data = b"".join(file.made)
    for chunks in (file.made, [data], [data[at : at + 1] for at in range(len(data))]):
        assert texts(framed(chunks)) == PROGRAMS[program]


@given(st.data())
def test_final_lines_do_not_depend_on_chunks(data: st.DataObject) -> None:
    file = Writes()
    program = data.draw(st.sampled_from(list(PROGRAMS)))
    program(file)
    written = b"".join(file.made)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written)), max_size=12)))
    chunks = [written[start:end] for start, end in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    assert texts(framed(chunks)) == PROGRAMS[program]


@given(streams, actions, st.sampled_from([3, 7, 1000]))
def test_without_movements_it_equals_the_plain_framer(data: bytes, cuts: list[tuple[int, str, float]], max_line: int) -> None:
    framer = CursorFramer(max_line)
    got: list[Line | Block] = []
    now, position = 0.0, 0
    for size, action, pause in cuts:
        got += framer.feed(data[position : position + size], now)
        position += size
        now += pause
        if action != "feed":
            got += framer.expire(now) if action == "expire" else framer.flush(now)
    got += [*framer.feed(data[position:], now), *framer.close()]
    assert finals(singly(got)) == model(data, max_line)
    assert framer.deadline is None


@given(
    st.lists(st.sampled_from([b"a", b"\n", b"\r", UP, b"\x1b[2K", b"\x1b[?25l", b"\x1b[?25h", b"\x1b[J", b"\x1b[B", b"\x1b"]))
)
def test_any_movements_terminate_and_are_in_no_line(pieces: list[bytes]) -> None:
    for line in framed(pieces, pause=0.03):
        assert UP not in line.raw


def test_bars_are_shown_together_and_keep_their_numbers() -> None:
    framer = CursorFramer()
    assert framer.feed(b"\router 1\n\rinner 1" + UP, 0.0) == [
        Line(b"outer 1", False, True, 0, 0),
        Line(b"inner 1", False, True, 0, 1),
    ]
    assert framer.feed(b"\n\rinner 2" + UP + b"\router 2", 0.5) == []
    assert framer.deadline == 1.0
    assert framer.expire(1.0) == [Line(b"outer 2", False, True, 0, 0), Line(b"inner 2", False, True, 0, 1)]
    # Inner ends in the first row, and outer continues in the row of inner.
    out = singly(framer.feed(b"\rinner 3\n\router 3\n\rinner 1" + UP, 3.0))
    assert out == [
        Line(b"inner 3", True, False, 0, 0),
        Line(b"", False, True, 0, 1),
        Line(b"outer 3", False, True, 0, 0),
        Line(b"inner 1", False, True, 0, 1),
    ]


def test_a_blank_bar_is_erased() -> None:
    framer = CursorFramer()
    framer.feed(b"\ra 1\n\rb 1" + UP, 0.0)
    assert framer.feed(b"\n\r   " + UP, 2.0) == [Line(b"", False, True, 0, 1)]
    assert framer.close() == [Line(b"a 1", True, False, 3, 0)]


def test_a_single_bar_has_a_number_too() -> None:
    framer = CursorFramer()
    assert framer.feed(b"\r1%", 0.0) == [Line(b"1%", False, True, 0, 0)]
    assert framer.feed(b"\r2%\nnext\n", 0.1) == [Line(b"2%", True, False, 0, 0), Line(b"next", True, False, 0)]


def test_the_end_of_a_bar_is_held_back_in_case_the_cursor_returns() -> None:
    framer = CursorFramer()
    framer.feed(b"\r1%", 0.0)
    assert framer.feed(b"\n", 1.0) == []
    assert framer.deadline is not None
    assert framer.expire(framer.deadline) == [Line(b"1%", True, False, 2, 0)]
    framer.feed(b"\r1%", 2.0)
    assert framer.feed(b"\n", 2.0) == []
    assert framer.flush(2.0) == [Line(b"1%", True, False, 2, 0)]  # a flush does not wait
    framer.feed(b"\ra\n\rb" + UP, 5.0)
    assert framer.feed(b"\n", 6.0) == []
    assert framer.deadline == 6.0 + HOLD_AGAIN


def test_rows_of_a_killed_process_are_its_last_lines() -> None:
    assert texts(framed([b"\n\n\rworker 2: 50%" + UP + UP])) == ["worker 2: 50%"]
    assert texts(framed([b"\ra 1\n\rb 2" + UP])) == ["a 1", "b 2"]


def test_memory_is_bounded() -> None:
    framer = CursorFramer()
    out: list[Line | Block] = []
    for _ in range(50):
        out += framer.feed(b"\rx\n" * 100 + UP, 0.0)
    out += framer.feed(b"\n" * 100_000, 0.0)
    assert len(framer._rows) <= 101
    assert len(framer._held) <= 100_000
    for _ in range(100):
        framer.feed(b"\r" + b"y" * 100_000 + UP, 0.0)
    assert sum(len(row.state) for row in framer._rows) < 9 << 20
