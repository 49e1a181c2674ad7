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
def transit() -> Iterator[DescriptorsInFlight]:
    transit = DescriptorsInFlight()
    yield transit
    transit.forget()


def test_a_forked_child_closes_what_has_no_owner(transit: DescriptorsInFlight) -> None:
    held, owned = transit.take(os.pipe)
    transit.arrive([owned])

    def check() -> bool:
        transit.forget()
        return not is_open(held) and is_open(owned)

    assert forked(check)
    assert is_open(held)
    transit.close([held])
    assert not is_open(held)
    os.close(owned)


def test_a_number_that_is_somebody_elses_by_now_is_left_alone(transit: DescriptorsInFlight) -> None:
    reader, writer = transit.take(os.pipe)
    transit.close([reader, writer])
    others = os.pipe()
    assert others == (reader, writer)
    transit.close([reader, writer])
    transit.forget()
    assert is_open(reader)
    assert is_open(writer)
    for fd in others:
        os.close(fd)


def test_what_the_program_has_closed_keeps_no_other_open(transit: DescriptorsInFlight) -> None:
    fds = transit.take(os.pipe)
    os.close(fds[0])
    transit.close(fds)
    assert not any(map(is_open, fds))
    fds = transit.take(os.pipe)
    os.close(fds[1])
    transit.forget()
    assert not any(map(is_open, fds))


def test_a_fork_waits_for_descriptors_that_are_being_opened(
    transit: DescriptorsInFlight, before_fork: list[Callable[[], object]]
) -> None:
    opened, go_on = threading.Event(), threading.Event()
    fds: list[int] = []

    def make() -> list[int]:
        fds.extend(os.pipe())
        opened.set()
        assert go_on.wait(DEADLINE)
        return fds

    thread = threading.Thread(target=transit.take, args=(make,))
    thread.start()
    assert opened.wait(DEADLINE)
    before_fork.append(go_on.set)

    def check() -> bool:
        transit.forget()
        return not any(map(is_open, fds))

    assert forked(check)
    thread.join()
    transit.close(fds)


def test_a_fork_waits_for_descriptors_that_are_being_closed(
    transit: DescriptorsInFlight, before_fork: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fds = transit.take(os.pipe)
    closing, go_on = threading.Event(), threading.Event()
    close = os.close

    def slowly(fd: int) -> None:
        closing.set()
        assert go_on.wait(DEADLINE)
        close(fd)

    def work() -> None:
        with transit.gate:
            transit.close(fds)

    monkeypatch.setattr("meshlog_handler.system.descriptors_in_flight.os.close", slowly)
    thread = threading.Thread(target=work)
    thread.start()
    assert closing.wait(DEADLINE)
    before_fork.append(go_on.set)
    assert forked(lambda: not any(map(is_open, fds)))
    thread.join()
