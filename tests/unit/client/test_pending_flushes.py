from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshlog_handler.client.pending_flushes import PendingFlush, PendingFlushes, explain_missing
from meshlog_handler.client.receipt import FlushReceipt

members = st.sampled_from(range(6))
groups = st.sets(members)


class Model(RuleBasedStateMachine):
    """The pending flushes, and beside them the expected result of each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.pending = PendingFlushes()
        self.now = 100.0
        self.flushes: list[PendingFlush] = []
        self.began: dict[int, frozenset[int]] = {}
        self.fate: dict[int, dict[int, str]] = {}
        self.done: set[int] = set()

    def completed(self, flushes: list[PendingFlush]) -> None:
        """Check the flushes that a call completed: exactly those that wait for no member, each once."""
        versions = [flush.version for flush in flushes]
        assert len(set(versions)) == len(versions)
        assert not self.done & set(versions)
        self.done.update(versions)
        assert self.done == {version for version, began in self.began.items() if self.fate[version].keys() == began}

    @rule(asked=groups, dead=groups, timeout=st.sampled_from([0.0, 1.0, 10.0, math.inf]))
    def start(self, asked: set[int], dead: set[int], timeout: float) -> None:
        flush = self.pending.start(asked | dead, self.now, timeout, dead)
        assert flush.version == len(self.flushes) + 1
        assert (flush.started, flush.deadline) == (self.now, self.now + timeout)
        self.flushes.append(flush)
        self.began[flush.version] = frozenset(asked | dead)
        self.fate[flush.version] = dict.fromkeys(dead, "dead")
        if not flush.waiting:
            self.done.add(flush.version)
        self.completed([])

    @rule(version=st.integers(-1, 30), member=members)
    def ack(self, version: int, member: int) -> None:
        counts = member in self.began.get(version, ()) and member not in self.fate[version]
        if counts:
            self.fate[version][member] = "acked"
        completed = self.pending.ack(version, member)
        assert [flush.version for flush in completed] in ([], [version])
        self.completed(completed)

    @rule(member=members)
    def mark_ended(self, member: int) -> None:
        for version, began in self.began.items():
            if member in began:
                self.fate[version].setdefault(member, "dead")
        self.completed(self.pending.mark_ended(member))

    @rule(seconds=st.floats(0, 12))
    def expire(self, seconds: float) -> None:
        self.now += seconds
        for flush in self.flushes:
            if flush.deadline <= self.now:
                for member in self.began[flush.version]:
                    self.fate[flush.version].setdefault(member, "missing")
        self.completed(self.pending.expire(self.now))

    @rule()
    def close(self) -> None:
        for version, began in self.began.items():
            for member in began:
                self.fate[version].setdefault(member, "missing")
        self.completed(self.pending.close())
        assert len(self.pending) == 0

    @invariant()
    def every_member_is_in_exactly_one_set(self) -> None:
        for flush in self.flushes:
            fate = self.fate[flush.version]
            for name in ("acked", "dead", "missing"):
                assert getattr(flush, name) == {member for member, found in fate.items() if found == name}
            assert flush.waiting == self.began[flush.version] - fate.keys()

    @invariant()
    def only_waiting_flushes_are_kept(self) -> None:
        waiting = [flush for flush in self.flushes if flush.version not in self.done]
        assert len(self.pending) == len(waiting)
        assert self.pending.deadline == min((flush.deadline for flush in waiting), default=None)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=25)


def test_an_answer_to_one_flush_never_counts_for_another() -> None:
    pending = PendingFlushes()
    first, second = pending.start("ab", 0.0, 10.0), pending.start("ab", 0.0, 10.0)
    assert pending.ack(first.version, "a") == []
    assert pending.ack(second.version, "b") == []
    assert pending.ack(first.version, "b") == [first]
    assert second.waiting == {"a"}
    assert pending.ack(first.version, "a") == []
    assert pending.ack(second.version, "a") == [second]


def test_an_answer_after_the_timeout_has_no_effect() -> None:
    pending = PendingFlushes()
    flush = pending.start("a", 0.0, 1.0)
    assert pending.expire(0.999) == []
    assert pending.expire(1.0) == [flush]
    assert pending.ack(flush.version, "a") == []
    assert (flush.missing, flush.acked) == ({"a"}, set())


def test_the_message_names_the_missing_ranks_and_what_to_do() -> None:
    text = explain_missing(FlushReceipt(7, acked=(0, 1), missing=(2, 3, 5), dead=(4,), dropped=0, elapsed=10.04))
    assert text.startswith("flush 7 ended after 10.0 s: 2 of 6 answered, missing ranks 2-3,5.")
    assert "timeout" in text
