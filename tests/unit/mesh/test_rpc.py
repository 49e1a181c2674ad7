"""Frames of calls, and the contents of a failure."""

from __future__ import annotations

from bdb import BdbQuit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler import ProtocolError, RankError
from meshlog_handler.mesh.pending_call import End, PendingCall
from meshlog_handler.mesh.rpc import CALL, CallFailure, CallFrameReader, head
from meshlog_handler.protocol.messages import decode

frames = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2**64 - 1), st.binary(max_size=200)))


@given(frames, st.integers(1, 64))
def test_frames_are_complete_however_the_bytes_are_split(sent: list[tuple[int, int, bytes]], piece: int) -> None:
    data = b"".join(head(kind, number, len(payload)) + payload for kind, number, payload in sent)
    reader = CallFrameReader()
    received = [frame for at in range(0, len(data), piece) for frame in reader.feed(data[at : at + piece])]
    assert received == sent


def test_an_incomplete_frame_is_not_returned() -> None:
    reader = CallFrameReader()
    assert reader.feed(head(CALL, 1, 100) + b"x" * 99) == []
    assert reader.feed(b"x") == [(CALL, 1, b"x" * 100)]


def test_an_invalid_frame_is_rejected() -> None:
    with pytest.raises(ProtocolError, match="unexpected frame of kind 255"):
        CallFrameReader().feed(b"\xff" * 100)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as found:
        return found


def test_a_failure_is_encoded_as_plain_data() -> None:
    failure = CallFailure.of(caught(ValueError("first\nsecond")), "elsewhere.py", b"pickle", "note: ")
    assert decode(failure.encode(), CallFailure) == failure
    assert failure.reason == "ValueError: note: first"
    assert failure.trace.endswith("ValueError: first\nsecond\n")
    assert "in caught" in failure.trace


def test_the_frames_of_the_caller_are_omitted() -> None:
    failure = CallFailure.of(caught(ValueError("x")), __file__, None)
    assert "in caught" in failure.trace  # all frames would be omitted, so all are kept
    with pytest.raises(ProtocolError) as raised:
        decode(b"", CallFailure)
    assert "test_the_frames" not in CallFailure.of(raised.value, __file__, None).trace


@pytest.mark.parametrize("error", [Unprintable(), ValueError("\udc80"), ValueError(), KeyError("k")])
def test_an_unusual_exception_is_encoded(error: Exception) -> None:
    failure = CallFailure.of(caught(error), "elsewhere.py", None)
    assert decode(failure.encode(), CallFailure).kind == type(error).__name__
    assert failure.reason.startswith(type(error).__name__)


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (-11, "ended by SIGSEGV"),
        (-9, "ended by SIGKILL"),
        (-35, "ended by signal 35"),
        (3, "ended with exit code 3"),
        (0, "ended with exit code 0"),
        (None, "ended by an unknown cause"),
    ],
)
def test_every_exit_code_has_a_description(exitcode: int | None, words: str) -> None:
    assert str(End.by(3, 811, exitcode)) == f"rank 3 (pid 811) {words}"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EOFError("EOF when reading a line"), True),
        (BdbQuit(), True),
        (EOFError("of a file"), False),
        (ValueError("EOF when reading a line"), False),
    ],
)
def test_a_call_that_reads_the_standard_input_is_told_that_there_is_none(error: Exception, told: bool) -> None:
    call = PendingCall(1, (0,), "the call of ask")
    call.failed(0, CallFailure.of(error, "", None))
    call.settle()
    with pytest.raises(RankError, match=r"^rank 0 failed in the call of ask: ") as caught:
        call.future().get()
    assert ("no standard input, which input() and breakpoint() need" in str(caught.value)) == told
    assert "standard input" not in caught.value.reasons[0]
