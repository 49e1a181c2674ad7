from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.insight.series import MAX_SAMPLES, Sample, Series, chosen, label_of, measure_call, measure_text

WHEN = 1_700_000_000.0

samples = st.builds(Sample, st.integers(0, 9).map(float), st.just((1.0,)), st.sampled_from(["a", "b"]))
all_series = st.builds(Series, st.integers(1, 9), st.lists(samples, min_size=1, max_size=9).map(chosen))


@given(all_series, all_series, all_series)
def test_merging_series_is_associative_and_commutative(a: Series, b: Series, c: Series) -> None:
    assert a.merged(b).merged(c) == a.merged(b.merged(c))
    assert a.merged(b) == b.merged(a)
    assert len(a.merged(b).samples) <= MAX_SAMPLES


@pytest.mark.parametrize(
    ("text", "shape", "numbers"),
    [
        ("step 12 loss=0.25", "step # loss=#", (12.0, 0.25)),
        ("file 12 of 90", "file # of #", (12.0, 90.0)),
        ("2024-05-06 12:13:14 step 3", "# # step #", (None, None, 3.0)),
        ("at 1700000001.5 step 3", "at # step #", (None, 3.0)),
        (" 45%|####5     | 45/100 [00:10<00:12,  4.50it/s]", "bar: #/#", (45.0, 100.0)),
        ("Epoch 3:  45%|████▌     | 1.5k/3k [00:10<00:12]", "Epoch #: #/#", (1500.0, 3000.0)),
        ("━━━━━╸━━━━  50% done", "# done", (50.0,)),
        ("no number", "no number", ()),
        ("from /tmp/x to 5", "from # to #", (None, 5.0)),
    ],
)
def test_a_text_has_a_shape_and_numbers(text: str, shape: str, numbers: tuple[float | None, ...]) -> None:
    found, sample = measure_text(text, WHEN)
    assert (found.removesuffix("%").strip(), sample.numbers) in [
        (shape, numbers),
        (shape.replace("# done", "#% done"), numbers),
    ]


def test_a_record_has_the_shape_of_its_template() -> None:
    assert measure_call("step %d of %s", (3, "eval"), "step 3 of eval", WHEN) == (
        "step # of #",
        Sample(WHEN, (3.0, None), "step 3 of eval"),
    )
    assert measure_call("%d%% of # %s", (3, "x"), "3% of # x", WHEN)[0] == "#% of # x", "by its text"
    assert measure_call("step 3", (), "step 3", WHEN)[0] == "step #"
    assert measure_call("%d", (10**400,), "1", WHEN)[1].numbers == (None,)


@pytest.mark.parametrize(
    ("shape", "place", "label"),
    [
        ("step # loss=#", 0, "step"),
        ("step # loss=#", 1, "loss"),
        ("# files read", 0, "files"),
        ("Epoch #: #/#", 0, "Epoch #"),
        ("bar: #/#", 0, "bar"),
        ("# #", 0, "# #"),
        ("no number, from a faulty relay", 3, "no number, from a faulty relay"),
    ],
)
def test_a_number_is_labelled_by_the_word_beside_it(shape: str, place: int, label: str) -> None:
    assert label_of(shape, place) == label
