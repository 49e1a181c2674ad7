from __future__ import annotations

import json
import logging
from dataclasses import replace
from itertools import accumulate
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.errors import ProtocolError
from meshlog_handler.insight.observation import STATES, Observation, by_rank
from meshlog_handler.insight.report import Insight, insight_of
from meshlog_handler.insight.series import Series, finest, measure_text
from meshlog_handler.protocol.codec import pack, unpack

Line = tuple[float, str]


def observed(rank: int, *lines: Line, level: int = logging.INFO, **others: Any) -> Observation:
    """Return the observation of a rank that logged these lines: (time, text)."""
    series: dict[tuple[int, str], Series] = {}
    for when, text in lines:
        shape, sample = measure_text(text, when)
        one = Series(1, (sample,))
        known = series.get((level, shape))
        series[level, shape] = one if known is None else known.merged(one)
    return replace(Observation(rank, series=series), **others)


def steps(rank: int, count: int, each: float, **others: Any) -> Observation:
    """Return the observation of a rank that logged a step every `each` seconds."""
    return observed(rank, *((step * each, f"step {step} loss=0.5") for step in range(1, count + 1)), **others)


def test_progress_has_the_values_of_all_ranks_and_names_the_slow_one() -> None:
    found = insight_of([steps(0, 100, 0.1), steps(1, 100, 0.1), steps(2, 50, 0.2), steps(3, 101, 0.1)])
    (progress,) = found.progress
    assert progress.label == "step"
    assert progress.values == {0: 100.0, 1: 100.0, 2: 50.0, 3: 101.0}
    assert (progress.minimum, progress.median, progress.maximum) == (50.0, 100.0, 101.0)
    assert progress.rate == pytest.approx(10.0)
    assert progress.behind == (2,)
    assert found.ranks[2].progress == {"step": 50.0}


def test_a_rank_that_stands_still_is_behind() -> None:
    found = insight_of([*(steps(rank, 100, 0.1) for rank in range(3)), steps(3, 90, 0.1, silence=1.0)])
    assert found.progress[0].behind == (3,)


def test_a_rank_whose_latest_step_is_on_its_way_is_not_behind() -> None:
    found = insight_of([*(steps(rank, 100, 0.1) for rank in range(3)), steps(3, 98, 0.1)])
    assert found.progress[0].behind == ()


def test_a_number_that_does_not_grow_everywhere_is_no_progress() -> None:
    falling = [observed(rank, (0.0, "loss 5"), (1.0, "loss 4"), (2.0, "loss 3")) for rank in range(2)]
    assert insight_of(falling).progress == ()
    mixed = [observed(0, (0.0, "loss 5"), (1.0, "loss 6")), observed(1, (0.0, "loss 5"), (1.0, "loss 4"))]
    assert insight_of(mixed).progress == ()


def test_equal_labels_are_told_apart() -> None:
    found = insight_of([observed(0, (0.0, "step 1"), (1.0, "step 2"), (0.0, "eval step 1"), (1.0, "eval step 2"))])
    assert [each.label for each in found.progress] == ["eval step #", "step #"]


def epochs(rank: int, count: int, each: float = 0.5, **others: Any) -> Observation:
    """Return the observation of a rank that logged steps of epochs of 20 steps."""
    texts = [(at * each, f"epoch {at // 20 + 1} step {at % 20 + 1} loss=0.5 of seed 7") for at in range(count)]
    return observed(rank, *texts, **others)


def test_steps_that_begin_again_in_each_epoch_are_compared_within_it() -> None:
    found = insight_of([*(epochs(rank, 58) for rank in range(3)), epochs(3, 49, silence=4.5, last_line="epoch 3 step 9")])
    inner, outer = found.progress
    assert (outer.label, outer.values, outer.behind) == ("epoch", dict.fromkeys(range(4), 3.0), ())
    assert (inner.label, inner.values, inner.behind) == ("epoch 3 step", {0: 18.0, 1: 18.0, 2: 18.0, 3: 9.0}, (3,))
    assert inner.rate == pytest.approx(2.0)
    assert "behind    epoch 3 step: rank 3 at 9; median 18" in str(found)
    assert finest(found.ranks[3].progress) == {"epoch 3 step": 9.0}


