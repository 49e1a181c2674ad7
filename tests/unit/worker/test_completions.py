"""Requests that wait for the client's reply."""

from __future__ import annotations

from meshlog_handler.protocol.messages import Complete, Completed, Message
from meshlog_handler.worker.completions import CompletionRequests


def test_a_reply_ends_the_wait() -> None:
    completions = CompletionRequests()

    def post(message: Message) -> bool:
        assert isinstance(message, Complete)
        completions.note(Completed(message.number, True))
        return True

    assert completions.ask(post, float("inf"))


def test_a_request_after_the_end_of_the_connection_does_not_wait() -> None:
    completions = CompletionRequests()
    completions.close()
    assert not completions.ask(lambda message: True, float("inf"))


def test_a_request_at_the_end_of_the_connection_does_not_wait() -> None:
    completions = CompletionRequests()

    def post(message: Message) -> bool:
        completions.close()
        return True

    assert not completions.ask(post, float("inf"))
