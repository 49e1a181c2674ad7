"""The model of the page: bounded, exact in its counts, and independent of the order in which events arrive."""

from __future__ import annotations

import json
import random
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from meshlog_handler.cli.page.events import CLIENT, Event, Joiner, ends_of, headline, joined
from meshlog_handler.cli.page.findings import Findings
from meshlog_handler.cli.page.grid import Grid
from meshlog_handler.cli.page.groups import MAX_KINDS, Kinds
from meshlog_handler.cli.page.model import ALPHABET, PageModel, shown
from meshlog_handler.insight.observation import Observation
from meshlog_handler.insight.parts import Progress
from meshlog_handler.insight.report import Insight, insight_of

START = 1_700_000_000.0
NOTHING = Insight({}, (), (), (), (), ())
ABOUT = {"title": "test", "now": START, "live": False}

times = st.floats(START, START + 1e6, allow_nan=False)
events = st.builds(
    Event,
    time=times,
    rank=st.integers(CLIENT, 40),
    level=st.sampled_from((10, 20, 30, 40, 50)),
    source=st.sampled_from(("train", "stdout")),
    text=st.sampled_from(("step 1 of 9", "step 22 of 9", "ready", "loss 0.5", "at /data/a1 and b2")),
    lines=st.integers(1, 50),
)


def told(given: list[Event], insight: Insight = NOTHING, **limits: int) -> dict[str, Any]:
    model = PageModel(**limits)
    for event in given:
        model.add(event)
    return model.to_dict(insight, ABOUT)


def test_what_the_client_reports_and_who_is_behind_stand_out() -> None:
    steps = Progress("step", {0: 9.0, 1: 4.0, 2: 3.0}, 3.0, 9.0, 9.0, 1.0, (1, 2))
    found = told(
        [
            Event(START + 1, CLIENT, 40, "meshlog", "no progress for 5 s: rank 2 in load (a.py:1)\n    rank 2: silent"),
            Event(START, CLIENT, 20, "app", "starts"),
            Event(START, 1, 40, "app", "fails"),
        ],
        Insight({}, (), (steps,), (), (), ()),
    )
    assert found["reports"] == [[START + 1, "no progress for 5 s: rank 2 in load (a.py:1)"]]
    assert found["behind"] == [
        {"label": "step", "ranks": "1-2", "rank_count": 2, "values": [[2, 3.0], [1, 4.0]], "median": 9.0}
    ]


def test_after_the_end_of_a_run_no_rank_runs() -> None:
    insight = insight_of([Observation(0), Observation(1, "dead")])
    model = PageModel()
    assert model.to_dict(insight, {**ABOUT, "live": True})["states"] == ["running", "dead"]
    assert model.to_dict(insight, ABOUT)["states"] == ["ended", "dead"]


@hypothesis.given(st.lists(events, max_size=60), st.randoms(use_true_random=False))
@hypothesis.example(
    [Event(START + at, 0, level, "train", f"step {at + level} of 9") for at in range(3) for level in (10, 20)],
    random.Random(4),
)
def test_the_order_of_events_does_not_matter(given: list[Event], order: random.Random) -> None:
    shuffled = list(given)
    order.shuffle(shuffled)
    assert told(shuffled) == told(given)


@hypothesis.given(st.lists(st.tuples(st.integers(0, 200), times), min_size=1, max_size=300))
@hypothesis.example([(rank, START + (986_880.0 if rank == 1 else 0.0)) for rank in range(24)])  # the last rank makes it coarser
def test_a_grid_is_bounded_and_loses_nothing(given: list[tuple[int, float]]) -> None:
    grid: Grid[int] = Grid(lambda one, other: one + other, cells=400, fewest=4, most=20)
    for rank, time in given:
        grid.add(rank, time, 1)
    assert grid.bins <= 20
    assert len(grid.rows) * grid.bins <= max(400, 4 * len(grid.rows))
    assert sum(sum(row.values()) for row in grid.rows.values()) == len(given)
    for rank, time in given:
        assert 0 <= int(time / grid.width) - grid.first < grid.bins
        assert int(time / grid.width) in grid.rows[rank]


@hypothesis.given(st.lists(events, max_size=60))
def test_cells_have_the_highest_level_and_the_count(given: list[Event]) -> None:
    page = told(given)
    assert page["total"] == sum(event.lines for event in given)
    for rank, row in zip(page["ranks"], page["rows"], strict=True):
        assert len(row) == page["bins"]
        cells: dict[int, list[Event]] = {}
        for event in given:
            if event.rank == rank:
                cells.setdefault(int((event.time - page["from"]) / page["width"]), []).append(event)
        for at, letter in enumerate(row):
            there = cells.get(at)
            if there is None:
                assert letter == "."
                continue
            level, magnitude = divmod(ALPHABET.index(letter), 12)
            assert level == max(event.level for event in there) // 10 - 1
            assert magnitude == sum(event.lines for event in there).bit_length() - 1


