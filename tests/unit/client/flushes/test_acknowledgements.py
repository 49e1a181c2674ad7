from __future__ import annotations

import itertools
import math
from concurrent.futures import Future
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshlog_handler.client.flushes.acknowledgements import FIRST_REQUEST, Acknowledgements, Pending, is_request
from meshlog_handler.client.flushes.flushes import explain_missing
from meshlog_handler.client.flushes.receipt import FlushReceipt

members = st.sampled_from(range(6))
groups = st.sets(members)


class Model(RuleBasedStateMachine):
    """The acknowledgements, and beside them the expected result of each pending one."""

    def __init__(self) -> None:
        super().__init__()
        self.acks: Acknowledgements[str] = Acknowledgements(self.completed, itertools.count(1))
        self.now = 100.0
        self.deadlines: dict[int, float] = {}
        self.asked: dict[int, frozenset[int]] = {}
        self.answers: dict[int, dict[int, str]] = {}
        self.done: dict[int, Pending[str]] = {}

    def completed(self, pending: Pending[str]) -> None:
        assert pending.number not in self.done
        self.done[pending.number] = pending

    def expect(self, number: int, member: int, answer: str) -> None:
        if member in self.asked.get(number, ()) and number not in self.done:
            self.answers[number].setdefault(member, answer)

    @rule(asked=groups, known=groups, timeout=st.sampled_from([0.0, 1.0, 10.0, math.inf]))
    def start(self, asked: set[int], known: set[int], timeout: float) -> None:
        number = self.acks.number()
        assert number == len(self.asked) + 1
        self.deadlines[number] = self.now + timeout
        self.asked[number] = frozenset(asked | known)
        self.answers[number] = dict.fromkeys(known, "known")
        answers = dict.fromkeys(known, "known")
        self.acks.start(number, Future(), asked, answers=answers, started=self.now, deadline=self.now + timeout)

    @rule(number=st.integers(-1, 30), member=members)
    def note(self, number: int, member: int) -> None:
        self.expect(number, member, "noted")
        self.acks.note(number, member, "noted")

    @rule(member=members)
    def end(self, member: int) -> None:
        for number in self.asked:
            self.expect(number, member, "ended")
        self.acks.note_all(member, "ended")

    @rule(number=st.integers(-1, 30))
    def give_up(self, number: int) -> None:
        for member in self.asked.get(number, ()):
            self.expect(number, member, "given up")
        self.acks.give_up(number, "given up")

    @rule(seconds=st.floats(0, 12))
    def expire(self, seconds: float) -> None:
        self.now += seconds
        for number, deadline in self.deadlines.items():
            for member in self.asked[number] if deadline <= self.now else ():
                self.expect(number, member, "late")
        self.acks.expire(self.now, "late")

    @rule()
    def close(self) -> None:
        for number, asked in self.asked.items():
            for member in asked:
                self.expect(number, member, "closed")
        self.acks.close("closed")
        assert len(self.acks) == 0

    @invariant()
    def each_is_complete_when_its_last_member_has_an_answer(self) -> None:
        assert self.done.keys() == {number for number, asked in self.asked.items() if self.answers[number].keys() == asked}
        for number, pending in self.done.items():
            assert pending.answers == self.answers[number]
            assert not pending.waiting
            for answer in ("noted", "ended"):
                assert set(pending.members(answer)) == {each for each, found in pending.answers.items() if found == answer}

    @invariant()
    def only_those_that_wait_are_kept(self) -> None:
        left = self.asked.keys() - self.done.keys()
        assert len(self.acks) == len(left)
        assert self.acks.deadline == min((self.deadlines[number] for number in left), default=None)
        for member in range(6):
            waits = [number for number in sorted(left) if member in self.asked[number] and member not in self.answers[number]]
            assert self.acks.waiting_for(member) == waits


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=25)


def test_an_answer_to_one_number_never_counts_for_another() -> None:
    done: list[int] = []
    acks: Acknowledgements[None] = Acknowledgements(lambda pending: done.append(pending.number), itertools.count())
    for number in (1, 2):
        acks.start(number, Future(), "ab")
    acks.note(1, "a", None)
    acks.note(2, "b", None)
    assert done == []
    acks.note(1, "b", None)
    assert done == [1]
    acks.note(1, "a", None)
    acks.note(2, "a", None)
    assert done == [1, 2]


def test_what_is_pending_is_found_by_its_future_until_it_is_complete() -> None:
    acks: Acknowledgements[str] = Acknowledgements(lambda pending: None, itertools.count())
    future: Future[Any] = Future()
    acks.start(5, future, "ab")
    acks.note(5, "a", "yes")
    pending = acks.of(future)
    assert pending is not None
    assert (pending.number, pending.waiting, pending.answers) == (5, {"b"}, {"a": "yes"})
    acks.note(5, "b", "no")
    assert acks.of(future) is None


def test_the_numbers_of_requests_differ_from_the_versions_of_flushes() -> None:
    assert is_request(FIRST_REQUEST)
    assert not is_request(FIRST_REQUEST - 1)


def test_the_message_names_the_missing_ranks_and_what_to_do() -> None:
    text = explain_missing(FlushReceipt(7, acked=(0, 1), missing=(2, 3, 5), dead=(4,), dropped=0, elapsed=10.04))
    assert text.startswith("flush 7 ended after 10.0 s: 2 of 6 answered, missing ranks 2-3,5.")
    assert "timeout" in text
    text = explain_missing(FlushReceipt(7, (0, 1), missing=(2, 3), dead=(), dropped=0, elapsed=10.0, hosts=("far1", "far2")))
    assert "missing ranks 2-3 on far1, far2. " in text
    assert "whose host cannot be reached" in text
