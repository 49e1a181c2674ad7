"""Descriptors without an owner are closed in forked children, and their numbers may be reused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from meshlog_handler.system.descriptors_in_flight import DescriptorsInFlight

from ..forks import before_fork as before_fork
from ..forks import forked

DEADLINE = 30.0


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def in_flight() -> Iterator[DescriptorsInFlight]:
    in_flight = DescriptorsInFlight()
    yield in_flight
    in_flight.forget()


def test_forked_child_closes_descriptors_without_owner(in_flight: DescriptorsInFlight) -> None:
    held, owned = in_flight.take(os.pipe)
    in_flight.arrive([owned])

    def check() -> bool:
        in_flight.forget()
        return not is_open(held) and is_open(owned)

    assert forked(check)
    assert is_open(held)
    in_flight.close([held])
    assert not is_open(held)
    os.close(owned)


def test_reused_descriptor_number_is_not_closed(in_flight: DescriptorsInFlight) -> None:
    reader, writer = in_flight.take(os.pipe)
    in_flight.close([reader, writer])
    others = os.pipe()
    assert others == (reader, writer)
    in_flight.close([reader, writer])
    in_flight.forget()
    assert is_open(reader)
    assert is_open(writer)
    for fd in others:
        os.close(fd)


def test_descriptor_closed_by_program_does_not_keep_others_open(in_flight: DescriptorsInFlight) -> None:
    fds = in_flight.take(os.pipe)
    os.close(fds[0])
    in_flight.close(fds)
    assert not any(map(is_open, fds))
    fds = in_flight.take(os.pipe)
    os.close(fds[1])
    in_flight.forget()
    assert not any(map(is_open, fds))


def test_fork_waits_for_descriptors_being_opened(
    in_flight: DescriptorsInFlight, before_fork: list[Callable[[], object]]
) -> None:
    opened, resume = threading.Event(), threading.Event()
    fds: list[int] = []

    def make() -> list[int]:
        fds.extend(os.pipe())
        opened.set()
        assert resume.wait(DEADLINE)
        return fds

    thread = threading.Thread(target=in_flight.take, args=(make,))
    thread.start()
    assert opened.wait(DEADLINE)
    before_fork.append(resume.set)

    def check() -> bool:
        in_flight.forget()
        return not any(map(is_open, fds))

    assert forked(check)
    thread.join()
    in_flight.close(fds)


def test_fork_waits_for_descriptors_being_closed(
    in_flight: DescriptorsInFlight, before_fork: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fds = in_flight.take(os.pipe)
    closing, resume = threading.Event(), threading.Event()
    close = os.close

    def slow_close(fd: int) -> None:
        closing.set()
        assert resume.wait(DEADLINE)
        close(fd)

    def work() -> None:
        with in_flight.gate:
            in_flight.close(fds)

    monkeypatch.setattr("meshlog_handler.system.descriptors_in_flight.os.close", slow_close)
    thread = threading.Thread(target=work)
    thread.start()
    assert closing.wait(DEADLINE)
    before_fork.append(resume.set)
    assert forked(lambda: not any(map(is_open, fds)))
    thread.join()
