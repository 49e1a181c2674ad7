from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.insight.call_tree import Frame, Unanswered
from meshlog_handler.insight.hang import HangDetector, describe_hang
from meshlog_handler.insight.stacks import ThreadStack, merge


def test_a_job_in_which_no_rank_does_anything_is_found_once() -> None:
    detector = HangDetector(10.0)
    assert detector.look(13.9, {0: 0.0, 1: 4.0}) == ()
    assert detector.look(14.0, {0: 0.0, 1: 4.0}) == (0, 1)
    assert detector.look(20.0, {0: 0.0, 1: 4.0}) == ()


def test_a_rank_that_logs_rarely_is_no_hang_while_another_one_pauses() -> None:
    detector = HangDetector(10.0)
    for now in range(100):
        assert detector.look(float(now), {0: 0.0, 1: now - 9.0}) == ()


def test_the_next_hang_is_found_after_any_rank_has_gone_on() -> None:
    detector = HangDetector(10.0)
    assert detector.look(10.0, {0: 0.0, 1: 0.0}) == (0, 1)
    assert detector.look(21.0, {0: 20.0, 1: 0.0}) == ()
    assert detector.look(31.0, {0: 20.0, 1: 0.0}) == (1, 0)


def test_without_ranks_nothing_hangs() -> None:
    assert HangDetector(1.0).look(100.0, {}) == ()


@given(st.dictionaries(st.integers(0, 5), st.lists(st.floats(0, 50), max_size=5), min_size=1), st.floats(1, 20))
def test_a_hang_is_found_if_and_only_if_all_wait(events: dict[int, list[float]], after: float) -> None:
    detector = HangDetector(after)
    told = False
    for now in range(80):
        active = {rank: max((each for each in times if each <= now), default=0.0) for rank, times in events.items()}
        found = detector.look(float(now), active)
        hangs = now - max(active.values()) >= after
        assert bool(found) is (hangs and not told)
        told = hangs
        assert [active[rank] for rank in found] == (sorted(active.values()) if found else [])


def test_the_report_names_ranks_times_and_last_lines() -> None:
    silent = {rank: 30.0 + rank for rank in range(8)}
    lines = describe_hang(tuple(range(7)), silent, {0: "step 8", 1: "x" * 1000}, 30.0, None).splitlines()
    assert lines[:3] == [
        "no progress for 30 s: ranks 0-6",
        "    rank 0: silent for 30 s; last line: step 8",
        f"    rank 1: silent for 31 s; last line: {'x' * 100}",
    ]
    assert lines[3] == "    rank 2: silent for 32 s; nothing was logged or printed"
    assert lines[-1] == "    and 2 more"


def stack(*calls: str, thread: str = "MainThread") -> tuple[ThreadStack, ...]:
    """One thread; each call is a file, a line and a function."""
    frames = tuple(Frame(file, int(line), function) for file, line, function in map(str.split, calls))
    return (ThreadStack(thread, frames, ("",) * len(frames)),)


def first_line(found: dict[int, tuple[ThreadStack, ...] | Unanswered]) -> str:
    ranks = tuple(found)
    return describe_hang(ranks, dict.fromkeys(ranks, 9.0), {}, 9.0, merge(found.items())).partition("\n")[0]


WAITS = stack("/app/train.py 7 main", "/app/train.py 40 meet", "/usr/lib/python3.11/threading.py 320 wait")
LOADS = stack("/app/train.py 7 main", "/app/data.py 12 load")


def test_the_first_line_says_where_the_ranks_are_and_begins_with_those_that_differ() -> None:
    stopped = Unanswered(11, "stopped", "do_signal_stop", "it did not answer in time")
    assert first_line({0: WAITS, 1: WAITS, 2: LOADS, 3: WAITS}) == (
        "no progress for 9 s: rank 2 in load (data.py:12); ranks 0-1,3 in meet (train.py:40)"
    )
    assert first_line({0: WAITS, 1: stopped, 2: WAITS}) == (
        "no progress for 9 s: rank 1 stopped in do_signal_stop; ranks 0,2 in meet (train.py:40)"
    )
    assert first_line({0: WAITS, 1: WAITS}) == "no progress for 9 s: ranks 0-1 in meet (train.py:40)"


def test_the_first_line_is_short_if_many_ranks_are_in_different_places() -> None:
    apart = {rank: stack(f"/app/train.py {rank} step") for rank in range(10)}
    assert first_line({**apart, **dict.fromkeys(range(10, 1000), WAITS)}) == (
        "no progress for 9 s: rank 0 in step (train.py:0); rank 1 in step (train.py:1); rank 2 in step (train.py:2); "
        "7 ranks elsewhere; ranks 10-999 in meet (train.py:40)"
    )


def test_the_place_of_a_rank_is_that_of_its_main_thread_outside_of_libraries() -> None:
    installed = stack("/venv/lib/python3.11/site-packages/app/main.py 3 run", "/usr/lib/python3.11/queue.py 171 get")
    other = stack("/app/data.py 9 prefetch", thread="Thread-1")
    assert first_line({0: (*WAITS, *other), 1: (*installed, *other)}) == (
        "no progress for 9 s: rank 0 in meet (train.py:40); rank 1 in get (queue.py:171)"
    )
    strange = stack("/app/x\x1b[2J.py 3 run")
    assert first_line({0: strange}) == r"no progress for 9 s: rank 0 in run (x\x1b[2J.py:3)"
    nothing: tuple[ThreadStack, ...] = (ThreadStack("MainThread", (), ()),)
    assert first_line({0: nothing}) == "no progress for 9 s: rank 0"
