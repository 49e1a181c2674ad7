"""Tables of the operator's terminal, and which run a name means."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.cli.view.observing import NoRun, choose
from meshlog_handler.cli.view.tables import HEAD, ORDERS, heading, rows_of, table_of_runs, text_table
from meshlog_handler.insight.parts import FailureGroup, Progress, RankInsight, trouble_of
from meshlog_handler.insight.report import Insight
from meshlog_handler.transport.runs import Run, command_line

WELL = RankInsight("running", 0.0, "fine", 1, 2, 3.0, 0, 0, 0, {})


def insight(*ranks: RankInsight, behind: tuple[int, ...] = ()) -> Insight:
    """Return an insight of these ranks."""
    progress = (Progress("step", {}, 0.0, 0.0, 0.0, 1.0, behind),)
    return Insight(dict(enumerate(ranks)), (), progress, (), (), ())


def test_ranks_with_trouble_come_first() -> None:
    states = ("ended", "running", "silent", "running", "running", "stopped", "dead")
    ranks = [dataclasses.replace(WELL, state=state) for state in states]
    ranks[3] = dataclasses.replace(WELL, errors=1)
    rows = rows_of(insight(*ranks, behind=(4,)))
    assert [row.rank for row in rows] == [6, 5, 3, 2, 4, 1, 0]
    assert [row.trouble for row in rows] == ["dead", "stopped", "errors", "silent", "behind", "", ""]
    assert rows[4].cells[1] == "behind"


def test_a_long_progress_is_cut_to_the_width_of_its_column() -> None:
    (row,) = rows_of(
        insight(dataclasses.replace(WELL, progress={"printed step #": 29.0, "stderr": 25.0, "step # loss=#": 29.0}))
    )
    assert row.cells[HEAD.index("progress")] == "printed step # 29  stderr 25  step # ..."
    (row,) = rows_of(insight(dataclasses.replace(WELL, progress={"step": 12345.0})))
    assert row.cells[HEAD.index("progress")] == "step 12,345"


def test_the_first_failure_has_the_rank_once() -> None:
    killed = FailureGroup("ended by SIGKILL", "rank 0 (pid 7) ended by SIGKILL", (0,), 0, 5.0)
    raised = FailureGroup("ValueError", "ValueError: rank 0 (pid 7) is odd", (0,), 0, 5.0)
    several = FailureGroup("ended by SIGKILL", "rank 0 (pid 7) ended by SIGKILL", (0, 3), 0, 5.0)
    for failure, shown in (
        (killed, "rank 0: pid 7 ended by SIGKILL"),
        (raised, "rank 0: ValueError: rank 0 (pid 7) is odd"),
        (several, "ranks 0,3: rank 0 (pid 7) ended by SIGKILL"),
    ):
        found = dataclasses.replace(insight(WELL), failures=(failure,))
        assert heading(found, {"pid": 1, "command": "x", "since": 0.0}, 9.0)[-1] == f"first failure: {shown}"
        assert f"{shown.partition(': ')[2]}</b>" in found._repr_html_()
    assert ": pid 7 ended by SIGKILL" in str(dataclasses.replace(insight(WELL), failures=(killed,)))


@given(
    st.sampled_from(sorted(ORDERS)),
    st.lists(
        st.builds(
            RankInsight,
            st.sampled_from(["running", "dead", "ended"]),
            *[
                st.floats(0, 1e6),
                st.text(),
                st.integers(0, 9),
                st.integers(0, 9),
                st.floats(0, 1e6),
                st.integers(0, 9),
                st.integers(0, 9),
                st.integers(0, 9),
                st.dictionaries(st.text(), st.floats(-1e9, 1e9), max_size=2),
            ],
        ),
        max_size=6,
    ),
)
def test_each_rank_has_one_row_of_printable_text(order: str, ranks: list[RankInsight]) -> None:
    rows = rows_of(insight(*ranks), order)
    assert sorted(row.rank for row in rows) == list(range(len(ranks)))
    table = text_table(HEAD, [row.cells for row in rows], 70)
    assert len(table.split("\n")) == len(ranks) + 1
    assert all(len(line) <= 70 and "\x1b" not in line for line in table.split("\n"))
    assert all(trouble_of(each, False) in ("", "dead", "errors") for each in ranks)


def test_a_run_that_does_not_answer_is_listed_without_its_counts() -> None:
    told = {"pid": 7, "command": "a\x1bb", "since": 0.0, "ranks": None, "live": None, "records": None}
    line = table_of_runs([told], None, 0.0).split("\n")[1]
    assert line.split()[:2] == ["7", "?"]
    assert line.endswith(r"?  a\x1bb")


def run(pid: int, command: str) -> Run:
    """Return a run."""
    return Run(pid, command, 0.0, "meshlog:///s#00", "/run")


def test_a_name_is_a_pid_or_the_beginning_of_a_part_of_a_word() -> None:
    known = [run(12, "meshlog run -n 2 -- python train.py"), run(120, "python /srv/serve.py"), run(7, "python train.py 12")]
    assert choose("12", known).pid == 12
    assert choose("serve", known).pid == 120
    assert choose("meshlog", known).pid == 12
    assert choose("train", [*known[1:2], run(13, "meshlog run -- python -m jobs.train")]).pid == 13
    assert choose(None, known[:1]).pid == 12
    for name in ("train", None, "nothing"):
        with pytest.raises(NoRun):
            choose(name, known)
    with pytest.raises(NoRun, match="no running client"):
        choose(None, [])


def test_a_command_line_is_short() -> None:
    assert command_line(["/usr/bin/python3", "train.py", "--lr", "3"]) == "python3 train.py --lr 3"
    assert command_line(["/venv/bin/python", "/venv/bin/meshlog", "run", "--", "x"]) == "meshlog run -- x"
    assert len(command_line(["python", "-c", "x" * 5000])) == 1000