def test_steps_of_ranks_in_other_epochs_are_not_compared() -> None:
    found = insight_of([*(epochs(rank, 46) for rank in range(3)), epochs(3, 39)])
    behind = {each.label: each.behind for each in found.progress}
    assert behind == {"epoch": (3,), "epoch 3 step": ()}
    assert finest(found.ranks[3].progress) == {"epoch": 2.0}


def test_ranks_that_wait_for_a_slow_one_are_not_silent_and_the_slow_one_is_behind() -> None:
    fast = [steps(rank, 20, 0.2, silence=6.0, longest=0.5) for rank in range(3)]
    found = insight_of([*fast, steps(3, 14, 0.7, silence=0.2, longest=0.9)])
    assert found.silent == ()
    assert [each.state for each in found.ranks.values()] == ["running"] * 4
    assert found.progress[0].behind == (3,)


def test_ranks_that_have_got_stuck_while_one_goes_on_are_silent_and_behind() -> None:
    stuck = [steps(rank, 20, 0.2, silence=60.0, longest=0.5) for rank in range(3)]
    found = insight_of([*stuck, steps(3, 300, 0.2, silence=0.1, longest=0.5)])
    assert [rank for rank, _, _ in found.silent] == [0, 1, 2]
    assert found.progress[0].behind == (0, 1, 2)


def test_a_stuck_rank_is_silent_also_if_it_is_ahead_of_a_slow_one() -> None:
    others = [steps(rank, 300, 0.2, silence=0.1, longest=0.5) for rank in range(3)]
    found = insight_of([*others, steps(3, 100, 0.6, silence=0.1), steps(4, 150, 0.2, silence=30.0, longest=0.5)])
    assert [rank for rank, _, _ in found.silent] == [4]
    assert found.progress[0].slowest == [3, 4]


def named(found: Insight) -> tuple[list[int], dict[str, tuple[int, ...]], list[int]]:
    """Return the silent ranks, those behind by label, and those that miss a milestone."""
    behind = {each.label: each.behind for each in found.progress if each.behind}
    return [rank for rank, *_ in found.silent], behind, sorted({rank for each in found.missing for rank in each.missing})


@pytest.mark.parametrize("step", [2, 20, 300])
def test_a_rank_that_waits_ahead_of_all_others_is_not_silent_and_the_others_are_not_missing(step: int) -> None:
    # The ranks meet after each step. Three of them print what they do meanwhile.
    others = [steps(rank, step - 1, 1.0, silence=0.2, longest=1.0) for rank in range(3)]
    found = insight_of([*others, steps(3, step, 1.0, silence=9.0, longest=1.0)])
    assert named(found)[0] == []
    assert found.ranks[3].state == "running"


@pytest.mark.parametrize("silence", [0.2, 9.5], ids=["prints", "silent"])
def test_the_rank_for_which_the_others_wait_is_the_one_that_is_behind(silence: float) -> None:
    waiting = [steps(rank, 20, 1.0, silence=9.0, longest=1.0) for rank in (0, 1)]
    active = steps(2, 20, 1.0, silence=0.1, longest=1.0)  # it waits, too, and says so
    late = replace(steps(3, 19, 1.0), silence=silence, longest=1.0)
    found = insight_of([*waiting, active, late])
    assert named(found) == ([] if silence < 1 else [3], {"step": (3,)}, [3] if silence > 1 else [])


def test_ranks_that_wait_for_the_end_of_an_epoch_are_not_silent() -> None:
    done = epochs(0, 60, silence=9.0, longest=0.6)
    found = insight_of([done, *(epochs(rank, 50, 0.6, silence=0.1, longest=0.8) for rank in (1, 2, 3))])
    assert named(found)[0] == []


