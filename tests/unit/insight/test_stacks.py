"""Merged stacks: what is equal, what is odd, and how it reads."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.insight.call_tree import Frame, Unanswered
from meshlog_handler.insight.stacks import (
    Stacks,
    ThreadStack,
    decode_found,
    encode_threads,
    encode_unanswered,
    merge,
    parse_dump,
)
from meshlog_handler.protocol.codec import pack

MAIN = Frame("/job/train.py", 40, "main")
STEP = Frame("/job/train.py", 20, "step")
WAIT = Frame("/usr/lib/python3.11/threading.py", 629, "wait")
READ = Frame("/job/data.py", 7, "read")
LINES = {MAIN: "main()", STEP: "step(batch)", WAIT: "self._cond.wait()", READ: "os.read(fd, 1)"}


def stack(*frames: Frame, thread: str = "MainThread") -> ThreadStack:
    return ThreadStack(thread, frames, tuple(LINES[frame] for frame in frames))


def job(odd: int = 3, size: int = 4) -> list[tuple[int, tuple[ThreadStack, ...]]]:
    """Return the stacks of ranks that all wait, except for one that reads."""
    return [(rank, (stack(MAIN, STEP, READ) if rank == odd else stack(MAIN, STEP, WAIT),)) for rank in range(size)]


STOPPED = Unanswered(811, "stopped", "do_signal_stop", "did not answer in time")

frames = st.sampled_from([MAIN, STEP, WAIT, READ])
threads = st.builds(
    lambda name, calls: stack(*calls, thread=name),
    st.sampled_from(["MainThread", "Thread-1", "Thread-2", ""]),
    st.lists(frames),
)
silent = st.builds(
    Unanswered, st.none() | st.integers(1, 3), st.sampled_from(["stopped", ""]), st.just(""), st.sampled_from("ab")
)
processes = st.lists(st.tuples(st.integers(0, 9), st.lists(threads, max_size=4).map(tuple) | silent), max_size=12)


@given(processes, st.randoms(use_true_random=False))
def test_the_order_of_answers_has_no_influence(
    found: list[tuple[int, tuple[ThreadStack, ...] | Unanswered]], chance: random.Random
) -> None:
    shuffled = chance.sample(found, len(found))
    assert merge(shuffled) == merge(found)
    assert str(merge(shuffled)) == str(merge(found))


@given(processes)
def test_every_thread_is_in_one_group_and_every_rank_is_somewhere(
    found: list[tuple[int, tuple[ThreadStack, ...] | Unanswered]],
) -> None:
    merged = merge(found)
    answers = [(rank, each) for rank, each in found if not isinstance(each, Unanswered)]
    assert sum(group.thread_count for group in merged.groups) == sum(len(each) for _, each in answers)
    assert len({group.frames for group in merged.groups}) == len(merged.groups)
    assert {*merged.ranks, *merged.unanswered} == {rank for rank, _ in found}
    sizes = [len(group.ranks) for group in merged.groups]
    assert sizes == sorted(sizes, reverse=True)
    json.dumps(merged.to_dict())
    text = str(merged)
    assert all(frame.function in text for group in merged.groups for frame in group.frames)


@given(st.lists(threads))
def test_threads_are_the_same_after_the_way_to_the_client(stacks: list[ThreadStack]) -> None:
    assert decode_found(encode_threads(stacks)) == tuple(stacks)
    assert decode_found(encode_unanswered(STOPPED)) == STOPPED


@pytest.mark.parametrize(
    "value",
    [
        None,
        (1,),
        ("unanswered", 1, "stopped"),
        ("unanswered", "1", "", "", ""),
        (("MainThread", (("file", "1", "f", "x"),)),),
        (("MainThread", (("file", 1, "f"),)),),
        ((5, ()),),
        (("MainThread", 5),),
    ],
)
def test_malformed_stacks_are_unanswered(value: object) -> None:
    found = decode_found(pack(value))
    assert isinstance(found, Unanswered)
    assert "cannot be read" in found.reason


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    decode_found(data)


def odd_ranks(merged: Stacks) -> list[tuple[int, ...]]:
    return [group.ranks for group in merged.groups if group.odd]


def test_the_rank_that_is_elsewhere_is_odd() -> None:
    merged = merge(job())
    assert [group.ranks for group in merged.groups] == [(0, 1, 2), (3,)]
    assert odd_ranks(merged) == [(3,)]


def test_nothing_is_odd_without_a_majority() -> None:
    ways = (WAIT, READ, STEP, MAIN)
    assert odd_ranks(merge([(rank, (stack(MAIN, ways[rank]),)) for rank in range(4)])) == []
    assert odd_ranks(merge([(rank, (stack(MAIN, ways[rank]),)) for rank in range(2)])) == []


def test_a_thread_that_few_ranks_have_is_odd() -> None:
    found = [(rank, (stack(MAIN, WAIT), *((stack(READ, thread="reader-5"),) if rank == 5 else ()))) for rank in range(8)]
    assert odd_ranks(merge(found)) == [(5,)]


def test_names_of_threads_may_differ_in_numbers_between_ranks() -> None:
    found = [(rank, (stack(READ if rank == 2 else WAIT, thread=f"Thread-{rank} (work)"),)) for rank in range(4)]
    assert odd_ranks(merge(found)) == [(2,)]


def test_several_threads_of_a_rank_with_one_stack_are_one_group() -> None:
    merged = merge([(rank, tuple(stack(WAIT, thread=f"pool-{number}") for number in range(8))) for rank in range(3)])
    (group,) = merged.groups
    assert (group.ranks, group.thread_count, len(group.threads)) == ((0, 1, 2), 24, 8)
    assert "ranks 0-2, 24 threads: pool-0, pool-1, pool-2 and 5 more" in str(merged)


def test_a_source_line_that_one_rank_knows_is_that_of_all() -> None:
    bare = ThreadStack("MainThread", (MAIN,), ("",))
    (group,) = merge([(0, (bare,)), (1, (stack(MAIN),)), (2, (bare,))]).groups
    assert (group.ranks, group.sources) == ((0, 1, 2), ("main()",))


def test_the_text_is_a_tree_of_calls_with_ranks() -> None:
    merged = merge([*job(odd=5, size=8), (9, STOPPED)])
    assert str(merged).splitlines() == [
        "8 threads of 8 ranks; rank 9 without stacks",
        "",
        "ranks 0-7: MainThread",
        "  main (/job/train.py:40)  main()",
        "  step (/job/train.py:20)  step(batch)",
        "  ranks 0-4,6-7: MainThread",
        "    wait (threading.py:629)  self._cond.wait()",
        "  rank 5: MainThread  <-- differs from most ranks",
        "    read (/job/data.py:7)  os.read(fd, 1)",
        "",
        "without stacks:",
        "  rank 9, pid 811: stopped in do_signal_stop; did not answer in time",
    ]


def test_the_text_leaves_out_how_processes_and_threads_are_started() -> None:
    start = [Frame(f"/usr/lib/python3.11/{file}.py", 5, "run") for file in ("runpy", "multiprocessing/process", "threading")]
    begun = [ThreadStack("MainThread", (*start, each), ("",) * 4) for each in (STEP, STEP, READ)]
    merged = merge([(rank, (each,)) for rank, each in enumerate(begun)])
    assert str(merged).splitlines()[2:] == [
        "ranks 0-2: MainThread",
        "  ... 3 frames of the start",
        "  ranks 0-1: MainThread",
        "    step (/job/train.py:20)",
        "  rank 2: MainThread  <-- differs from most ranks",
        "    read (/job/data.py:7)",
    ]
    assert len(merged.to_dict()["groups"][0]["frames"]) == 4
    only = merge([(0, (ThreadStack("MainThread", tuple(start), ("",) * 3),))])
    assert str(only).splitlines()[3:] == ["  ... 2 frames of the start", "  run (threading.py:5)"]


def test_text_of_a_rank_cannot_control_the_terminal() -> None:
    evil = "\x1b[2J\n\u202e"
    merged = merge([(0, (ThreadStack(evil, (Frame(evil, 1, evil),), (evil,)),)), (1, Unanswered(1, evil, evil, evil))])
    assert all(each.isprintable() for each in str(merged).replace("\n", ""))
    assert len(str(merged).splitlines()) == 7


DUMP = """\
Current thread 0x00007f395b55f6c0 (most recent call first):
  File "/env/meshlog_handler/transport/channel.py", line 14 in receive
  File "/env/meshlog_handler/worker/runtime.py", line 152 in _run
  File "/lib/threading.py", line 982 in run
  File "/lib/threading.py", line 1045 in _bootstrap_inner
  File "/lib/threading.py", line 1002 in _bootstrap

