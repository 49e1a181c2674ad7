from __future__ import annotations

import logging
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.insight.observation import Observation
from meshlog_handler.insight.report import insight_of
from meshlog_handler.insight.watch import MAX_FAILURES, MAX_SERIES, Watch
from meshlog_handler.lines.captured import CapturedPipe
from meshlog_handler.lines.framer import LineFramer
from meshlog_handler.protocol.codec import pack, unpack
from meshlog_handler.protocol.decode import RecordDecoder

from ..crossing import IDENTITY, encode, make, no_side_file


class Rank:
    """A rank whose records and lines go to a watch, as at the client."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self.watch = Watch()
        identity = {**IDENTITY, "rank": rank}
        self.decoder = RecordDecoder(identity, no_side_file)
        base: dict[str, Any] = {**logging.makeLogRecord({}).__dict__, "args": ()}
        self.pipe = CapturedPipe(-1, "stderr", base=base, identity=identity, max_line=1 << 16)
        self.framer = LineFramer()
        self.total = 0

    def log(self, *records: logging.LogRecord, now: float = 0.0) -> None:
        items: list[Any] = []
        self.decoder.new_segment()
        self.decoder.decode(encode(records), 0, 1 << 30, items)
        self.total += len(items)
        self.watch.add_records(self.decoder, now, self.total)

    def print(self, data: bytes, now: float = 0.0) -> None:
        items = self.pipe.items(self.framer.feed(data, now), now)
        notable, self.pipe.notable = self.pipe.notable, []
        self.total += len(items)
        self.watch.add_lines(items, notable, now, self.total)

    def observed(self, now: float = 10.0) -> Observation:
        return Observation(self.rank, records=self.total).with_seen(self.watch.seen(self.decoder), now)


def counts(observed: Observation) -> dict[str, int]:
    return {shape: each.total for (_, shape), each in observed.series.items()}


def test_records_of_a_template_are_counted_and_the_first_and_the_latest_are_kept() -> None:
    rank = Rank()
    for second in range(100):
        rank.log(make("step %d loss=%.2f", second, 0.5, created=float(second)), make("hello", created=0.0), now=float(second))
    found = rank.observed(100.0)
    assert counts(found) == {"step # loss=#": 100, "hello": 100}
    samples = found.series[logging.INFO, "step # loss=#"].samples
    assert [sample.numbers for sample in samples][::3] == [(0.0, 0.5), (99.0, 0.5)]
    assert 0.5 < found.rate < 4


def test_times_that_no_calendar_has_are_left_out() -> None:
    rank = Rank()
    for created in (float("inf"), float("nan"), -1e300, 1e300):
        rank.log(make("step %d", 1, created=created), make(f"odd {created}", created=created))
    insight = insight_of([rank.observed()])
    assert insight_of([Observation.of(unpack(pack(rank.observed().plain())))]) == insight
    assert str(insight)


def test_a_run_of_one_schema_is_counted_like_single_records() -> None:
    rank = Rank()
    rank.log(*(make("step %d", step, created=float(step)) for step in range(50)))
    found = rank.observed()
    assert [sample.numbers for sample in found.series[logging.INFO, "step #"].samples] == [(0.0,), (49.0,)]
    assert counts(found) == {"step #": 50}


def test_f_strings_extras_and_texts_without_words_are_grouped_by_their_text() -> None:
    rank = Rank()
    rank.log(*(make(f"step {step}", created=float(step)) for step in range(20)))
    rank.log(*(make("%s", f"epoch {step} done", created=float(step)) for step in range(20)))
    rank.log(*(make("part %d", step, created=float(step), user=step) for step in range(20)))
    found = rank.observed()
    assert counts(found) == {"step #": 20, "epoch # done": 20, "part #": 20}
    assert found.series[logging.INFO, "step #"].newest.numbers == (19.0,)


def test_levels_are_counted_exactly_whatever_the_rate() -> None:
    rank = Rank()
    for _ in range(3):
        rank.log(*(make(f"odd {step}", levelno=logging.WARNING, levelname="WARNING") for step in range(900)))
        rank.log(*(make("bad %d", step, levelno=logging.ERROR, levelname="ERROR") for step in range(900)))
        rank.print(b"WARNING: low\nplain\n" * 1000)
    found = rank.observed()
    assert (found.warnings, found.errors) == (2700 + 3000, 2700)
    assert found.sampled


def test_lines_and_bars_are_grouped_by_their_text() -> None:
    rank = Rank()
    rank.print(b"".join(b"file %d of 90\n" % number for number in range(1, 13)))
    for done in (10, 20, 30):
        rank.print(b"\rEpoch 1:  %d%%|#####     | %d/100 [00:01<00:09,  9.50it/s]" % (done, done), float(done))
    found = insight_of([rank.observed()]).progress
    assert {each.label: each.maximum for each in found} == {"file": 12.0, "Epoch #": 30.0}


TRACEBACK = b"""Traceback (most recent call last):
  File "/srv/train.py", line 9, in <module>
    raise ValueError("no data")