def test_lines_are_bounded_for_each_rank_and_notable_ones_stay() -> None:
    lines = [Event(START + at, rank, 20, "a", f"line {at}") for rank in range(10) for at in range(1000)]
    lines += [Event(START + 1, 3, 40, "a", "the error")]
    page = told(lines, max_lines=100)
    assert len(page["lines"]) == 10 * 10 + 1
    texts = [page["texts"][line[4]] for line in page["lines"] if page["ranks"][line[1]] == 3]
    assert texts == ["the error", *(f"line {at}" for at in range(990, 1000))]


def test_ten_thousand_ranks_make_a_small_page() -> None:
    page = told([Event(START + rank % 900, rank, 20, "train", f"step 1 loss=0.{rank}") for rank in range(10_000)])
    assert len(json.dumps(page)) < 3_000_000
    assert page["bins"] <= 120


@pytest.mark.parametrize("time", [0.0, -1.0, float("nan"), float("inf"), 1e18])
def test_an_impossible_time_stretches_nothing(time: float) -> None:
    page = told([Event(START, 0, 20, "a", "one"), Event(time, 0, 20, "a", "two"), Event(START + 1, 0, 20, "a", "three")])
    assert page["untimed"] == 1
    assert page["bins"] * page["width"] < 10


def test_groups_have_ranges_ranks_and_exact_counts() -> None:
    kinds = Kinds()
    for rank in range(8):
        for step in range(100):
            kinds.add(Event(START + step, rank, 20, "a", f"step {step} loss={rank}.5 {'a' * (rank == 3)}"))
    kinds.add(Event(START, 5, 40, "a", "failed"))
    error, steps, other = kinds.groups(10)
    assert (error["text"], error["ranks"], error["count"]) == ("failed", "5", 1)
    assert (steps["text"], steps["ranks"], steps["count"]) == ("step 0..99 loss=0.5..7.5 ", "0-2,4-7", 700)
    assert other["ranks"] == "3"
    assert kinds.left_out([error]) == 800


def test_kinds_are_bounded_and_the_rest_is_counted() -> None:
    kinds = Kinds()
    words = ["".join(random.Random(at).choices("abcdefghijklmnop", k=12)) for at in range(MAX_KINDS + 500)]
    for word in words:
        kinds.add(Event(START, 0, 20, "a", word))
    assert kinds.others == 500
    assert len(kinds.groups(50)) == 50
    assert kinds.left_out(kinds.groups(50)) == MAX_KINDS + 450


def test_curves_show_the_range_and_the_ranks_that_are_behind() -> None:
    kinds = Kinds()
    for rank in range(100):
        for step in range(50):
            kinds.add(Event(START + step, rank, 20, "a", f"step {step if rank != 7 else step // 2} loss={rank}"))
    (curve,) = kinds.curves({"step": (7,)}, 8)
    assert curve["label"] == "step"
    assert (curve["low"][-1], curve["median"][-1], curve["high"][-1]) == (24, 49, 49)
    assert [rank for rank, _ in curve["curves"]] == [7]
    assert curve["at"] == [[7, 24.0]]


def test_many_lines_with_numbers_at_the_start_do_not_hide_progress() -> None:
    kinds = Kinds()
    for word in ("".join(random.Random(at).choices("abcdefghijklmnop", k=12)) for at in range(100)):
        kinds.add(Event(START, 0, 20, "a", f"{word} 1"))
    for step in range(50):
        kinds.add(Event(START + step, 0, 20, "a", f"step {step}"))
        kinds.add(Event(START + step, 0, 20, "a", f"{'abcdefghijklmnop'[step % 16] * (step + 3)} 1"))
    assert [curve["label"] for curve in kinds.curves({}, 8)] == ["step"]


def test_the_ends_of_a_group() -> None:
    assert ends_of("[8 similar log lines] [ranks 0-3,7] step 3..14 loss=0.25..1e-05") == (
        "step 3 loss=0.25",
        "step 14 loss=1e-05",
    )
    assert ends_of("[2 similar log lines] t=-5..-2 in 0..10.5 {a, b}...") == ("t=-5 in 0 {a, b}...", "t=-2 in 10.5 {a, b}...")
    assert ends_of("step 3..14") is None


TRACE = ["Traceback (most recent call last):", '  File "/app/train.py", line 7, in step', "    x()", "ValueError: bad shape"]


def test_a_captured_traceback_is_one_event() -> None:
    lines = [Event(START, 2, 20, "stderr", text) for text in ("before", *TRACE, "after")]
    before, trace, after = joined(lines)
    assert (before.text, after.text) == ("before", "after")
    assert (trace.text, trace.level) == ("\n".join(TRACE), 40)
    assert headline(trace.text) == "ValueError: bad shape"