def test_a_stuck_rank_is_silent_although_its_own_numbers_are_the_highest() -> None:
    def files(rank: int, count: int, **others: Any) -> Observation:
        return observed(rank, *((at * 1.0, f"file {1000 * rank + at}") for at in range(count)), longest=1.0, **others)

    ranges = [*(files(rank, 30, silence=0.1) for rank in range(3)), files(3, 10, silence=20.0)]
    assert named(insight_of(ranges))[0] == [3]
    stopped = [
        *(steps(rank, 19, 1.0, silence=0.1, longest=1.0) for rank in range(3)),
        steps(3, 20, 1.0, state="stopped", silence=9.0),
    ]
    assert named(insight_of(stopped))[0] == [3]


def test_a_stuck_rank_is_silent_although_it_was_ahead_in_an_earlier_phase() -> None:
    def loaded(rank: int, count: int) -> list[Line]:
        return [(at / 100, f"loaded shard {at}") for at in range(1, count + 1)]

    def trained(rank: int, count: int) -> list[Line]:
        return [(10.0 + at, f"step {at}") for at in range(1, count + 1)]

    others = [observed(rank, *loaded(rank, 89), *trained(rank, 60), silence=0.1, longest=1.0) for rank in range(3)]
    found = insight_of([*others, observed(3, *loaded(3, 90), *trained(3, 20), silence=40.0, longest=1.0)])
    assert named(found)[:2] == ([3], {"step": (3,)})


@pytest.mark.parametrize("at", [4.0, 9.7, 15.0, 19.9])
@pytest.mark.parametrize("slower", [1.0, 1.05, 1.3, 2.0])
def test_a_rank_at_its_usual_pace_misses_no_step(slower: float, at: float) -> None:
    """The clock is at `at` seconds. Three ranks do a step in a second; one is slower, and has begun half a second later."""

    def until_now(rank: int, begin: float, each: float) -> Observation:
        times = [begin + each * step for step in range(1, 50) if begin + each * step <= at]
        lines = [(when, f"step {step}") for step, when in enumerate(times, 1)]
        epochs = [(when, f"epoch {step // 3} done") for step, when in enumerate(times, 1) if step % 3 == 0]
        return observed(rank, *lines, *epochs, silence=at - times[-1], longest=each)

    found = insight_of([*(until_now(rank, 0.1 * rank, 1.0) for rank in range(3)), until_now(3, 0.5, slower)])
    assert named(found)[2] == []


def test_workers_of_a_pool_with_uneven_tasks_miss_no_task() -> None:
    random = Random(7)
    ended: dict[int, list[float]] = {}
    for rank in range(8):
        times = list(accumulate(random.uniform(0.2, 1.8) for _ in range(40)))
        ended[rank] = times
    for now in (at / 4 for at in range(8, 80)):
        found = [[(when, f"task {number} done") for number, when in enumerate(ended[rank], 1) if when <= now] for rank in ended]
        ranks = [observed(rank, *lines, silence=now - lines[-1][0], longest=1.8) for rank, lines in enumerate(found) if lines]
        assert named(insight_of(ranks))[2] == [], now


@pytest.mark.parametrize("seconds", [0.0, 1.4, 2.6, 20.0])
def test_a_rank_that_stands_still_misses_the_next_step_soon(seconds: float) -> None:
    # It prints something from time to time, so it is not silent.
    others = [steps(rank, 8 + int(seconds), 1.0, silence=seconds % 1, longest=1.0) for rank in range(3)]
    still = observed(
        3, *((float(step), f"step {step} loss=0.5") for step in range(1, 9)), (8.0 + seconds, "no data yet"), longest=1.0
    )
    missing = named(insight_of([*others, still]))[2]
    assert missing == ([3] if 2.5 < seconds < 12 else [])  # a step that is logged more often than 20 times is no milestone


