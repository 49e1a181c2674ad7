from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.grouping.similarity import mask_digits
from meshlog_handler.lines.captured import CapturedPipe
from meshlog_handler.lines.framer import Block, Line
from meshlog_handler.output.formatter import MeshFormatter

BASE: dict[str, Any] = {**logging.makeLogRecord({}).__dict__, "args": ()}
MAX_LINE = 40

words = st.sampled_from(
    [
        b"step 12",
        b"",
        b" ",
        b"WARNING: low",
        b"an ERROR",
        b"FATAL",
        b"Traceback (most recent call last):",
        b"  File x",
        "é€".encode(),
    ]
)
odd = st.binary(max_size=50).map(lambda raw: raw.replace(b"\n", b""))
blocks = st.lists(words | odd, min_size=1, max_size=30).map(lambda lines: Block(b"\n".join(lines)))


def pipe(max_line: int = MAX_LINE) -> CapturedPipe:
    return CapturedPipe(-1, "stderr", base=BASE, identity={"rank": 3}, max_line=max_line)


@given(st.lists(blocks, max_size=4))
def test_a_block_gives_the_same_items_as_its_lines(blocks: list[Block]) -> None:
    together, apart, formatter = pipe(), pipe(), MeshFormatter(prefix=None)
    for block in blocks:
        items = together.items([block], 5.0)
        expected = [item for line in block.lines() for item in apart.items([line], 5.0)]
        assert len(items) == len(expected) == block.size
        for (when, template, values), (_, other, others) in zip(items, expected, strict=True):
            assert when == 5.0
            assert template.line(values) == other.line(others)
            assert template.is_whole(values)
            assert not template.is_shown(values)
            assert (template.text(values), template.levelno) == (other.text(others), other.levelno)
            assert template.digit_mask(values) == mask_digits(template.text(values))
            built, apart_built = template.build(values), other.build(others)
            assert built.__dict__ == apart_built.__dict__
            assert formatter.format(built) == formatter.format(apart_built)


@pytest.mark.parametrize(
    ("line", "whole", "shown"),
    [
        (Line(b"all of it", True, False, 0), True, False),
        (Line(b"the rest of it", True, False, 4), False, False),
        (Line(b"only its end", True, False, 12), False, True),
        (Line(b"not all", False, False, 0), False, False),
        (Line(b"", True, False, 0), True, False),
    ],
)
def test_only_the_unshown_part_of_a_line_is_left_to_show(line: Line, whole: bool, shown: bool) -> None:
    ((_, template, values),) = pipe().items([line], 0.0)
    assert (template.is_whole(values), template.is_shown(values)) == (whole, shown)


def test_all_lines_of_a_dump_are_errors() -> None:
    threads = [
        "Thread 0x7f (most recent call first):",
        '  File "/a.py", line 9 in f',
        "",
        "Current thread 0x9 (most recent call first):",
    ]
    lines = [
        "before",
        "Fatal Python error: Aborted",
        "",
        *threads,
        "  File",
        "",
        "Extension modules: a (total: 1)",
        "",
        "  after",
    ]
    levels = [template.levelno for _, template, _ in pipe(100).items([Block("\n".join(lines).encode())], 0.0)]
    assert [line for line, level in zip(lines, levels, strict=True) if level == logging.CRITICAL] == [lines[1]]
    others = ["before", "", "", "", "", "  after"]
    assert [line for line, level in zip(lines, levels, strict=True) if level == logging.INFO] == others


def test_all_lines_of_a_traceback_are_errors() -> None:
    group = [
        "  + Exception Group Traceback (most recent call last):",
        '  |   File "/a.py", line 9, in <module>',
        "  | ExceptionGroup: several (1 sub-exception)",
        "  +-+---------------- 1 ----------------",
        "    | ValueError: 1",
        "    +------------------------------------",
    ]
    frames = ["Traceback (most recent call last):", '  File "/a.py", line 9, in <module>', "ValueError: 1"]
    link = "The above exception was the direct cause of the following exception:"
    lines = ["before", *group, "", link, "", *frames, "after", *frames, *frames, "  after", "", *group, "  after"]
    levels = [template.levelno for _, template, _ in pipe(100).items([Block("\n".join(lines).encode())], 0.0)]
    assert [line for line, level in zip(lines, levels, strict=True) if level == logging.INFO] == [
        "before",
        "",
        link,
        "",
        "after",
        "  after",
        "",
        "  after",
    ]