GROUP = """  + Exception Group Traceback (most recent call last):
  |   File "/app/train.py", line 9, in <module>
  |     raise ExceptionGroup("several", [ValueError("bad shape")])
  | ExceptionGroup: several (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/app/train.py", line 7, in step
    | ValueError: bad shape
    +------------------------------------"""


@pytest.mark.parametrize(
    "start", ["", "[3 similar log lines] ", "[3 similar log lines] [ranks 0-2] ", "[3 similar log lines in 45 s] [rank 0] "]
)
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n".join(TRACE), "ValueError: bad shape"),
        (GROUP, "ExceptionGroup: several (1 sub-exception)"),
        (f"{GROUP}\n\nDuring handling:\n\n{TRACE[0]}\n{TRACE[3]}", "ValueError: bad shape"),
        ("\n".join(TRACE[:3]), TRACE[0]),
        ("step 3\nstep 4", "step 3"),
    ],
    ids=["a traceback", "an exception group", "chained", "without an end", "no traceback"],
)
def test_the_headline_of_a_traceback_names_its_exception(text: str, line: str, start: str) -> None:
    assert headline(start + text) == start + line


def test_a_traceback_that_arrives_as_one_text_is_an_event() -> None:
    lines = [Event(START, 2, 40, "stderr", text) for text in ("\n".join(TRACE), "after")]
    assert list(joined(lines)) == lines


def test_a_captured_exception_group_is_one_event() -> None:
    texts = ["before", *GROUP.split("\n"), "  indented", *GROUP.split("\n"), *GROUP.split("\n"), *TRACE, "after"]
    found = list(joined(Event(START, 2, 40, "stderr", text) for text in texts))
    assert [each.text for each in found] == ["before", GROUP, "  indented", GROUP, GROUP, "\n".join(TRACE), "after"]
    findings = Findings()
    findings.add(2, found[3:5])
    insight = findings.insight(START)
    assert [each.signature for each in insight.failures] == ["ExceptionGroup at train.py:9"]
    assert insight.ranks[2].errors == 2


def test_tracebacks_of_two_ranks_and_one_without_an_end() -> None:
    joiner = Joiner()
    mixed = [Event(START, rank, 40, "stderr", text) for text in TRACE for rank in (0, 1)]
    found = [event for each in mixed[:-1] for event in joiner.feed(each)]
    assert [event.rank for event in found] == [0]
    assert [event.rank for event in joiner.flush()] == [1]
    endless = [Event(START, 0, 40, "stderr", TRACE[0]), *(Event(START, 0, 40, "stderr", "  x") for _ in range(1000))]
    assert max(event.text.count("\n") for event in joined(endless)) < 300


def test_the_failure_of_an_exception_group_is_the_group() -> None:
    findings = Findings()
    findings.add(0, [Event(START, 0, 40, "train", f"it failed\n{GROUP}")])
    assert [each.signature for each in findings.insight(START).failures] == ["ExceptionGroup at train.py:9"]


def test_findings_of_files_are_those_of_a_client() -> None:
    findings = Findings()
    for rank in range(8):
        lines = [Event(START + step, rank, 20, "train", f"step {step}") for step in range(60 if rank != 5 else 20)]
        if rank == 2:
            lines.append(Event(START + 60, rank, 40, "train", "\n".join(("it failed", *TRACE))))
            lines.append(Event(START + 61, rank, 40, "meshlog", "rank 2 (pid 7) ended by exit code 1; its last lines:\n x"))
        findings.add(rank, lines)
    insight = findings.insight(START + 60)
    assert insight.ranks[2].state == "dead"
    assert [(each.signature, each.ranks) for each in insight.failures] == [("ValueError at train.py:7", (2,))]
    assert [rank for rank, _, _ in insight.silent] == [5]
    (progress,) = insight.progress
    assert progress.label == "step"
    assert progress.behind == (5,)
    assert insight.ranks[2].errors == 1


HOSTILE = {
    "\x1b[31mred\x1b[0m": "red",
    "a\x1b]0;title\x07b": "ab",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u2066x\u2069": "\\u2066x\\u2069",
    "\x00\x08": "\\x00\\x08",
    "two\nlines": "two\nlines",
    "\ud800": "\\ud800",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_what_could_deceive_is_escaped(text: str) -> None:
    assert shown(text, 1000) == HOSTILE[text]


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.text(), st.integers(1, 50))
def test_shown_texts_are_bounded_and_safe(text: str, limit: int) -> None:
    for char in shown(text, limit):
        assert char in "\n\t" or (ord(char) >= 32 and not 0x200B <= ord(char) <= 0x200F and not 0x202A <= ord(char) <= 0x202E)
    assert len(shown(text, limit)) <= 10 * limit + 60


def test_a_line_of_a_megabyte_is_cut() -> None:
    page = told([Event(START, 0, 20, "stdout", "x" * (1 << 20))])
    assert len(page["texts"][0]) < 3000
    assert "1,048,576 characters" in page["texts"][0]
    assert len(json.dumps(page)) < 5000
