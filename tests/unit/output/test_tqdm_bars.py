"""Lines above the bars of this process: they are written once, whatever state tqdm is in."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tqdm import tqdm

from meshlog_handler.output.tqdm_bars import write_above


@pytest.fixture
def drawn() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    with tqdm(total=2, file=stream, ncols=20, desc="bar") as bar:
        bar.refresh()
        yield stream


def lines_above(stream: io.StringIO) -> list[str]:
    """Write a line, and return the states that follow each return of the cursor."""

    def write() -> None:
        stream.write("line\n")

    stream.truncate(0)
    write_above(stream, write)
    return [state.strip() for state in stream.getvalue().replace("\0", "").replace("line\n", "\rline\r").split("\r") if state]


def test_a_line_stands_between_two_drawings_of_the_bar(drawn: io.StringIO) -> None:
    states = [state for state in lines_above(drawn) if state]
    assert states[0] == "line"
    assert states[1].startswith("bar")


def test_a_lock_that_another_thread_holds_leaves_the_bar_as_it_is(drawn: io.StringIO) -> None:
    found: list[list[str]] = []
    with tqdm.get_lock().th_lock:
        thread = threading.Thread(target=lambda: found.append(lines_above(drawn)))
        thread.start()
        thread.join(30)
    assert found == [["line"]]


@pytest.mark.parametrize("broken", ["get_lock", "external_write_mode"])
def test_another_tqdm_does_not_lose_the_line(drawn: io.StringIO, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise AttributeError(broken)

    monkeypatch.setattr(tqdm, broken, fail)
    assert lines_above(drawn) == ["line"]
    monkeypatch.undo()