ValueError: no data
"""


def test_a_printed_traceback_is_one_error_and_one_failure() -> None:
    rank = Rank()
    rank.print(b"before\n" + TRACEBACK[:60], 1.0)
    rank.print(TRACEBACK[60:] + b"after\n", 2.0)
    found = rank.observed()
    assert found.errors == 1
    assert found.failures == {("ValueError", "/srv/train.py", 9): (2.0, "ValueError: no data")}
    assert counts(found) == {"before": 1, "after": 1}


DUMP = b"""Fatal Python error: Segmentation fault

Thread 0x00007fc20abf66c0 (most recent call first):
  File "/srv/train.py", line 9 in load

Current thread 0x00007fc20c097b80 (most recent call first):
  File "/srv/train.py", line 3 in step
"""


def test_a_printed_dump_of_a_crash_is_one_error() -> None:
    rank = Rank()
    rank.print(DUMP + TRACEBACK + DUMP + b"ERROR: after\n", 1.0)
    found = rank.observed()
    assert found.errors == 4
    assert found.failures == {("ValueError", "/srv/train.py", 9): (1.0, "ValueError: no data")}


GROUP = b"""  + Exception Group Traceback (most recent call last):
  |   File "/srv/train.py", line 9, in <module>
  |     raise ExceptionGroup("several", [ValueError(1)])
  | ExceptionGroup: several (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/srv/train.py", line 3, in <module>
    | ValueError: 1
    +------------------------------------
"""


def test_a_printed_exception_group_is_one_error_and_one_failure() -> None:
    rank = Rank()
    rank.print(GROUP + b"ERROR: no data\n" + GROUP + GROUP, 1.0)
    found = rank.observed()
    assert found.errors == 4
    assert found.failures == {("ExceptionGroup", "/srv/train.py", 9): (1.0, "ExceptionGroup: several (1 sub-exception)")}


def test_a_logged_exception_is_a_failure() -> None:
    def fail() -> None:
        raise ValueError("no data")

    rank = Rank()
    try:
        fail()
    except ValueError:
        rank.log(make("failed", exc_info=sys.exc_info(), created=3.0, levelno=logging.ERROR, levelname="ERROR"))
    found = rank.observed()
    (((kind, file, line), failure),) = found.failures.items()
    assert (kind, file, line, failure) == (
        "ValueError",
        __file__,
        fail.__code__.co_firstlineno + 1,
        (3.0, "ValueError: no data"),
    )
    assert found.errors == 1


def test_the_memory_of_a_watch_is_bounded() -> None:
    rank = Rank()
    words = [f"{chr(97 + a)}{chr(97 + b)}{chr(97 + c)}" for a in range(26) for b in range(26) for c in range(4)]
    for second, word in enumerate(words):
        now = float(second * 100)
        rank.log(make(f"{word} %d", 1, created=now), make(word + "x" * 10_000, user=1), now=now)
        rank.print(f"{word}\n".encode() + TRACEBACK.replace(b"ValueError", word.encode()), now)
    found = rank.watch.seen(rank.decoder)
    assert found.sampled
    assert len(found.templates) <= MAX_SERIES
    assert len(found.texts) <= MAX_SERIES
    assert len(found.failures) <= MAX_FAILURES
    assert all(len(text) <= 512 for _, _, kept in found.texts for _, text in kept)
    assert found.count_levels() == (0, len(words))


def test_only_the_longest_silence_and_the_recent_rate_are_kept() -> None:
    rank = Rank()
    for now in (100.0, 101.0, 131.0, 132.0):
        rank.log(make("step %d", 1), now=now)
    found = rank.observed(133.0)
    assert found.longest == 30.0
    assert found.rate == (4 - 1) / (133.0 - 100.0)


lines = st.lists(st.sampled_from(["step 1", "step 2", "epoch 1 done", "odd", "ready"]), max_size=5)


@given(st.lists(lines, min_size=2, max_size=4), st.randoms())
def test_the_answer_does_not_depend_on_the_order_of_arrival_within_a_tick(ranks: list[list[str]], random: Any) -> None:
    def insight(order: list[int]) -> object:
        watched = [Rank(rank) for rank in range(len(ranks))]
        for rank in order:
            watched[rank].log(*(make(text, created=float(at)) for at, text in enumerate(ranks[rank])), now=5.0)
            watched[rank].print("".join(f"{text}\n" for text in ranks[rank]).encode(), 5.0)
        return insight_of(each.observed() for each in watched)

    order = list(range(len(ranks)))
    random.shuffle(order)
    assert insight(order) == insight(list(range(len(ranks))))
