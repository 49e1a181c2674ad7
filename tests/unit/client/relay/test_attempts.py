"""When a relay is tried again on a host."""

from __future__ import annotations

from meshlog_handler.client.relay.attempts import PAUSES_SEC, Attempts


def test_a_host_is_tried_again_after_growing_pauses_and_not_for_ever() -> None:
    attempts, now, tried = Attempts(), 100.0, 0
    assert attempts.due("a", now)
    for pause in PAUSES_SEC:
        tried += 1
        assert attempts.failed("a", now) == f"the next attempt follows in {pause:g} s"
        assert not attempts.due("a", now + pause - 0.1)
        now += pause
        assert attempts.due("a", now)
    assert attempts.failed("a", now) == "no other attempt is made"
    assert not attempts.due("a", now + 1e9)
    assert tried == len(PAUSES_SEC)


def test_a_host_that_had_a_relay_or_has_come_back_is_tried_at_once() -> None:
    attempts = Attempts()
    for host in ("a", "b", "c"):
        attempts.failed(host, 0.0)
    attempts.succeeded("a")
    attempts.keep(["a", "c"])
    assert [attempts.lacks(host) for host in ("a", "b", "c")] == [False, False, True]
    assert [attempts.due(host, 1.0) for host in ("a", "b", "c")] == [True, True, False]
    assert attempts.failed("a", 1.0) == f"the next attempt follows in {PAUSES_SEC[0]:g} s"
