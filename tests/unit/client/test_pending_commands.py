from __future__ import annotations

from concurrent.futures import Future

import pytest

from meshlog_handler.client.pending_commands import UNANSWERED, Answers, PendingCommands
from meshlog_handler.protocol.messages import Answer


def started(orders: PendingCommands, *members: str) -> tuple[int, Future[Answers]]:
    request, future = orders.number(), Future[Answers]()
    orders.start(request, members, future)
    return request, future


def test_a_future_gets_all_answers_when_the_last_has_come() -> None:
    orders = PendingCommands()
    request, future = started(orders, "a", "b")
    orders.answer("a", Answer(request, None))
    assert not future.done()
    orders.answer("b", Answer(request, "refused"))
    assert future.result(0) == {"a": None, "b": "refused"}


def test_numbers_rise_and_are_no_versions_of_flushes() -> None:
    orders = PendingCommands()
    numbers = [orders.number() for _ in range(3)]
    assert numbers == sorted(set(numbers))
    assert all(map(PendingCommands.is_request, numbers))
    assert not PendingCommands.is_request(1_000_000)


def test_nobody_to_ask_is_answered_at_once() -> None:
    assert started(PendingCommands())[1].result(0) == {}


def test_answers_nobody_waits_for_count_for_nothing() -> None:
    orders = PendingCommands()
    request, future = started(orders, "a", "b")
    orders.answer("c", Answer(request, None))
    orders.answer("a", Answer(request + 1, None))
    orders.answer("a", Answer(request, "first"))
    orders.answer("a", Answer(request, "second"))
    orders.excuse("a", "ended")
    assert not future.done()
    orders.answer("b", Answer(request, None))
    orders.answer("b", Answer(request, "late"))
    assert future.result(0) == {"a": "first", "b": None}


def test_who_ends_is_excused_from_every_order() -> None:
    orders = PendingCommands()
    (_, one), (request, other) = started(orders, "a"), started(orders, "a", "b")
    orders.excuse("a", "ended")
    assert one.result(0) == {"a": "ended"}
    assert not other.done()
    orders.answer("b", Answer(request, None))
    assert other.result(0) == {"a": "ended", "b": None}


def test_giving_up_names_who_did_not_answer() -> None:
    orders = PendingCommands()
    request, future = started(orders, "a", "b")
    (_, unconcerned) = started(orders, "a")
    orders.answer("a", Answer(request, None))
    orders.give_up(request)
    orders.give_up(request)
    orders.give_up(request + 99)
    assert future.result(0) == {"a": None, "b": UNANSWERED}
    assert not unconcerned.done()


def test_closing_completes_everything() -> None:
    orders = PendingCommands()
    futures = [started(orders, "a", "b")[1] for _ in range(3)]
    orders.close("stopped")
    assert [future.result(0) for future in futures] == [{"a": "stopped", "b": "stopped"}] * 3


@pytest.mark.parametrize("members", ["", "a"])
def test_a_future_that_was_cancelled_harms_nobody(members: str) -> None:
    orders, future = PendingCommands(), Future[Answers]()
    request = orders.number()
    if not members:
        future.cancel()
    orders.start(request, members, future)
    future.cancel()
    orders.answer("a", Answer(request, None))
    _, next_one = started(orders, "a")
    orders.close("stopped")
    assert future.cancelled()
    assert next_one.result(0) == {"a": "stopped"}