def test_a_line_is_missing_when_a_rank_has_passed_the_place_where_others_logged_it() -> None:
    def ranks(now: float, third: float, *, skips: bool) -> list[Observation]:
        """Two ranks log a line after step 5, in a second each; another one takes `third` seconds for a step."""
        made = []
        for rank, each in enumerate((1.0, 1.0, third)):
            lines = [(each * step, f"step {step}") for step in range(1, 100) if each * step <= now]
            saved = [(each * 5, "saved")] if each * 5 <= now and not (rank == 2 and skips) else []
            made.append(observed(rank, *lines, *saved, silence=now - lines[-1][0], longest=each))
        return made

    assert [named(insight_of(ranks(now, 3.0, skips=True)))[2] for now in (5.5, 8.0, 14.0, 18.5)] == [[], [], [], [2]]
    assert all(named(insight_of(ranks(now, 3.0, skips=False)))[2] == [] for now in (5.5, 8.0, 14.0, 15.0, 18.5))


def test_a_rank_that_logs_rarely_misses_no_line_of_the_others() -> None:
    others = [observed(rank, (100.0 + 4 * rank, "tick"), silence=30.0 - 4 * rank, longest=9.0) for rank in range(3)]
    rare = observed(3, (0.0, "starts"), (60.0, "works"), silence=70.0, longest=60.0)
    assert named(insight_of([*others, rare]))[2] == []
    never = Observation(3, silence=130.0)
    assert named(insight_of([*others, never]))[2] == [3], "it has not even begun"


