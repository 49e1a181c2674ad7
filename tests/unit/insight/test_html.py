"""What a notebook shows of an insight and of stacks."""

from __future__ import annotations

from meshlog_handler.insight.call_tree import Frame, Unanswered
from meshlog_handler.insight.html import insight_html, stacks_html, text_html
from meshlog_handler.insight.parts import FailureGroup, Progress, RankInsight
from meshlog_handler.insight.report import Insight
from meshlog_handler.insight.stacks import ThreadStack, merge

ATTACK = "<script>alert(1)</script>\u202e\x1b[2J"
SAFE = "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e\\x1b[2J"


def rank(state: str = "running", line: str = "step 3", errors: int = 0) -> RankInsight:
    return RankInsight(state, 2.0, line, 1000, 200, 1.0, 3, errors, 0, {"step": 3.0})


def insight(ranks: dict[int, RankInsight]) -> Insight:
    progress = Progress("step", {0: 3.0}, 3.0, 3.0, 3.0, 1.0, (1,))
    return Insight(ranks, (), (progress,), (), (), (FailureGroup("E", ATTACK, (2,), 2, 0.0),))


def test_the_table_has_ranks_with_trouble_first() -> None:
    made = insight({0: rank(), 1: rank(), 2: rank("dead", ATTACK, 1), 3: rank("silent")})._repr_html_()
    rows = made.split("<tr")[2:]
    assert [row.split(">")[2].split("<")[0] for row in rows] == ["2", "3", "1", "0"]
    assert "<script" not in made
    assert made.count(SAFE) == 2  # the failure, the last line
    assert "behind" in rows[2]
    assert "1,200" in rows[0]


def test_ten_thousand_ranks_are_a_small_table() -> None:
    made = insight_html(insight(dict.fromkeys(range(10_000), rank(line="x" * 100_000))), ATTACK)
    assert len(made) < 60_000
    assert "and 9,950 more ranks" in made
    assert made.startswith(f"<div><div>{SAFE}</div>")


def test_an_empty_table_says_so() -> None:
    assert "nothing was received yet" in insight_html(Insight({}, (), (), (), (), ()))
    assert text_html("<b>") == "<pre>&lt;b&gt;</pre>"


def test_stacks_are_a_tree_with_a_branch_where_ranks_differ() -> None:
    main, step, wait = Frame("a.py", 1, "main"), Frame("a.py", 7, "<script>"), Frame("b.py", 9, "wait")
    found: list[tuple[int, tuple[ThreadStack, ...] | Unanswered]] = [
        (number, (ThreadStack("MainThread", (main, wait if number == 3 else step), ("", "x < y")),)) for number in range(8)
    ]
    stacks = merge([*found, (8, Unanswered(5, "stopped", "", "<late>"))])
    made = stacks._repr_html_()
    assert made == stacks_html(stacks)
    assert made.count("<details") == made.count("</details>") == 3
    assert made.index("ranks 0-7: MainThread, in main()") < made.index("ranks 0-2,4-7: MainThread") < made.index("rank 3: ")
    assert "&lt;script&gt;()  a.py:7" in made
    assert "x &lt; y" in made
    assert "differs from most ranks" in made
    assert "without stacks: rank 8, pid 5: stopped; &lt;late&gt;" in made
    assert "<script" not in made


def test_the_frames_of_the_start_are_folded_and_those_of_imports_are_left_out() -> None:
    start = Frame("<frozen runpy>", 198, "_run_module_as_main"), Frame("<frozen runpy>", 88, "_run_code")
    imports = Frame("<frozen importlib._bootstrap>", 1176, "_find_and_load")
    frames = (*start, Frame("a.py", 1, "main"), imports, Frame("b.py", 2, "<module>"))
    stacks = merge([(0, (ThreadStack("MainThread", frames, ("",) * len(frames)),))])
    made = stacks_html(stacks)
    folded = made[made.rindex("<details ") : made.index("</details>")]
    assert "2 frames of the start" in folded
    assert "_run_code()" in folded
    assert "main()  a.py:1" not in folded
    assert "_find_and_load" not in made + str(stacks)
    assert str(stacks).splitlines()[3:] == ["  ... 2 frames of the start", "  main (a.py:1)", "  <module> (b.py:2)"]
