"""The account of `benchmarks.chaos` finds what is lost, shown twice or out of order, and the schedule ends what it begins."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.chaos_account import Arrived, Told, balance, growth, rows, schedule

TOLD = {"h1-0/1": Told(3, 10, 0.5, False), "h1-0/2": Told(4, 5, 0.1, True)}


def arrived(numbers: list[int]) -> Arrived:
    found = Arrived()
    for number in numbers:
        found.take(number)
    return found


def test_an_exact_account() -> None:
    of = {"h1-0/1": arrived([*range(1, 5), *range(7, 11)]), "h1-0/2": arrived([*range(1, 6)])}
    sums, faults = balance(TOLD, of, {3: 2, 9: 1})
    assert faults == []
    (row,) = sums.values()
    assert (row.workers, row.sent, row.arrived, row.dropped, row.twice, row.longest) == (2, 15, 13, 2, 0, 0.5)
    assert "15" in list(rows(sums))[-1]


@pytest.mark.parametrize(
    ("numbers", "dropped", "said"),
    [
        ([*range(1, 10)], 0, "sent 10, arrived 9, counted as lost 0"),
        ([*range(1, 10)], 3, "counted as lost 3"),
        ([*range(1, 11), 4], 0, "1 records were shown twice"),
        ([1, 3, 2, *range(4, 11)], 0, "1 out of order"),
    ],
)
def test_what_is_wrong_is_named(numbers: list[int], dropped: int, said: str) -> None:
    of = {"h1-0/1": arrived(numbers), "h1-0/2": arrived([*range(1, 6)])}
    _, faults = balance(TOLD, of, {3: dropped})
    assert [said in fault for fault in faults] == [True]


def test_processes_with_the_same_rank_are_named_unless_they_are_in_one_slot() -> None:
    told = {"h1-0/1": Told(3, 0, 0.0, True), "h1-0/2": Told(3, 0, 0.0, True), "h1-1/1": Told(-1, 0, 0.0, False)}
    assert balance(told, {}, {})[1] == []
    (fault,) = balance({**told, "h2-0/1": Told(3, 0, 0.0, True), "h2-1/1": Told(-1, 0, 0.0, False)}, {}, {})[1]
    assert fault.startswith("rank 3 was given to several processes")


def test_the_call_during_which_a_process_was_killed_may_have_arrived() -> None:
    killed, ended = arrived([*range(1, 12)]), arrived([*range(1, 7)])
    assert balance(TOLD, {"h1-0/1": killed, "h1-0/2": arrived([*range(1, 6)])}, {})[1] == []
    (fault,) = balance(TOLD, {"h1-0/1": killed, "h1-0/2": ended}, {})[1]
    assert "h1-0/2" in fault


def test_what_is_begun_ends_within_the_run_before_it_begins_again() -> None:
    events = schedule(7, 600.0, 3, 3)
    assert events == schedule(7, 600.0, 3, 3) != schedule(8, 600.0, 3, 3)
    assert [each.at for each in events] == sorted(each.at for each in events)
    begun: Counter[object] = Counter()
    for each in events:
        begun[each.host if each.what in ("cut", "join") else each.what.split()[-1]] += {"cut": 1, "join": -1}.get(each.what, 0)
        assert set(begun.values()) <= {0, 1}
    assert not any(begun.values())
    counts = Counter(each.what for each in events)
    assert counts["stop the client"] == counts["continue the client"] > 0
    assert counts["observe"] == counts["kill the observer"] > 0
    assert counts["cut"] > 10
    assert max(each.at for each in events) <= 600.0


def test_growth_is_from_the_second_quarter_to_the_last() -> None:
    assert growth([1, 9, 5, 5, 6, 6, 7, 8]) == 3
    assert growth([1, 2]) == 0