@pytest.mark.parametrize("text", ["epoch {0} took {1} s", "epoch {0} of 3, seed {1}"])
def test_a_number_that_does_not_grow_within_an_epoch_is_no_step(text: str) -> None:
    lines = [(float(at), text.format(at // 4, 7 if "seed" in text else 9 - at % 4)) for at in range(9)]
    assert [each.label for each in insight_of([observed(0, *lines), observed(1, *lines)]).progress] == ["epoch"]


def test_a_silent_rank_is_named_with_its_last_line() -> None:
    ranks = [steps(rank, 9, 0.1, silence=0.1, longest=0.3, last_line="step 9") for rank in range(3)]
    found = insight_of([*ranks, steps(3, 5, 0.1, silence=60.0, longest=0.3, last_line="step 5")])
    assert found.silent == ((3, 60.0, "step 5"),)
    assert [each.state for each in found.ranks.values()] == ["running"] * 3 + ["silent"]


@pytest.mark.parametrize(
    "ranks",
    [
        [steps(rank, 9, 0.1, silence=60.0, longest=0.3) for rank in range(4)],  # all wait
        [steps(rank, 9, 0.1, silence=0.1, longest=40.0) for rank in range(3)] + [steps(3, 9, 0.1, silence=60.0)],
        [steps(rank, 9, 0.1, silence=0.1) for rank in range(3)] + [steps(3, 9, 0.1, silence=0.9)],
        [steps(rank, 9, 0.1, silence=0.1) for rank in range(3)] + [steps(3, 9, 0.1, silence=60.0, state="ended")],
        [steps(0, 9, 0.1, silence=60.0)],
    ],
)
def test_no_rank_is_silent_without_a_reason(ranks: list[Observation]) -> None:
    assert insight_of(ranks).silent == ()


def test_a_stopped_rank_stays_stopped_in_the_table_and_is_silent_too() -> None:
    ranks = [steps(rank, 9, 0.1, silence=0.1) for rank in range(3)]
    found = insight_of([*ranks, steps(3, 9, 0.1, silence=60.0, state="stopped")])
    assert found.ranks[3].state == "stopped"
    assert [rank for rank, *_ in found.silent] == [3]


def test_a_milestone_that_some_ranks_have_not_reached_is_missing() -> None:
    ranks = [observed(rank, (1.0, "epoch 1 done"), (2.0, "epoch 2 done"), (3.0, "epoch 3 done")) for rank in range(7)]
    found = insight_of([*ranks, observed(7, (1.0, "epoch 1 done"), (2.0, "epoch 2 done"), silence=4.0)])
    assert [(each.text, each.missing) for each in found.missing] == [("epoch 3 done", (7,))]
    assert found.missing[0].reached == tuple(range(7))
    assert "epoch 3 done: 7 of 8, missing 7" in str(found)


def test_a_line_without_a_number_is_a_milestone_too() -> None:
    ranks = [observed(rank, (1.0, "model loaded"), silence=3.0) for rank in range(3)]
    found = insight_of([*ranks, observed(3, (1.0, "hello"), silence=3.0)])
    assert [(each.text, each.missing) for each in found.missing] == [("model loaded", (3,))]


@pytest.mark.parametrize(
    "ranks",
    [
        [observed(rank, (1.0, f"worker {rank} ready")) for rank in range(4)],
        [steps(rank, 100 + rank, 0.1) for rank in range(4)],  # a step is no milestone
        [observed(0, (1.0, "only I")), *(observed(rank) for rank in range(1, 4))],
        [*(observed(rank, (1.0, "model loaded")) for rank in range(3)), observed(3, sampled=True)],
    ],
)
def test_nothing_is_missing_without_a_reason(ranks: list[Observation]) -> None:
    assert insight_of(ranks).missing == ()


def test_lines_of_few_ranks_are_different_and_warnings_come_first() -> None:
    common = [observed(rank, (1.0, "model loaded")) for rank in range(8)]
    odd = observed(5, (2.0, "cuda is warm"), level=logging.WARNING)
    chatty = observed(3, (1.0, "a cache was found"))
    main = observed(0, (1.0, "saved the checkpoint"))
    found = insight_of([*common, chatty, main, odd])
    assert [(each.text, each.level, each.ranks) for each in found.different] == [
        ("cuda is warm", logging.WARNING, (5,)),
        ("a cache was found", logging.INFO, (3,)),
        ("saved the checkpoint", logging.INFO, (0,)),
    ]


def test_lines_are_not_called_different_if_the_lines_of_others_were_not_all_examined() -> None:
    ranks = [observed(0, (1.0, "a")), *(observed(rank, (1.0, "b"), sampled=True) for rank in range(1, 4))]
    assert insight_of(ranks).different == ()


def test_failures_are_grouped_and_the_first_in_time_comes_first() -> None:
    place, other = ("ValueError", "/srv/train.py", 9), ("OSError", "", 0)
    found = insight_of(
        [
            Observation(0, failures={place: (5.0, "ValueError: a"), other: (9.0, "OSError")}),
            Observation(1, failures={place: (4.0, "ValueError: b")}),
            Observation(2, state="dead", silence=1.0, end="rank 2 (pid 7) ended by SIGKILL"),
            Observation(3, state="dead", end="rank 3 (pid 8) ended by exit code 1", failures={other: (8.0, "OSError")}),
        ]
    )
    assert [(each.signature, each.text, each.ranks, each.first_rank) for each in found.failures][-2:] == [
        ("ValueError at train.py:9", "ValueError: b", (0, 1), 1),
        ("OSError", "OSError", (0, 3), 3),
    ]
    assert found.failures[0].signature == "ended by SIGKILL"


def test_the_time_at_which_a_rank_died_of_which_nothing_was_seen_is_by_the_clocks_of_the_others_or_not_told() -> None:
    dead = Observation(7, state="dead", silence=30.0, end="the relay on far (pid 9) is gone, and with it rank 7")
    (failure,) = insight_of([dead, steps(0, 100, 1.0, silence=10.0)]).failures
    assert failure.first_time == 80.0
    (unknown,) = insight_of([dead]).failures
    assert unknown.first_time == 0.0
    assert "rank 7: the relay on far" in str(insight_of([dead]))


def test_the_text_fits_a_screen_and_the_data_is_json() -> None:
    ranks = [steps(rank, 9, 0.1, silence=0.1, last_line="step 9") for rank in range(100)]
    found = insight_of([*ranks, steps(100, 5, 0.1, silence=60.0, last_line="x" * 1000)])
    assert str(found).splitlines()[0] == "101 ranks: 100 running, rank 100 silent"
    assert len(str(found).splitlines()) < 40
    assert max(map(len, str(found).splitlines())) < 160
    data = json.loads(json.dumps(found.to_dict()))
    assert data.keys() == {"ranks", "silent", "progress", "missing", "different", "failures"}
    assert data["ranks"]["100"]["state"] == "silent"
    assert str(insight_of([])) == "0 ranks: nothing was received yet"


def test_the_text_cuts_the_long_name_of_a_progress() -> None:
    name = "y" * 300
    lasts = {0: 100, 1: 100, 2: 50}
    found = insight_of([observed(rank, *((at * 0.1, f"{name} {at}") for at in range(1, last))) for rank, last in lasts.items()])
    assert found.progress[0].label == name
    assert found.progress[0].behind == (2,)
    assert max(map(len, str(found).splitlines())) < 200


def test_only_the_wanted_ranks_are_compared() -> None:
    assert insight_of([steps(rank, 9, 0.1) for rank in range(4)], [1, 3]).ranks.keys() == {1, 3}


# -- properties --------------------------------------------------------------------------------------------------------

times = st.integers(0, 20).map(float)
texts = st.sampled_from(["step 1", "step 2", "step 3", "ready", "epoch 1 done", "epoch 2 done", "odd"])
observations = st.builds(
    lambda rank, lines, level, failures, others: observed(rank, *lines, level=level, failures=failures, **others),
    st.integers(0, 3),
    st.lists(st.tuples(times, texts), max_size=6),
    st.sampled_from([logging.INFO, logging.WARNING]),
    st.dictionaries(st.tuples(st.sampled_from("AB"), st.just("x"), st.integers(0, 1)), st.tuples(times, texts), max_size=3),
    st.fixed_dictionaries(
        {
            "state": st.sampled_from(STATES),
            "silence": times,
            "longest": times,
            "last_line": texts,
            "records": st.integers(0, 9),
            "rate": times,
            "errors": st.integers(0, 9),
            "sampled": st.booleans(),
            "end": st.sampled_from(["", "rank 1 (pid 2) ended by SIGKILL"]),
        }
    ),
)


@given(observations, observations, observations)
def test_merging_is_associative_and_commutative(a: Observation, b: Observation, c: Observation) -> None:
    a, b, c = (replace(each, rank=1) for each in (a, b, c))
    assert a.merged(b).merged(c) == a.merged(b.merged(c))
    assert a.merged(b) == b.merged(a)


@given(st.lists(observations, max_size=8), st.randoms())
def test_the_insight_depends_neither_on_the_order_nor_on_how_relays_group_the_ranks(
    ranks: list[Observation], random: object
) -> None:
    shuffled = list(ranks)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # a random.Random
    merged = [*by_rank(shuffled[:3]).values(), *by_rank(shuffled[3:]).values()]
    found: Insight = insight_of(ranks)
    assert found == insight_of(shuffled) == insight_of(merged)
    assert str(found) == str(insight_of(merged))


@given(observations)
def test_an_observation_survives_its_way_through_a_relay(each: Observation) -> None:
    assert Observation.of(unpack(pack(each.plain()))) == each


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), lambda inner: st.lists(inner).map(tuple)))
def test_malformed_observations_are_refused(plain: object) -> None:
    with pytest.raises(ProtocolError):
        Observation.of(plain)


def test_an_observation_with_an_invalid_field_is_refused() -> None:
    good = observed(1, (1.0, "step 1")).plain()
    for at, bad in [(0, "1"), (1, "odd"), (2, float("nan")), (13, ((20, "step #", 1, ()),)), (14, (("A", "x", 1, 0, "t"),))]:
        with pytest.raises(ProtocolError):
            Observation.of((*good[:at], bad, *good[at + 1 :]))
