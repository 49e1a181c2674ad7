"""The slow link of the tests with several hosts: what it delays, drops and limits. Time is given by hand."""

from __future__ import annotations

import random

from tests.hosts.link import ROOM, Pace, Way


def way(pace: Pace) -> Way:
    made = Way(random.Random(1))
    made.pace = pace
    return made


def test_a_frame_arrives_at_once_without_a_pace() -> None:
    fast = way(Pace())
    fast.send(5.0, b"one")
    assert fast.due() == 5.0
    assert fast.arrived(5.0) == [b"one"]
    assert fast.due() is None


def test_frames_arrive_late_and_in_order_also_when_the_delay_ends() -> None:
    slow = way(Pace(delay=0.3))
    slow.send(1.0, b"one")
    slow.pace = Pace()
    slow.send(1.1, b"two")
    assert slow.arrived(1.2) == []
    assert slow.arrived(1.3) == [b"one", b"two"]


def test_a_part_is_lost() -> None:
    bad = way(Pace(loss=0.05))
    for _ in range(10_000):
        bad.send(1.0, b"frame")
    assert 9_400 < len(bad.arrived(1.0)) < 9_600


def test_a_rate_lets_frames_wait_and_drops_what_has_no_room() -> None:
    narrow = way(Pace(rate=1000.0))
    narrow.send(0.0, bytes(500))
    narrow.send(0.0, bytes(500))
    assert len(narrow.arrived(0.5)) == 1
    assert len(narrow.arrived(1.0)) == 1
    for _ in range(ROOM // 500):
        narrow.send(1.0, bytes(500))
    narrow.send(1.0, bytes(500))
    narrow.send(1.0, b"too many")
    assert len(narrow.arrived(1000.0)) == ROOM // 500 + 1
