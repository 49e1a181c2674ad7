from __future__ import annotations

from concurrent.futures import Future

import pytest

from meshlog_handler.client.pending_commands import UNANSWERED, Answers, PendingCommands
from meshlog_handler.protocol.messages import Answer, StacksAnswer


def started(commands: PendingCommands, *members: str) -> tuple[int, Future[Answers]]:
    request, future = commands.number(), Future[Answers]()
    commands.start(request, members, future)
    return request, future


def test_a_future_gets_all_answers_with_the_last_one() -> None:
    commands = PendingCommands()
    request, future = started(commands, "a", "b")
    commands.answer("a", Answer(request, None))
    assert not future.done()
    commands.answer("b", Answer(request, "refused"))
    assert future.result(0) == {"a": None, "b": "refused"}


def test_request_numbers_rise_and_differ_from_flush_versions() -> None:
    commands = PendingCommands()
    numbers = [commands.number() for _ in range(3)]
    assert numbers == sorted(set(numbers))
    assert all(map(PendingCommands.is_request, numbers))
    assert not PendingCommands.is_request(1_000_000)


def test_a_command_for_no_member_completes_at_once() -> None:
    assert started(PendingCommands())[1].result(0) == {}


def test_unexpected_answers_have_no_effect() -> None:
    commands = PendingCommands()
    request, future = started(commands, "a", "b")
    commands.answer("c", Answer(request, None))
    commands.answer("a", Answer(request + 1, None))
    commands.answer("a", Answer(request, "first"))
    commands.answer("a", Answer(request, "second"))
    commands.mark_ended("a", "ended")
    assert not future.done()
    commands.answer("b", Answer(request, None))
    commands.answer("b", Answer(request, "late"))
    assert future.result(0) == {"a": "first", "b": None}


def test_a_member_that_ends_completes_its_part_of_every_command() -> None:
    commands = PendingCommands()
    (_, one), (request, other) = started(commands, "a"), started(commands, "a", "b")
    commands.mark_ended("a", "ended")
    assert one.result(0) == {"a": "ended"}
    assert not other.done()
    commands.answer("b", Answer(request, None))
    assert other.result(0) == {"a": "ended", "b": None}


def test_giving_up_marks_the_members_that_did_not_answer() -> None:
    commands = PendingCommands()
    request, future = started(commands, "a", "b")
    (_, other) = started(commands, "a")
    commands.answer("a", Answer(request, None))
    commands.give_up(request)
    commands.give_up(request)
    commands.give_up(request + 99)
    assert future.result(0) == {"a": None, "b": UNANSWERED}
    assert not other.done()


def test_closing_completes_everything() -> None:
    commands = PendingCommands()
    futures = [started(commands, "a", "b")[1] for _ in range(3)]
    commands.close("stopped")
    assert [future.result(0) for future in futures] == [{"a": "stopped", "b": "stopped"}] * 3


@pytest.mark.parametrize("members", ["", "a"])
def test_a_cancelled_future_does_not_affect_other_commands(members: str) -> None:
    commands, future = PendingCommands(), Future[Answers]()
    request = commands.number()
    if not members:
        future.cancel()
    commands.start(request, members, future)
    future.cancel()
    commands.answer("a", Answer(request, None))
    _, next_one = started(commands, "a")
    commands.close("stopped")
    assert future.cancelled()
    assert next_one.result(0) == {"a": "stopped"}


def test_stacks_in_answers_are_kept_for_the_request_that_asked_for_them() -> None:
    commands = PendingCommands()
    other, _ = started(commands, "a")
    request, future = started(commands, "a", "b", "c")
    commands.keep_stacks(request)
    commands.answer("a", StacksAnswer(other, None, b"not asked for"))
    commands.answer("a", StacksAnswer(request, None, b"of a"))
    commands.answer("a", StacksAnswer(request, None, b"a second time"))
    commands.answer("b", Answer(request, "refused"))
    commands.answer("d", StacksAnswer(request, None, b"not a member"))
    assert commands.waiting_for(request) == {"c"}
    assert commands.take_stacks(request) == {"a": b"of a"}
    assert future.result(0) == {"a": None, "b": "refused", "c": UNANSWERED}
    assert commands.take_stacks(request) == {}
