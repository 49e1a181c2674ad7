"""What a terminal shows while ranks draw progress bars and log."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.screens import Screen

from .command_line import MESHLOG
from .procs import importing, run_python


@pytest.fixture
def screen() -> Iterator[Screen]:
    it = Screen(100, 24)
    yield it
    it.close()


def on(screen: Screen, *command: str, changed: Callable[[list[str]], object] = lambda rows: None) -> list[list[str]]:
    left_out = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CI")
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    return screen.run([sys.executable, *command], importing({**env, "TERM": "xterm-256color"}), changed=changed)


def bars_in(rows: list[str]) -> list[str]:
    """Return the names of the bars that are drawn and have not ended."""
    return [match[1] for row in rows if (match := re.match(r"\[\d+\] (\w+ \d)\W.* (?!100)\d+%", row))]


def assert_bars_stay_together_below_the_records(seen: list[list[str]], bars: set[str]) -> None:
    assert any(bars <= set(bars_in(state)) for state in seen), "all of them at once"
    for state in seen:
        drawn = [row for row in state if re.search(r" \d+%", row) and "100%" not in row]
        assert drawn == state[len(state) - len(drawn) :] or "100%" in "".join(state[-len(drawn) :]), "below all records"


@pytest.mark.parametrize(
    ("program", "names", "records"),
    [
        ("with_position", ["worker {}"], [*(f"worker {{}} logs {step}" for step in (4, 12, 20)), "worker {} is done"]),
        ("nested", ["outer {}"], [f"outer {{}} logs {step}" for step in range(3)]),
        ("by_rich", ["first {}", "second {}"], [f"rich {{}} logs {step}" for step in (4, 12, 20)]),
    ],
)
def test_bars_overwrite_no_record_and_each_bar_leaves_one_line(
    screen: Screen, program: str, names: list[str], records: list[str]
) -> None:
    if program == "by_rich":
        pytest.importorskip("rich")
    seen = on(screen, "-m", "tests.process.bars", program)
    rows = seen[-1]
    assert all(rows), "no empty lines"
    for number in range(3):
        for record in records:
            assert sum(row.endswith("] " + record.format(number)) for row in rows) == 1
        for name in names:
            assert sum(name.format(number) in row and "100%" in row for row in rows) == 1
    assert len(rows) == 3 * (len(records) + len(names)), "nothing else: no states that a bar has left behind"
    assert_bars_stay_together_below_the_records(seen, {name.format(number) for name in names for number in range(3)})


def test_lines_of_workers_appear_above_the_bars_of_the_client(screen: Screen) -> None:
    seen = on(screen, "-m", "tests.process.bars", "of_client")
    records = [f"worker {number} logs {line}" for number in range(3) for line in range(2)]
    assert [row.partition("] ")[2] for row in seen[-1] if row.startswith("[")] == records
    assert len(seen[-1]) == len(records) + 2
    for state in seen:
        bars = [row for row in state if row.startswith("own ")]
        assert bars == state[len(state) - len(bars) :], "below all records"


def test_ranks_with_two_bars_each_show_all_bars_at_once(screen: Screen, tmp_path: Path) -> None:
    bars = {f"{name} {number}" for name in ("upper", "lower") for number in range(4)}
    go = tmp_path / "go"

    def changed(rows: list[str]) -> None:
        if bars <= set(bars_in(rows)):
            go.touch()

    program = (sys.executable, "-m", "tests.process.bars", "two_positions", str(go))
    seen = on(screen, "-m", "meshlog_handler", "run", "-n", "4", "--", *program, changed=changed)
    rows = seen[-1]
    records = [f"rank {number} logs {step}" for number in range(4) for step in (1, 4, 7)]
    text = "\n".join(rows)
    assert sorted(row.partition("] ")[2] for row in rows if " logs " in row) == sorted(records), text
    ends = [(row[:3], row.partition("] ")[2].partition(":")[0]) for row in rows if "100%" in row]
    assert sorted(ends) == sorted((f"[{bar[-1]}]", bar) for bar in bars), text
    assert len(rows) == len(records) + len(bars), text
    assert_bars_stay_together_below_the_records(seen, bars)


def test_output_that_is_not_a_terminal_has_no_control_sequences() -> None:
    for program in ("with_position", "nested"):
        done = run_python("-m", "tests.process.bars", program)
        text = done.stdout + done.stderr
        assert "\x1b" not in text
        assert "\r" not in text
        lines = text.splitlines()
        assert not [line for line in lines if not line.partition("] ")[2].strip()], "no empty lines"
        assert len([line for line in lines if "100%" in line and "inner" not in line]) == 3


def test_ranks_get_the_size_of_the_terminal(screen: Screen) -> None:
    assert on(screen, "-m", "tests.process.bars", "mesh")[-1] == ["fork (96, 24)", "spawn (96, 24)", "forkserver (96, 24)"]
    (row,) = [
        row
        for row in on(
            screen, "-m", "meshlog_handler", "run", "-n", "1", "--", sys.executable, "-m", "tests.process.bars", "size"
        )[-1]
        if "size" in row
    ]
    assert row == "[0] size 96 24"
    done = run_python("-m", "meshlog_handler", "run", "-n", "1", "--", sys.executable, "-m", "tests.process.bars", "size")
    assert "[0] size 0 0" in done.stdout


@pytest.mark.parametrize(
    ("more", "options", "told"),
    [
        ({}, (), "1 96"),
        ({}, ("--json",), "None 96"),
        ({"NO_COLOR": "1"}, (), "None 96"),
        ({"FORCE_COLOR": "3", "COLUMNS": "50"}, (), "3 50"),
        ({"CI": "true"}, (), "None None"),
    ],
)
def test_ranks_get_the_size_and_the_colours_of_the_terminal(
    screen: Screen, more: dict[str, str], options: tuple[str, ...], told: str
) -> None:
    left_out = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CI")
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    tell = "import os; print('told', os.environ.get('FORCE_COLOR'), os.environ.get('COLUMNS'))"
    command = [*MESHLOG, "run", *options, "--", sys.executable, "-c", tell]
    rows = screen.run(command, importing({**env, "TERM": "xterm-256color", **more}))[-1]
    assert f"told {told}" in "".join(rows)
