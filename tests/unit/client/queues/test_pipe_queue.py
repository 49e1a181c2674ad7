"""Many items are read at once from the pipe of a queue, whatever their sizes, and however the pipe cuts them."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from typing import Any

import multiprocess
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshlog_handler.client.queues.pipe_queue import loader_of, reader_of

ITEMS = st.lists(st.binary(max_size=300) | st.integers(0, 200_000).map(bytes), min_size=1, max_size=12)


@settings(max_examples=40)
@given(ITEMS)
def test_what_was_put_is_read_in_order(items: list[bytes]) -> None:
    source: Any = multiprocessing.SimpleQueue()
    read = reader_of(source)
    assert read is not None
    load = loader_of(source)
    writer = threading.Thread(target=lambda: [source.put(item) for item in items])
    writer.start()
    found: list[object] = []
    while len(found) < len(items):
        found += map(load, read())
    writer.join()
    assert found == items
    source.close()


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
@pytest.mark.parametrize("library", [multiprocessing, multiprocess], ids=lambda library: library.__name__)
def test_a_bounded_queue_has_room_again(library: Any, kind: str) -> None:
    source = getattr(library, kind)(2)
    read = reader_of(source)
    assert read is not None
    load = loader_of(source)
    found: list[object] = []
    for number in range(20):
        source.put(number, timeout=10)
        if number % 2:
            while len(found) <= number:
                found += map(load, read())
    assert found == list(range(20))
    source.close()
    source.join_thread()
    with pytest.raises(OSError, match="closed"):
        read()


def test_the_end_of_the_pipe_is_an_error() -> None:
    source: Any = multiprocessing.SimpleQueue()
    read = reader_of(source)
    vars(source)["_writer"].close()
    assert read is not None
    with pytest.raises(EOFError):
        read()
    source.close()


class Other(type(multiprocessing.Queue())):  # type: ignore[misc]  # it has no public name
    """A queue of the program, which may have another `get`."""


def test_other_queues_are_not_read_in_this_way() -> None:
    other = Other(ctx=multiprocessing.get_context())
    assert [reader_of(each) for each in (queue.Queue(), queue.SimpleQueue(), object(), other)] == [None] * 4
    other.close()
