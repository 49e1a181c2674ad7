"""The estimate of how far a clock is ahead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.client.downstream.clocks import ClockEstimate

_SECONDS = st.floats(0, 100)


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(_SECONDS, _SECONDS), min_size=1, max_size=40))
def test_the_error_is_at_most_half_of_the_fastest_message(ahead: float, ways: list[tuple[float, float]]) -> None:
    estimate, at = ClockEstimate(), 1e9
    for there, back in ways:
        sent = at + ahead
        estimate.add(sent, at + there, sent + there + back)
        at += 1000
    fastest = min(there + back for there, back in ways[-32:])
    assert abs(estimate.ahead - ahead) <= fastest / 2 + 1e-3 or (estimate.ahead == 0 and abs(ahead) <= fastest + 1e-3)


def test_clocks_that_may_be_equal_count_as_equal() -> None:
    estimate = ClockEstimate()
    assert estimate.ahead == 0
    estimate.add(100.0, 100.4, 101.0)
    assert estimate.ahead == 0
    estimate.add(200.0, 190.0, 199.0)  # this clock was set
    assert estimate.ahead == 0
