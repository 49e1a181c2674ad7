from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.errors import ProtocolError
from meshlog_handler.protocol.frames import CONTROL, DATA, HEAD, MAX_FRAME, POSITION, FrameReader, data_head, frame

payloads = st.tuples(st.integers(0, 255), st.binary(max_size=50))


def pieces(data: bytes, cuts: set[int]) -> list[bytes]:
    """Split `data` at `cuts`, like a socket."""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[begin:end] for begin, end in zip(places, [*places[1:], len(data)], strict=True)]


@given(st.lists(payloads, max_size=8), st.sets(st.integers(0, 400)))
def test_frames_are_the_same_whatever_the_pieces(sent: list[tuple[int, bytes]], cuts: set[int]) -> None:
    reader = FrameReader()
    found = [each for piece in pieces(b"".join(frame(*each) for each in sent), cuts) for each in reader.feed(piece)]
    assert found == sent


@given(st.lists(payloads, min_size=1, max_size=4), st.integers(1, 60))
def test_an_incomplete_frame_is_not_returned(sent: list[tuple[int, bytes]], missing: int) -> None:
    stream = b"".join(frame(*each) for each in sent)
    cut = max(0, len(stream) - min(missing, len(frame(*sent[-1]))))
    reader = FrameReader()
    assert reader.feed(stream[:cut]) == sent[:-1]
    assert reader.feed(stream[cut:]) == sent[-1:]


@given(st.binary(max_size=200), st.sets(st.integers(0, 200)))
def test_any_bytes_are_frames_or_raise_protocol_error(data: bytes, cuts: set[int]) -> None:
    reader, found = FrameReader(64), []
    try:
        for piece in pieces(data, cuts):
            found += reader.feed(piece)
    except ProtocolError:
        return
    assert data.startswith(b"".join(frame(*each) for each in found))


@pytest.mark.parametrize("size", [0, 65, MAX_FRAME + 1, 0xFFFFFFFF])
def test_an_invalid_frame_size_is_rejected_at_once(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"a frame of {size} bytes; 1 to 64 are allowed"):
        FrameReader(64).feed(HEAD.pack(size, CONTROL))


def test_a_frame_of_the_maximum_size() -> None:
    assert FrameReader(64).feed(frame(CONTROL, bytes(63))) == [(CONTROL, bytes(63))]


def test_the_reader_holds_at_most_one_incomplete_frame() -> None:
    reader = FrameReader()
    assert reader.feed(frame(1, b"x" * 1000) * 50 + frame(2, b"unfinished")[:-1])[-1] == (1, b"x" * 1000)
    assert len(reader._rest) == len(frame(2, b"unfinished")) - 1


def test_the_head_of_a_data_frame() -> None:
    ((kind, payload),) = FrameReader().feed(data_head(7, 16, 5) + b"bytes")
    assert (kind, payload) == (DATA, POSITION.pack(7, 16) + b"bytes")
    assert struct.calcsize(POSITION.format) == 12
