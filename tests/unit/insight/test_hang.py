from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.insight.hang import HangDetector, describe_hang


def test_a_rank_that_does_nothing_while_the_others_wait_is_found_once() -> None:
    detector = HangDetector(10.0)
    assert detector.look(9.9, {0: 0.0, 1: 4.0}) == ()
    assert detector.look(10.0, {0: 0.0, 1: 4.0}) == (0, 1)
    assert detector.look(20.0, {0: 0.0, 1: 4.0}) == ()


def test_a_rank_that_is_silent_while_another_one_works_is_no_hang() -> None:
    detector = HangDetector(10.0)
    for now in range(100):
        assert detector.look(float(now), {0: 0.0, 1: now - 4.0}) == ()


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
        silent = {rank: now - when for rank, when in active.items()}
        found = detector.look(float(now), active)
        hangs = max(silent.values()) >= after and min(silent.values()) >= after / 2
        told = told and min(silent.values()) >= after / 2
        assert bool(found) is (hangs and not told)
        told = told or hangs
        assert [silent[rank] for rank in found] == (sorted(silent.values(), reverse=True) if found else [])


def test_the_report_names_ranks_times_and_last_lines() -> None:
    silent = {rank: 30.0 + rank for rank in range(8)}
    lines = describe_hang(tuple(range(7)), silent, {0: "step 8", 1: "x" * 1000}, 30.0).splitlines()
    assert lines[:3] == [
        "no progress for 30 s: ranks 0-6",
        "    rank 0: silent for 30 s; last line: step 8",
        f"    rank 1: silent for 31 s; last line: {'x' * 100}",
    ]
    assert lines[3] == "    rank 2: silent for 32 s; nothing was logged or printed"
    assert lines[-1] == "    and 2 more"