Thread 0x00007f395b55f6c1 [loader] (most recent call first):
  File "/job/data.py", line ??? in read
  ...

Thread 0x00007f395c202b80 (most recent call first):
  Garbage-collecting
  File "/job/train.py", line 20 in step
  File "/job/train.py", line 40 in main
"""


def test_a_dump_is_read_without_the_threads_of_this_package() -> None:
    loader, main = parse_dump(DUMP, 0x7F395C202B80)
    assert loader == ThreadStack(
        "loader", (Frame("", 0, "outer frames are left out"), Frame("/job/data.py", 0, "read")), ("", "")
    )
    assert main == ThreadStack("MainThread", (MAIN, STEP), ("", ""))


@pytest.mark.parametrize("module", ["worker.runtime", "worker.forwarder", "client.log_client", "client.relay.uplink"])
def test_threads_of_this_package_are_known_by_the_files_that_it_has(module: str) -> None:
    found = find_spec(f"meshlog_handler.{module}")
    assert found is not None
    assert found.origin is not None
    assert parse_dump(DUMP.replace("/env/meshlog_handler/worker/runtime.py", found.origin), 0)[0].thread == "loader"


@given(st.text())
def test_any_text_is_read_as_a_dump(text: str) -> None:
    parse_dump(text, 0)


def test_ranks_without_stacks_for_one_reason_are_one_line() -> None:
    late = {rank: Unanswered(100 + rank, "sleeping", "", "its program did not call install()") for rank in range(1000)}
    text = str(merge([*late.items(), (1000, Unanswered(7, "stopped", "do_signal_stop", "it did not answer in time"))]))
    assert text.splitlines()[-2:] == [
        "  ranks 0-999: sleeping; its program did not call install()",
        "  rank 1000, pid 7: stopped in do_signal_stop; it did not answer in time",
    ]
